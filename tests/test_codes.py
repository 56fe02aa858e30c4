"""The catalogue and the source know the same codes, and every entry says something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgewarden import codes

AGENT = Path(__file__).parents[1] / "agent"
CATALOGUE = codes.catalogue()


def used() -> dict[str, str]:
    """Every code that stands in a string of the source -> where."""
    found: dict[str, str] = {}
    for path in sorted(AGENT.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) in docs:
                    continue
                for code in codes.CODE_FORM.findall(node.value):
                    found.setdefault(code, f"{path.relative_to(AGENT)}:{node.lineno}")
    return found


def test_every_code_of_the_source_can_be_explained() -> None:
    missing = {code: where for code, where in used().items() if code not in CATALOGUE}
    assert not missing, "add them to agent/edgewarden/codes.toml"


def test_every_code_of_the_catalogue_is_used() -> None:
    unused = sorted(set(CATALOGUE) - set(used()))
    assert not unused, "nothing raises or reports these: remove them from codes.toml"


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.code)
def test_every_entry_says_something(entry: codes.Entry) -> None:
    assert codes.CODE_FORM.fullmatch(entry.code)
    assert entry.code.split("-")[1] in codes.AREAS
    assert 10 <= len(entry.title) <= 70
    assert entry.title[0].islower()
    assert not entry.title.endswith(".")
    assert entry.meaning.endswith(".")
    assert entry.causes
    assert all(entry.causes)
    assert entry.next_step
    assert entry.next_step.isascii()


@pytest.mark.parametrize("typed", ["EW-SET-004", "ew-set-4", " ew_set_004 ", "set 4", "SET-004"])
def test_a_code_is_found_however_it_is_typed(typed: str) -> None:
    entry = codes.explain(typed)
    assert entry is not None
    assert entry.code == "EW-SET-004"


def test_an_unknown_code_has_neighbours() -> None:
    assert codes.explain("EW-SET-999") is None
    assert "EW-SET-009" in codes.nearest("EW-SET-099")
    assert codes.nearest("what") == []
