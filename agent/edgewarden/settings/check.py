"""One value against one ``Key``: the typed gate between TOML and the settings tree.

Nothing is converted on the way but a whole number into a float where the key is a number. ``yes``,
``"10"`` and 10.0 are not 10: a setting that is guessed right today is guessed wrong tomorrow.

What it leaves to others: tables and unknown names (validate.py), rules between keys (rules.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from edgewarden.settings.faults import BAD_FORM, DUPLICATE, NOT_A_CHOICE, OUT_OF_RANGE, WRONG_TYPE
from edgewarden.settings.fields import Key, Kind

MAX_PATH_BYTES = 255
"""Sockets live below [paths]: sun_path holds 108 bytes (unix(7)), which the binder checks; files
hold NAME_MAX."""

_SHOWN_CHARS = 40


class Refused(Exception):
    """A value that does not fit its key; becomes a ``Fault`` once file and line are known."""

    def __init__(self, text: str, code: str, suggestion: str = "") -> None:
        super().__init__(text)
        self.text, self.code, self.suggestion = text, code, suggestion


def check(name: str, key: Key, value: object) -> object:
    """Return the value as the settings tree holds it.

    Raises:
        Refused: wrong type, out of range, not a choice, bad form.
    """
    if key.kind is Kind.WHOLE:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(name, key, value)
        return _in_range(key, value)
    if key.kind is Kind.NUMBER:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong_type(name, key, value)
        return float(_in_range(key, value))
    if key.kind is Kind.CHOICE:
        return _choice(name, key, value)
    if key.kind is Kind.PATHS:
        return _path_list(name, key, value)
    if key.kind is Kind.TEXTS:
        return _text_list(name, key, value)
    if not isinstance(value, str):
        raise _wrong_type(name, key, value)
    return _absolute(value) if key.kind is Kind.PATH else _text(key, value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that ``name`` was probably meant to be, or ""."""
    import difflib  # a quarter of a megabyte, for a name that was mistyped

    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def show(value: object) -> str:
    """A value as a person wrote it, cut to a readable length."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    said = json.dumps(value, ensure_ascii=True) if isinstance(value, str) else str(value)
    return said if len(said) <= _SHOWN_CHARS else said[: _SHOWN_CHARS - 3] + "..."


def span(key: Key) -> str:
    """The range of a number in words, "" for other kinds."""
    return f"{key.low:.15g} to {key.high:.15g}" if key.kind in (Kind.WHOLE, Kind.NUMBER) else ""


def _wrong_type(name: str, key: Key, value: object) -> Refused:
    limits = f" ({span(key)})" if span(key) else ""
    article = "an" if key.kind.value[0] in "aeio" else "a"
    example = f"; example: {name} = {key.example}" if key.example else ""
    return Refused(f"{show(value)} is not {article} {key.kind}{limits}{example}", WRONG_TYPE)


def _in_range(key: Key, value: float) -> float:
    if not key.low <= value <= key.high:  # also refuses nan
        raise Refused(f"{show(value)} is out of range ({span(key)})", OUT_OF_RANGE)
    return value


def _choice(name: str, key: Key, value: object) -> object:
    kind = type(key.choices[0])
    if type(value) is not kind:
        example = json.dumps(key.choices[0])
        raise Refused(f"{show(value)} is not a choice; example: {name} = {example}", WRONG_TYPE)
    if value not in key.choices:
        options = ", ".join(str(c) for c in key.choices)
        near = nearest(value, [str(c) for c in key.choices]) if isinstance(value, str) else ""
        raise Refused(f"{show(value)} is not one of {options}", NOT_A_CHOICE, near)
    return value


def _text(key: Key, value: str) -> str:
    if key.form is None or not key.form.fullmatch(value):
        raise Refused(f"{show(value)} is not allowed: {key.rule}", BAD_FORM)
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise Refused(f"{show(value)} does not start with /", BAD_FORM)
    if len(value.encode("utf-8")) > MAX_PATH_BYTES or not value.isprintable():
        raise Refused(f"{show(value)} is too long or not printable", BAD_FORM)
    parts = value.split("/")[1:]
    if value != "/" and any(part in ("", ".", "..") for part in parts):
        raise Refused(f"{show(value)} has an empty, . or .. part", BAD_FORM)
    return value


def _path_list(name: str, key: Key, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong_type(name, key, value)
    if len(value) > key.high:
        raise Refused(f"{len(value)} entries, at most {key.high:.0f}", OUT_OF_RANGE)
    found = tuple(_absolute(item) for item in value)
    twice = [item for item in found if found.count(item) > 1]
    if twice:
        raise Refused(f"{show(twice[0])} is named twice", DUPLICATE)
    return found


def _text_list(name: str, key: Key, value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if len(items) > key.high:
        raise Refused(f"{len(items)} entries, at most {key.high:.0f}", OUT_OF_RANGE)
    if not items:
        raise Refused(f"an empty list says nothing; leave {name} out", OUT_OF_RANGE)
    found: list[str] = []
    for item in items:
        if key.numbers and isinstance(item, int) and not isinstance(item, bool):
            item = str(item)
        if not isinstance(item, str):
            raise _wrong_type(name, key, item)
        text = _text(key, item)
        if text in found:
            raise Refused(f"{show(text)} is named twice", DUPLICATE)
        found.append(text)
    return tuple(found)
