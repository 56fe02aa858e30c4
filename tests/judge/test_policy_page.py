"""docs/policy.md is true: its examples are read, compiled against its baseline and asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgewarden.judge.critical import Critical, with_critical
from edgewarden.judge.exec_table import Table, compile_table
from edgewarden.judge.programs import Selected, select
from edgewarden.settings.policy import load_policy
from edgewarden.settings.reference import policy_reference
from edgewarden.settings.source import SourceFile
from edgewarden.wire.baseline import Baseline
from tests.fakes.subject import Someone

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text()
BLOCK = re.compile(r"```(toml|baseline|notes)\n(.*?)```\n", re.DOTALL)
ROW = re.compile(r"\| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (allow|deny|not) (\S+) \|")


def baseline() -> Baseline:
    (text,) = [text for kind, text in BLOCK.findall(PAGE) if kind == "baseline"]
    return Baseline.load(text.encode())


def examples() -> list[tuple[str, str]]:
    """(TOML, what follows it up to the next block)."""
    found = [m for m in BLOCK.finditer(PAGE) if m[1] == "toml"]
    ends = [m.start() for m in found[1:]] + [len(PAGE)]
    return [(m[2], PAGE[m.end() : end]) for m, end in zip(found, ends, strict=True)]


def programs() -> list[tuple[str, str]]:
    return [(text, rest) for text, rest in examples() if "[[program]]" in text]


def chosen(text: str) -> Selected:
    return select(load_policy(SourceFile("p", text)).program, baseline(), {"root": 0}.get)


@pytest.mark.parametrize(("text", "rest"), examples(), ids=range(len(examples())))
def test_every_example_can_be_read(text: str, rest: str) -> None:
    load_policy(SourceFile("policy.toml", text))


@pytest.mark.parametrize(("text", "rest"), programs(), ids=range(len(programs())))
def test_every_verdict_of_the_page_is_the_tables(text: str, rest: str) -> None:
    known = baseline()
    digests = {entry.path: entry.sha256 for entry in known.entries}
    found = chosen(text)
    table = Table.load(compile_table(*with_critical(found, Critical((), (), ()))))
    rows = ROW.findall(rest.partition("\n#")[0])
    for uid, unit, parent, path, action, name in rows:
        place = f"/system.slice/{unit}" if unit.endswith(".service") else f"/user.slice/{unit}"
        subject = Someone(int(uid), digests[known.resolve(parent)], place)
        rule = table.decide(digests[known.resolve(path)], subject)
        said = ("not", "allowed") if rule is None else ("deny", rule.name)
        if rule is not None and rule.allow:
            said = ("allow", rule.name)
        assert said == (action, name), path
    notes = re.search(r"```notes\n(.*?)```", rest, re.DOTALL)
    assert rows or notes
    told = [f"{note.rule}: {note.text}" for note in found.notes]
    assert told == (notes[1].splitlines() if notes else [])


def test_the_page_has_its_examples() -> None:
    assert len(programs()) >= 5
    assert len(ROW.findall(PAGE)) >= 14


def test_the_keys_are_the_schemas() -> None:
    at = PAGE.index("## Keys")
    assert PAGE[at:] == policy_reference(), "print it: `edgewarden config reference --policy`"
