"""The policy file: strict, all faults at once, every rule named, first match in the order it was
written."""

from __future__ import annotations

import pytest

from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.policy import MAX_PROGRAM_RULES, Policy, load_policy
from edgewarden.settings.policy_programs import MAX_VALUES, Program
from edgewarden.settings.source import SourceFile

ONE, TWO = "1" * 64, "2" * 64


def entry(name: str, sha256: str) -> str:
    return f'[[program]]\nname = "{name}"\nsha256 = "{sha256}"\n'


def rule(line: str, action: str = "allow") -> str:
    return f'[[program]]\nname = "a"\naction = "{action}"\n{line}\n'


def faults_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsFaults) as caught:
        load_policy(SourceFile("policy.toml", text))
    return [(f.line, f.path, f.code) for f in caught.value.faults]


def test_a_policy_is_read_in_order() -> None:
    policy = load_policy(SourceFile("p", entry("demo-tool", ONE) + entry("/usr/bin/true", TWO)))
    assert policy == Policy(
        program=(
            Program(name="demo-tool", sha256=(ONE,)),
            Program(name="/usr/bin/true", sha256=(TWO,)),
        )
    )


def test_every_key_takes_one_value_or_a_list() -> None:
    text = """\
[[program]]
name = "collector"
action = "deny"
sha256 = ["{ONE}", "{TWO}"]
path = ["/opt/x/*", "/usr/bin/true"]
package = ["*", "-", "libc6:armhf", "g++-12"]
class = ["interpreter", "shell"]
uid = [0, "1000-1999", "www-data"]
parent = "/usr/sbin/cron"
unit = ["cron.service", "user-*.slice", "getty@tty1.service", "dev-disk\\\\x2d1.mount"]
""".replace("{ONE}", ONE).replace("{TWO}", TWO)
    (one,) = load_policy(SourceFile("p", text)).program
    assert one == Program(
        name="collector",
        action="deny",
        sha256=(ONE, TWO),
        path=("/opt/x/*", "/usr/bin/true"),
        package=("*", "-", "libc6:armhf", "g++-12"),
        class_=("interpreter", "shell"),
        uid=("0", "1000-1999", "www-data"),
        parent=("/usr/sbin/cron",),
        unit=("cron.service", "user-*.slice", "getty@tty1.service", "dev-disk\\x2d1.mount"),
    )
    assert load_policy(SourceFile("p", rule("uid = 7\npackage = '*'"))).program[0].uid == ("7",)


def test_an_empty_policy_allows_nothing() -> None:
    assert load_policy(SourceFile("p", "# nothing\n")) == Policy()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (entry("a", ONE[:-1]), [(3, "program[0].sha256", "EW-SET-008")]),
        (entry("a", ONE[:-1] + "G"), [(3, "program[0].sha256", "EW-SET-008")]),
        (entry("a", "A" * 64), [(3, "program[0].sha256", "EW-SET-008")]),
        (entry("a\\n", ONE), [(2, "program[0].name", "EW-SET-008")]),
        (entry("", ONE), [(2, "program[0].name", "EW-SET-008")]),
        ('[[program]]\nname = "a"\n', [(1, "program[0]", "EW-SET-007")]),
        (f'[[program]]\nsha256 = "{ONE}"\n', [(1, "program[0]", "EW-SET-007")]),
        (entry("a", ONE) + "note = 1\n", [(4, "program[0].note", "EW-SET-003")]),
        (entry("a", ONE) + entry("a", TWO), [(5, "program[1].name", "EW-SET-009")]),
        ("[[deny]]\nname = 'a'\n", [(1, "deny", "EW-SET-003")]),
        ("[[allow]]\nname = 'a'\n", [(1, "allow", "EW-SET-003")]),
        ("program = 3\n", [(1, "program", "EW-SET-004")]),
        ("[program]\nname = 'a'\n", [(1, "program", "EW-SET-004")]),
        ("[[program]]\nname = 3\nsha256 = 4\n", [
            (2, "program[0].name", "EW-SET-004"), (3, "program[0].sha256", "EW-SET-004"),
        ]),
        ("[[program]]\nname =\n" + entry("b", "zz"), [
            (2, "", "EW-SET-002"), (5, "program[1].sha256", "EW-SET-008"),
        ]),
        (rule("action_ = 1\nsha256 = []"), [
            (4, "program[0].action_", "EW-SET-003"), (5, "program[0].sha256", "EW-SET-005"),
        ]),
        (rule("package = '*'", "maybe"), [(3, "program[0].action", "EW-SET-006")]),
        (rule("package = 'Coreutils'"), [(4, "program[0].package", "EW-SET-008")]),
        (rule("package = ['a1', 'a1']"), [(4, "program[0].package", "EW-SET-009")]),
        (rule("package = ['a1', 3]"), [(4, "program[0].package", "EW-SET-004")]),
        (rule("path = 'bin/x'"), [(4, "program[0].path", "EW-SET-008")]),
        (rule("path = '/bin/../x'"), [(4, "program[0].path", "EW-SET-008")]),
        (rule("path = '/bin//x'"), [(4, "program[0].path", "EW-SET-008")]),
        (rule("path = '/bin/'"), [(4, "program[0].path", "EW-SET-008")]),
        (rule("path = '/'"), [(4, "program[0].path", "EW-SET-008")]),
        (rule('path = "/bin/a\\nb"'), [(4, "program[0].path", "EW-SET-008")]),
        (rule("class = 'binary'"), [(4, "program[0].class", "EW-SET-008")]),
        (rule("uid = -1\npackage = '*'"), [(4, "program[0].uid", "EW-SET-008")]),
        (rule("uid = true\npackage = '*'"), [(4, "program[0].uid", "EW-SET-004")]),
        (rule("uid = 4294967295\npackage = '*'"), [(4, "program[0].uid", "EW-SET-005")]),
        (rule("uid = '9-1'\npackage = '*'"), [(4, "program[0].uid", "EW-SET-005")]),
        (rule("unit = 'cron'\npackage = '*'"), [(4, "program[0].unit", "EW-SET-008")]),
        (rule("unit = 'a*b.slice'\npackage = '*'"), [(4, "program[0].unit", "EW-SET-008")]),
        (rule("unit = '../x.service'\npackage = '*'"), [(4, "program[0].unit", "EW-SET-008")]),
        (rule("parent = 'cron'\npackage = '*'"), [(4, "program[0].parent", "EW-SET-008")]),
    ],
)  # fmt: skip
def test_every_fault_is_named(text: str, wanted: list[tuple[int, str, str]]) -> None:
    assert faults_of(text) == wanted


@pytest.mark.parametrize(
    "subject", ["uid = 1000", "parent = '/usr/sbin/cron'", "unit = 'a.service'"]
)
def test_allowing_any_content_to_somebody_is_refused_and_denying_it_is_not(subject: str) -> None:
    assert faults_of(rule(subject)) == [(1, "program[0]", "EW-SET-010")]
    assert load_policy(SourceFile("p", rule(subject, "deny"))).program[0].about_subject


def test_too_many_rules_and_values_are_refused() -> None:
    text = "".join(entry(f"n{i}", f"{i:064x}") for i in range(MAX_PROGRAM_RULES + 1))
    assert faults_of(text) == [(1, "program", "EW-SET-005")]
    fits = "".join(entry(f"n{i}", f"{i:064x}") for i in range(MAX_PROGRAM_RULES))
    assert len(load_policy(SourceFile("p", fits)).program) == MAX_PROGRAM_RULES
    values = [f"/opt/{i}" for i in range(MAX_VALUES + 1)]
    assert faults_of(rule(f"path = {values}")) == [(4, "program[0].path", "EW-SET-005")]
