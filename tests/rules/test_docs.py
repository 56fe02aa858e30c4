"""The documents tell the truth where a tool can see it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.contracts import parse_rows
from tests.rules.planting import ROOT

PAGES = sorted(
    p
    for p in [*ROOT.glob("*.md"), *ROOT.glob("agent/*.md"), *ROOT.glob("docs/**/*.md")]
    if not p.name.startswith(".")
)
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
ADR_LINES = 100


def defined(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def missing_tests(text: str) -> list[str]:
    """Test ids in a page that no test answers to."""
    found = []
    for file, name in TEST_ID.findall(text):
        path = ROOT / file
        if not path.exists() or (name and name not in defined(path)):
            found.append(f"{file}::{name}")
    return found


def threats(text: str) -> Iterator[tuple[str, str]]:
    """(threat's id, its row) of the threat model's tables."""
    for line in text.splitlines():
        match = re.match(r"\| (T\d+) \|", line)
        if match:
            yield match.group(1), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_named_test_exists(page: Path) -> None:
    assert missing_tests(page.read_text()) == []


def test_a_named_test_that_is_gone_is_seen() -> None:
    page = "| T1 | x | `tests/rules/test_docs.py::test_nobody_wrote` `tests/gone.py` |"
    assert missing_tests(page) == ["tests/rules/test_docs.py::test_nobody_wrote", "tests/gone.py::"]


def test_every_threat_names_a_test() -> None:
    rows = list(threats((ROOT / "docs/threat-model.md").read_text()))
    assert len(rows) >= 30
    names = [i for i, _ in rows]
    assert len(names) == len(set(names)), "a name stands for one threat; it stays when others go"
    assert [i for i, row in rows if not TEST_ID.search(row) and "**not defended**" not in row] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = [to for to in LINK.findall(page.read_text()) if not (page.parent / to).exists()]
    assert dead == []


def test_decisions_are_short_and_say_what_was_rejected() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    assert len(pages) >= 5
    for page in pages:
        text = page.read_text()
        assert len(text.splitlines()) < ADR_LINES, page.name
        assert "## Rejected" in text or "rejected" in text.lower(), page.name


def map_rows(text: str) -> dict[str, set[str]]:
    """Room -> what it may import, from the map's table."""
    rows = {}
    for room, may in re.findall(r"^\| (\w+)/ \|[^|]*\| ([^|]+) \|$", text, re.MULTILINE):
        everything = may == "everything above"
        rows[room] = {"*"} if everything else set(may.replace(",", " ").split()) - {"-"}
    return rows


def test_the_map_and_the_contract_say_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "law-1"]
    table = parse_rows(contract["rows"])
    rooms = map_rows((ROOT / "agent/README.md").read_text())
    assert len(rooms) >= 12
    for room, may in rooms.items():
        assert may == table[room], room


def test_every_room_is_on_the_map() -> None:
    here = {p.parent.name for p in (ROOT / "agent/edgewarden").glob("*/__init__.py")}
    assert here == set(map_rows((ROOT / "agent/README.md").read_text()))
