"""The allowlist as a person writes it: strict TOML, every fault at once, a frozen ``Policy`` out.

    [[allow]]
    name = "demo-tool"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

Rules in order: the file is TOML and holds nothing but ``[[allow]]``; each entry has exactly a name
and a digest; no name and no digest appears twice. An empty policy is a policy: it allows nothing.

What it leaves to others: who may say so (the operator's signature, later), the compiled table
(judge/exec_table.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgewarden.settings.check import nearest, show
from edgewarden.settings.faults import (
    BAD_FORM,
    DUPLICATE,
    MAX_SHOWN,
    MISSING,
    OUT_OF_RANGE,
    UNKNOWN_KEY,
    WRONG_TYPE,
    Fault,
    SettingsFaults,
)
from edgewarden.settings.source import UNREADABLE_PREFIX, ParsedFile, SourceFile, read

MAX_POLICY_BYTES = 1024 * 1024
"""About 8000 entries; the one-shot that compiles it peaks near 20 times the text."""

MAX_ENTRIES = 8192
"""Programs of a Debian install with a desktop: about 3000 (find /usr/bin /usr/sbin)."""

_NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9/._+@:~-]{0,63}")
_NAME_RULE = "letters, digits and /._+@:~-, at most 64, starting with a letter, digit or /"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Allow:
    """One program: a name for people, the SHA-256 of its content for the machine (32 bytes)."""

    name: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """An allowlist in the order it was written; no name and no digest twice."""

    allow: tuple[Allow, ...]


def load_policy(source: SourceFile) -> Policy:
    """Return the policy of one file.

    Raises:
        SettingsFaults: with every fault of the file.
    """
    file = read(source, max_bytes=MAX_POLICY_BYTES)
    faults = list(file.faults)
    for name in file.tree:
        if name != "allow" and not name.startswith(UNREADABLE_PREFIX):
            guess = "[[allow]]" if nearest(name, ["allow"]) else ""
            faults.append(_fault(file, (name,), "no such section", UNKNOWN_KEY, guess))
    entries = file.tree.get("allow", [])
    allow: list[Allow] = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        text = f"{show(entries)} is not an array of tables; write [[allow]]"
        faults.append(_fault(file, ("allow",), text, WRONG_TYPE))
    elif len(entries) > MAX_ENTRIES:
        text = f"{len(entries)} entries, at most {MAX_ENTRIES}"
        faults.append(_fault(file, ("allow",), text, OUT_OF_RANGE))
    else:
        for index, entry in enumerate(entries):
            allow += _entry(file, index, entry, faults)
        faults += _twice(file, entries)
    if faults:
        faults.sort(key=lambda fault: fault.line)
        raise SettingsFaults(faults[:MAX_SHOWN], "policy")
    return Policy(tuple(allow))


def _entry(
    file: ParsedFile, index: int, entry: dict[str, object], faults: list[Fault]
) -> list[Allow]:
    """Return the entry as a list of one, or of none after adding its faults."""
    at = ("allow", index)
    before = len(faults)
    for key in entry:
        if key not in ("name", "sha256"):
            guess = nearest(key, ["name", "sha256"])
            faults.append(_fault(file, (*at, key), "no such key", UNKNOWN_KEY, guess))
    for key, form, rule in (
        ("name", _NAME, _NAME_RULE),
        ("sha256", _SHA256, "64 lower-case hexadecimal digits (sha256sum FILE)"),
    ):
        value = entry.get(key)
        if value is None:
            if not file.faults:  # it may stand on a line that could not be read
                faults.append(_fault(file, at, f"{key} is missing", MISSING))
        elif not isinstance(value, str):
            faults.append(_fault(file, (*at, key), f"{show(value)} is not a text", WRONG_TYPE))
        elif not form.fullmatch(value):
            text = f"{show(value)} is not allowed: {rule}"
            faults.append(_fault(file, (*at, key), text, BAD_FORM))
    if len(faults) > before or len(entry) != 2:
        return []
    return [Allow(str(entry["name"]), bytes.fromhex(str(entry["sha256"])))]


def _twice(file: ParsedFile, entries: list[dict[str, object]]) -> list[Fault]:
    """Name every name and digest that an earlier entry already has."""
    found: list[Fault] = []
    for key in ("name", "sha256"):
        first: dict[str, int] = {}
        for index, entry in enumerate(entries):
            value = entry.get(key)
            if not isinstance(value, str):
                continue
            earlier = first.setdefault(value, index)
            if earlier != index:
                line = file.line(("allow", earlier, key))
                text = f"{show(value)} is already in the entry of line {line}"
                found.append(_fault(file, ("allow", index, key), text, DUPLICATE))
    return found


def _fault(
    file: ParsedFile, at: tuple[str | int, ...], text: str, code: str, suggestion: str = ""
) -> Fault:
    dotted = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).removeprefix(".")
    return Fault(file.name, file.line(at), dotted, text, code, suggestion)
