"""The allowlist file: strict, all faults at once, duplicates named with the line of the first."""

from __future__ import annotations

import pytest

from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.policy import MAX_ENTRIES, Allow, Policy, load_policy
from edgewarden.settings.source import SourceFile

ONE, TWO = "1" * 64, "2" * 64


def entry(name: str, sha256: str) -> str:
    return f'[[allow]]\nname = "{name}"\nsha256 = "{sha256}"\n'


def faults_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsFaults) as caught:
        load_policy(SourceFile("policy.toml", text))
    return [(f.line, f.path, f.code) for f in caught.value.faults]


def test_a_policy_is_read_in_order() -> None:
    policy = load_policy(SourceFile("p", entry("demo-tool", ONE) + entry("/usr/bin/true", TWO)))
    assert policy == Policy(
        (Allow("demo-tool", b"\x11" * 32), Allow("/usr/bin/true", b"\x22" * 32))
    )


def test_an_empty_policy_allows_nothing() -> None:
    assert load_policy(SourceFile("p", "# nothing\n")) == Policy(())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (entry("a", ONE[:-1]), [(3, "allow[0].sha256", "EW-SET-008")]),
        (entry("a", ONE[:-1] + "G"), [(3, "allow[0].sha256", "EW-SET-008")]),
        (entry("a", "A" * 64), [(3, "allow[0].sha256", "EW-SET-008")]),
        (entry("a\\n", ONE), [(2, "allow[0].name", "EW-SET-008")]),
        (entry("", ONE), [(2, "allow[0].name", "EW-SET-008")]),
        ('[[allow]]\nname = "a"\n', [(1, "allow[0]", "EW-SET-007")]),
        (f'[[allow]]\nsha256 = "{ONE}"\n', [(1, "allow[0]", "EW-SET-007")]),
        (entry("a", ONE) + "note = 1\n", [(4, "allow[0].note", "EW-SET-003")]),
        (entry("a", ONE) + entry("a", TWO), [(5, "allow[1].name", "EW-SET-009")]),
        (entry("a", ONE) + entry("b", ONE), [(6, "allow[1].sha256", "EW-SET-009")]),
        ("[[deny]]\nname = 'a'\n", [(1, "deny", "EW-SET-003")]),
        ("allow = 3\n", [(1, "allow", "EW-SET-004")]),
        ("[allow]\nname = 'a'\n", [(1, "allow", "EW-SET-004")]),
        ("[[allow]]\nname = 3\nsha256 = 4\n", [
            (2, "allow[0].name", "EW-SET-004"), (3, "allow[0].sha256", "EW-SET-004"),
        ]),
        ("[[allow]]\nname =\n" + entry("b", "zz"), [
            (2, "", "EW-SET-002"), (5, "allow[1].sha256", "EW-SET-008"),
        ]),
    ],
)  # fmt: skip
def test_every_fault_is_named(text: str, wanted: list[tuple[int, str, str]]) -> None:
    assert faults_of(text) == wanted


def test_a_duplicate_names_the_line_of_the_first() -> None:
    with pytest.raises(SettingsFaults, match="already in the entry of line 3"):
        load_policy(SourceFile("p", entry("a", ONE) + entry("b", ONE)))


def test_too_many_entries_are_refused() -> None:
    text = "".join(entry(f"n{i}", f"{i:064x}") for i in range(MAX_ENTRIES + 1))
    assert faults_of(text) == [(1, "allow", "EW-SET-005")]
    fits = "".join(entry(f"n{i}", f"{i:064x}") for i in range(MAX_ENTRIES))
    assert len(load_policy(SourceFile("p", fits)).allow) == MAX_ENTRIES
