"""docs/json.md says what is printed: every schema, every key, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.wire.control import SHAPES, Shape
from tests.cli.json_page import differs, printed, shapes
from tests.rules.planting import ROOT


def test_every_schema_that_is_printed_is_on_the_page() -> None:
    found = set()
    for file in (ROOT / "agent/edgewarden/cli").glob("*.py"):
        found |= set(re.findall(r'console\.json\(\s*"(edgewarden\.[a-z-]+/\d)"', file.read_text()))
    assert found == set(shapes())


def test_the_page_is_what_a_reader_is_held_to() -> None:
    """wire/control.py checks what link answers; the page says the same and more."""

    def missing(shape: Shape, page: object, at: str) -> list[str]:
        if isinstance(shape, list) and isinstance(page, list):
            return missing(shape[0], page[0], at)
        if not isinstance(shape, dict) or not isinstance(page, dict):
            return []
        names = {key.rstrip("?"): inner for key, inner in page.items()}
        lost = [f"{at}.{key}" for key in shape if key not in names]
        return lost + [m for k, v in shape.items() for m in missing(v, names.get(k), f"{at}.{k}")]

    pages = shapes()
    found = [m for c, shape in SHAPES.items() if c.schema in pages
             for m in missing(shape, pages[c.schema], c.schema)]  # fmt: skip
    assert found == []


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An agent that was never started."""
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir()
    policy = tmp_path / "policy.toml"
    policy.write_text('[[program]]\nname = "x"\nuid = "root"\nclass = "script"\n')
    file = tmp_path / "edgewarden.toml"
    file.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n'
        f'[exec]\npolicy = "{policy}"\n'
    )
    return file


COMMANDS = {
    "status": "status --json --settings S",
    "doctor": "doctor --json --settings S",
    "explain": "explain --json",
    "config show": "config show --json --settings S",
    "config check": "config check S --json",
    "policy check": "policy check P --json --settings S",
    "policy show": "policy show --json --settings S",
    "config check, faulty": "config check BAD --json",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_printed_without_an_agent(
    name: str, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = settings.with_name("bad.toml")
    bad.write_text("[paths]\nstat = 1\n")
    known = {"S": str(settings), "P": str(settings.with_name("policy.toml")), "BAD": str(bad)}
    main([known.get(word, word) for word in COMMANDS[name].split()])
    out = capsys.readouterr().out
    if not out:
        pytest.fail(f"`{name}` printed nothing")
    assert printed(out) == []


def test_a_key_too_many_or_too_few_is_seen() -> None:
    shape = {"a": "int", "b?": "text|null", "c": {"(or null)": True, "*": ["bool"]}}
    assert differs({"a": 1, "c": None}, shape) == []
    assert differs({"a": True, "b": 1, "c": {"x": [1]}, "d": 0}, shape) == [
        ".d is not on the page",
        ".a is bool, not int",
        ".b is int, not text|null",
        ".c.x[0] is int, not bool",
    ]
    assert differs({"c": {}}, shape) == [".a is missing"]
