"""``[[program]]``: which programs may run, started by whom.

    [[program]]
    name = "debian"
    package = "*"

    [[program]]
    name = "python-for-the-collector"
    class = "interpreter"
    unit = "collector.service"

What a rule selects (judge/programs.py compiles it):

- ``sha256``, ``path``, ``package`` and ``class`` name contents. They are looked up in the baseline
  when the policy is compiled (wire/baseline.py), and what gate compares is the content's SHA-256,
  never a name. Values of one key are alternatives; different keys must all hold. None of them: the
  rule speaks of every content, also of one that no baseline knows.
- ``uid``, ``parent`` and ``unit`` name who starts it, and gate asks when it happens.

The first rule of the file whose conditions all hold decides; where none does, the program is not
allowed.

Rules in order: each key has its form; there is at least one condition; an ``allow`` without a word
about the content says who may run *anything*, which is no allowlist, and is refused.

What it leaves to others: names that nothing on this gateway answers to, which is a warning of the
compiler and no fault: one policy is written for many gateways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import CONTRADICTION, MISSING, OUT_OF_RANGE
from edgewarden.settings.fields import choice, text, texts
from edgewarden.settings.tree import Broken

CLASSES = ("program", "script", "library", "module", "interpreter", "shell", "loader")
"""What a file is to the kernel and to interpreters: see wire/baseline.py."""

MAX_VALUES = 255
"""Of one key of one rule, as many as the table takes (judge/exec_table.py, MAX_CONDITIONS)."""
MAX_UID = 0xFFFFFFFE
"""(uid_t)-1 is no user, setuid(2)."""

RULE_NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9/._+@:~-]{0,63}")
RULE_NAME_RULE = "letters, digits and /._+@:~-, at most 64, starting with a letter, digit or /"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256_RULE = "64 lower-case hexadecimal digits (sha256sum FILE)"
_PATH = re.compile(r"(?:/(?!\.{0,2}(?:/|$))[^\x00-\x1f\x7f/]{1,255}){1,64}")
_PATH_RULE = (
    "an absolute path without . or .. parts; * and ? stand for characters of one name, ** for any "
    "number of folders"
)
# Debian Policy Manual 5.6.1 "Source" (names) and 5.6.8 "Architecture".
_PACKAGE = re.compile(r"\*|-|[a-z0-9][a-z0-9+.-]{1,127}(?::[a-z0-9][a-z0-9-]{0,31})?")
_PACKAGE_RULE = '"*" (any package), "-" (no package), or the name of a Debian package'
_CLASS = re.compile("|".join(CLASSES))
_UID = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10})?|[a-z_][a-z0-9_-]{0,31}")
_UID_RULE = "a number, a range (1000-1999) or a user's name"
# systemd.unit(5): name characters; "\" begins an escape. 128 of the 255 are what the table takes.
_UNIT = re.compile(
    r"(?=.{1,128}$)[A-Za-z0-9:_.\\@-]*\*?\.(?:service|scope|slice|socket|mount|swap)"
)
_UNIT_RULE = "a unit's full name (cron.service); one * may stand before the suffix (user-*.slice)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One rule about programs."""

    name: str = text(
        form=RULE_NAME,
        rule=RULE_NAME_RULE,
        help="The rule's name; every verdict names the rule that decided.",
        example='"debian"',
    )
    action: str = choice("allow", of=("allow", "deny"), help="What follows when the rule holds.")
    sha256: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_SHA256,
        rule=_SHA256_RULE,
        help="The content itself; it need not be in the baseline.",
        example='"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
    )
    path: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_PATH,
        rule=_PATH_RULE,
        help="The content that the baseline has under this path or one of its aliases.",
        example='"/usr/local/bin/**"',
    )
    package: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_PACKAGE,
        rule=_PACKAGE_RULE,
        help="The contents of a Debian package, as long as they are what the package brought.",
        example='"coreutils"',
    )
    class_: tuple[str, ...] = texts(
        most=len(CLASSES),
        form=_CLASS,
        rule="one of " + ", ".join(CLASSES),
        help="What the file is.",
        example='["interpreter", "shell"]',
    )
    uid: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_UID,
        rule=_UID_RULE,
        numbers=True,
        help="The real user of the process that starts it.",
        example='["root", "1000-1999"]',
    )
    parent: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_PATH,
        rule=_PATH_RULE,
        help="The program that starts it, by the content the baseline has under this path.",
        example='"/usr/sbin/cron"',
    )
    unit: tuple[str, ...] = texts(
        most=MAX_VALUES,
        form=_UNIT,
        rule=_UNIT_RULE,
        help="The systemd unit, or a slice above it, in which it is started.",
        example='"collector.service"',
    )

    @property
    def about_content(self) -> bool:
        """Whether it names contents; otherwise it speaks of every one."""
        return bool(self.sha256 or self.path or self.package or self.class_)

    @property
    def about_subject(self) -> bool:
        """Whether it asks who starts the program."""
        return bool(self.uid or self.parent or self.unit)


def program_rules(rule: Program) -> Iterator[Broken]:
    """What one rule must keep between its keys."""
    if not rule.about_content and not rule.about_subject:
        yield (), "no condition; name a content (package = ...) or who starts it", MISSING
    elif not rule.about_content and rule.action == "allow":
        text = "it would allow every content; add sha256, path, package or class"
        yield (), text, CONTRADICTION
    for value in rule.uid:
        low, _, high = value.partition("-")
        if not low.isdecimal():
            continue
        if int(high or low) > MAX_UID or int(low) > int(high or low):
            yield ("uid",), f"{value} is no user id or range of them", OUT_OF_RANGE
