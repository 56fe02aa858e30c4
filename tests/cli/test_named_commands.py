"""Every command that a page, a code's next step or a message names exists and takes these words.

What somebody is told to type at two in the morning has to be there. Placeholders (FILE, ID, TIME)
and what a message fills in stand for any word; of alternatives (a|b) each is tried; a command named
without what it requires is taken as its name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.cli import main as gateway
from edgewarden.cli.policy import REFUSED
from edgewarden.gate.sessions import REFUSALS
from edgewarden_fleet.cli import main as fleet
from tests.rules.planting import ROOT

SPAN = re.compile(r"`(?:sudo )?(edgewarden(?:-fleet)?) ([^`]+)`")
LINE = re.compile(r"^(?:    )?(?:sudo )?(edgewarden(?:-fleet)?) (.+)$", re.MULTILINE)
FILES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "agent/README.md",
    *ROOT.glob("agent/**/*.py"), *ROOT.glob("agent/**/*.toml"), *ROOT.glob("systemd/*"),
    *ROOT.glob("deploy/deb/*"),
]  # fmt: skip
NO_COMMAND = re.compile(r"^(?:lost segment|COMMAND|\{|X |replace$)")
"""A format's name that begins with the program's; where the command itself is filled in; and the
fleet's `replace`, which store/lineage.py was written for."""


def named(text: str, *, lines: bool) -> Iterator[tuple[str, str]]:
    """(program, words) of every command in a text."""
    yield from SPAN.findall(text)
    if lines:
        for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
            yield from LINE.findall(block)
        yield from LINE.findall("\n".join(r for r in text.split("\n") if r.startswith("    ")))


def spellings(words: str) -> list[list[str]]:
    """What to try for a command as it stands on a page."""
    words = re.split(r"\s#\s|\s#$|\s[>|&]|;|\.\.\.", f"{words} ")[0]
    words = re.sub(r"(?<=\w)\{[^}]*\}", "", words)
    words = re.sub(r"\{[^}]*\}", "X", words)
    words = re.sub(r"\[[^\]]*\]", "", words)
    words = words.replace("TIME", "10m")
    return [list(one) for one in itertools.product(*(word.split("|") for word in words.split()))]


def refusal(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says to the words, "" when it takes them."""
    top = {"edgewarden": gateway, "edgewarden-fleet": fleet}[program]
    noun = next((word for word in words if not word.startswith("-")), None)
    try:
        top.parser(noun).parse_args(words)
    except SystemExit as ended:
        said = capsys.readouterr().err
        return "" if not ended.code or re.search(r"arguments .*(is|are) required", said) else said
    return ""


def files() -> list[Path]:
    return sorted(p for p in FILES if p.is_file() and "__pycache__" not in p.parts)


@pytest.mark.parametrize("file", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_is_named_can_be_typed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        text = file.read_text()
    except UnicodeDecodeError:
        return
    found = []
    for program, words in named(text, lines=file.suffix == ".md"):
        if NO_COMMAND.match(words):
            continue
        for one in spellings(words):
            said = refusal(program, one, capsys)
            if said:
                found.append(f"{program} {' '.join(one)}: {said.splitlines()[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("policy enforce --confirm 10m", True),
        ("policy enforce network --confirm TIME", True),
        ("confine show|apply|revert", True),
        ("enroll", True),
        ("policy explode", False),
        ("status --loud", False),
        ("handover", False),
    ],
)
def test_a_command_that_is_not_there_is_seen(
    words: str, taken: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [refusal("edgewarden", one, capsys) for one in spellings(words)]
    assert all(not one for one in said) is taken


def test_every_refusal_of_a_confirmation_has_its_own_code_and_step() -> None:
    assert set(REFUSALS) <= set(REFUSED)
    assert {REFUSED[name][0] for name in REFUSALS} == {"EW-EXEC-026"}
