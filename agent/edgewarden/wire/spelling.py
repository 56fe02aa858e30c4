"""Shapes of messages as patterns over their bytes: is this one in its one spelling?

Deterministic CBOR has one spelling for every value (cbor.py), and some messages have always the
same fields: what is left to differ are digests, numbers and short texts. One pattern then says
what ``cbor.check`` says item by item, in a tenth of the time.

A shape says yes to nothing that ``cbor.check`` refuses; what it does not know, other lengths and
other fields, is checked the long way, and only that way refuses anything. What the fields may hold
is no matter of a shape's: whoever reads the message checks each field either way. Every part below
is one item in its shortest form and ends where its own bytes say, so that no run of bytes can be
read in two ways.

    shape = Shape(every_of({1: UINT, 2: blob(32), 3: some_of({"a": TEXT})}))
    shape.fits(cbor.encode({1: 7, 2: bytes(32), 3: {}})) is True
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgewarden.wire import cbor

Part = bytes
"""A pattern of one item; holds no group but those of ``some_of``."""
MAX_ENTRIES = 23
"""Of a map: more have a head of two bytes."""

# RFC 8949 §3.1 and §4.2.1: an argument in its shortest form.
UINT: Part = (
    rb"(?:[\x00-\x17]|\x18[\x18-\xff]|\x19(?!\x00)..|\x1a(?!\x00\x00)....|\x1b(?!\x00{4}).{8})"
)
NULL: Part = rb"\xf6"
_ARRAY, _MAP = 0x80, 0xA0


def constant(value: cbor.Value) -> Part:
    """Exactly this value."""
    return re.escape(cbor.encode(value))


def blob(length: int) -> Part:
    """A byte string of so many bytes."""
    return _head(bytes(length)) + b".{%d}" % length


def either(*parts: Part) -> Part:
    """One of these; no two of them begin with the same bytes."""
    return b"(?:" + b"|".join(parts) + b")"


def _head(value: bytes | str) -> bytes:
    """What stands before a string of this length."""
    return re.escape(cbor.encode(value)[: -len(value) or None])


def text(most: int) -> Part:
    """At most so many characters, all of them ASCII."""
    return either(*(_head("a" * n) + b"[\\x00-\\x7f]{%d}" % n for n in range(most + 1)))


TEXT, NAME = text(23), text(63)
"""What most texts are; names of gateways and tenants."""


def array(*parts: Part) -> Part:
    """An array of exactly these, at most 23."""
    return re.escape(bytes([_ARRAY + len(parts)])) + b"".join(parts)


def every_of(entries: Mapping[int, Part] | Mapping[str, Part]) -> Part:
    """A map with all of these keys."""
    return re.escape(bytes([_MAP + len(entries)])) + b"".join(_in_order(entries))


def some_of(entries: Mapping[int, Part] | Mapping[str, Part]) -> Part:
    """A map with any of these keys. The group around its head and those around its keys are what
    ``Shape`` counts; not for use inside another ``some_of``."""
    head = b"([%c-%c])" % (_MAP, _MAP + len(entries))
    return head + b"".join(b"(?:%s)?" % entry for entry in _in_order(entries, b"(%s)"))


def _in_order(entries: Mapping[int, Part] | Mapping[str, Part], key: bytes = b"%s") -> list[bytes]:
    """Bytewise by key (RFC 8949 §4.2.1)."""
    assert len(entries) <= MAX_ENTRIES
    spelt = sorted((cbor.encode(name), part) for name, part in entries.items())
    return [key % re.escape(name) + part for name, part in spelt]


def behind_string(data: bytes, at: int) -> int:
    """The offset behind a byte string of 256 to 65,535 bytes, which may lie behind the data; 0 for
    whatever else begins there."""
    if data[at : at + 1] != b"\x59" or data[at + 1 : at + 2] <= b"\x00":
        return 0
    return at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")


class Shape:
    """A message's whole pattern."""

    def __init__(self, part: Part) -> None:
        self._pattern = re.compile(part, re.DOTALL)

    def fits(self, data: bytes, begin: int = 0) -> bool:
        """Is this, from there to its end, of the shape, and so one value in its one spelling?"""
        found = self._pattern.fullmatch(data, begin)
        if found is None:
            return False
        left = 0  # entries that the last map's head has announced
        for group in found.groups():
            if group is None:
                continue
            if group[0] < _MAP:
                left -= 1
            elif left:
                return False
            else:
                left = group[0] - _MAP
        return left == 0
