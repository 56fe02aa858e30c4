"""One setting declared once: its type, limits, default and help, as data on the field of the
dataclass it fills.

``section(Uplink)`` and the makers below (``whole``, ``number``, ``text``, ``path``, ``choice``,
``paths``, ``texts``, ``tables``) return ``dataclasses.field`` with a ``Key`` in its metadata.
tree.py checks against it, reference.py prints docs/settings.md from it and ``config show`` names
defaults from it: three readers, one source.

    period_s: int = whole(10, low=1, high=3600, help="Seconds between readings.")
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, cast

from edgewarden.plain import dataclass

T = TypeVar("T")

NAME_FORM = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Device, tenant and sensor names: safe in a topic, a file name, a certificate and a shell."""
NAME_RULE = "lower-case letters, digits and hyphens, starting with a letter or digit, at most 63"


class Kind(StrEnum):
    """What a key holds, in the words that faults and docs use."""

    WHOLE = "whole number"
    NUMBER = "number"
    TEXT = "text"
    PATH = "absolute path"
    CHOICE = "one of a list"
    PATHS = "list of absolute paths"
    TEXTS = "text or a list of texts"
    SECTION = "table"
    TABLES = "array of tables"


@dataclass(frozen=True, slots=True)
class Key:
    """One setting as data.

    Attributes:
        kind: what it holds.
        help: one or two sentences.
        low, high: inclusive range of numbers; for lists and arrays the number of elements.
        choices: the only values taken, when kind is CHOICE.
        form, rule: the pattern a text must match entirely, and the same in words.
        numbers: a text may be written as a whole number (1000 for "1000").
        required: there is no default and the key must be given.
        absent: how docs name a default of None ("the enrolment's").
        example: a value as it is written in TOML.
        model: the dataclass behind a table.
    """

    kind: Kind
    help: str
    low: float = 0
    high: float = 0
    choices: tuple[str | int, ...] = ()
    form: re.Pattern[str] | None = None
    rule: str = ""
    numbers: bool = False
    required: bool = False
    absent: str = ""
    example: str = ""
    model: type[Any] | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """A key with the name and default of the dataclass field that carries it.

    ``field`` is ``name`` and, where that is a word of Python's own (``class``), a ``_`` behind it.
    """

    name: str
    key: Key
    default: object
    field: str


def declared(model: type[Any]) -> Mapping[str, Declared]:
    """Return the settings of a dataclass by name, in the order they are written."""
    return _declared(cast("Any", model))


@functools.cache  # a policy asks once for each of its rules
def _declared(model: Any) -> Mapping[str, Declared]:
    out: dict[str, Declared] = {}
    for item in dataclasses.fields(model):
        default = item.default
        if default is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        name = item.name.rstrip("_")
        out[name] = Declared(name, item.metadata["key"], default, item.name)
    return out


def whole(
    default: int | None = None,
    *,
    low: int,
    high: int,
    help: str,
    absent: str = "",
    example: str = "",
) -> Any:
    """A whole number from low to high; no default and no ``absent`` means required."""
    return _field(default, Key(Kind.WHOLE, help, low, high, absent=absent, example=example))


def number(
    default: float | None = None, *, low: float, high: float, help: str, absent: str = ""
) -> Any:
    """A finite number from low to high, whole or with a fraction."""
    exact = None if default is None else float(default)
    return _field(exact, Key(Kind.NUMBER, help, low, high, absent=absent))


def text(
    default: str | None = None,
    *,
    help: str,
    form: re.Pattern[str] = NAME_FORM,
    rule: str = NAME_RULE,
    absent: str = "",
    example: str = "",
) -> Any:
    """A text that matches ``form`` from end to end."""
    return _field(
        default, Key(Kind.TEXT, help, form=form, rule=rule, absent=absent, example=example)
    )


def path(default: str | None = None, *, help: str, example: str = "") -> Any:
    """An absolute path without ``..``."""
    return _field(default, Key(Kind.PATH, help, example=example))


def choice(default: T | None = None, *, of: tuple[T, ...], help: str) -> T:
    """One of the values of a list."""
    choices = cast("tuple[str | int, ...]", of)
    return cast(T, _field(default, Key(Kind.CHOICE, help, choices=choices)))


def paths(
    default: tuple[str, ...] = (), *, most: int, help: str, example: str = ""
) -> tuple[str, ...]:
    """A list of absolute paths, none twice."""
    return cast("tuple[str, ...]", _field(default, Key(Kind.PATHS, help, 0, most, example=example)))


def texts(
    *, most: int, help: str, form: re.Pattern[str], rule: str, numbers: bool = False, example: str
) -> tuple[str, ...]:
    """One text or a list of them, empty by default, none twice; each matches ``form``."""
    key = Key(Kind.TEXTS, help, 0, most, form=form, rule=rule, numbers=numbers, example=example)
    return cast("tuple[str, ...]", _field((), key))


def section(model: Callable[[], T], *, help: str) -> T:
    """A table of its own; each of its keys has a default."""
    key = Key(Kind.SECTION, help, model=cast("type[Any]", model))
    return dataclasses.field(default_factory=model, metadata={"key": key})


def tables(model: type[T], *, most: int, help: str) -> tuple[T, ...]:
    """An array of tables, each with a ``name`` of its own, empty by default."""
    key = Key(Kind.TABLES, help, 0, most, model=model)
    return cast("tuple[T, ...]", _field((), key))


def _field(default: object, key: Key) -> Any:
    if default is None and not key.absent:
        return dataclasses.field(metadata={"key": dataclasses.replace(key, required=True)})
    return dataclasses.field(default=default, metadata={"key": key})
