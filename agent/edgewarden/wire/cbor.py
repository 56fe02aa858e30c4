"""Deterministic CBOR in and out: one accepted spelling for every value.

Decides whether bytes are CBOR as RFC 8949 §4.2.1 (core deterministic encoding) spells it, and
nothing else, before a
decoder builds the first object. cbor2 does the building; it is not the gate, because what it lets
through differs
by version (measured on 5.6.5, 5.9.0 and 6.3.0: all three ignore trailing bytes, keep the last of
two equal map keys and
compile tag 35 as a regular expression; 5.6.5 ends 100,000 nested arrays in a RecursionError).

The rules, in the order they are checked, each with the refusal's name:

1. at most ``max_bytes`` long                                          ``too_long``
2. every head complete and every string inside the input               ``truncated``
3. integers, lengths and floats in their shortest form, definite only  ``not_deterministic``
4. no tag, no undefined, no simple value but false, true, null         ``forbidden_item``
5. at most MAX_DEPTH containers inside each other                      ``too_deep``
6. map keys strictly ascending, bytewise                               ``duplicate_key`` /
``not_deterministic``
7. text is UTF-8                                                       ``bad_text``
8. nothing behind the value                                            ``trailing_bytes``

Values: None, bool, int (64 bit), float, str, bytes, list, dict with int or str keys.

    decode(encode({1: "a"})) == {1: "a"}
    decode(b"\\x18\\x01")  # WireRefusal: not_deterministic
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import cbor2

from edgewarden.errors import WireRefusal

MAX_DEPTH = 16
"""Containers inside each other. Our deepest message (a batch of events) uses 7; 16 leaves room to
grow."""

MAX_BYTES = 256 * 1024
"""Default length limit: a commit of bulk readings is cut at 64 kB, the broker's packet limit is
256 kB."""

Value = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | Sequence["Value"]
    | Mapping[int, "Value"]
    | Mapping[str, "Value"]
    | Mapping[int | str, "Value"]
)
"""What encode takes."""

# RFC 8949 §3.1: major types.
_UINT, _NINT, _BSTR, _TSTR, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""Additional information -> smallest argument that needs it (RFC 8949 §4.2.1)."""


def encode(value: Value) -> bytes:
    """Return the deterministic encoding of value.

    The caller keeps the two orderings of RFC 8949 (§4.2.1 bytewise, §4.2.3 length first) equal by
    not mixing
    negative one-byte with positive two-byte integer keys in one map; none of our maps does, and
    ``decode`` refuses
    the difference.
    """
    data: bytes = cbor2.dumps(value, canonical=True)
    return data


def decode(data: bytes, max_bytes: int = MAX_BYTES) -> object:
    """Return the value spelt by data.

    Args:
        data: exactly one value.
        max_bytes: refuse anything longer, unread.

    Raises:
        WireRefusal: by one of the names in this module's docstring.
    """
    check(data, max_bytes)
    return cbor2.loads(data)


def check(data: bytes, max_bytes: int = MAX_BYTES) -> None:
    """Refuse data unless it is one deterministic value; raises as ``decode``."""
    if len(data) > max_bytes:
        raise WireRefusal("too_long", f"{len(data)} bytes, limit {max_bytes}")
    end = _walk(data)
    if end != len(data):
        raise WireRefusal("trailing_bytes", f"{len(data) - end} bytes follow the value")


class _Open:
    """A container being walked: how many items are still to come, and the last key of a map."""

    __slots__ = ("is_map", "key", "left")

    def __init__(self, left: int, is_map: bool) -> None:
        self.left = left
        self.is_map = is_map
        self.key = b""


def _walk(data: bytes) -> int:
    """Walk one value without recursion; return the offset behind it."""
    stack: list[_Open] = []
    at = 0
    while True:
        begin = at
        major, argument, at = _head(data, begin)
        if major in (_BSTR, _TSTR):
            at = _string(data, at, argument, major)
        if stack:
            _count(stack[-1], data, begin, at, major)
        if major in (_ARRAY, _MAP):
            if len(stack) >= MAX_DEPTH:
                raise WireRefusal("too_deep", f"more than {MAX_DEPTH} containers")
            items = argument * 2 if major == _MAP else argument
            if items > len(data) - at:
                raise WireRefusal("truncated", "container longer than the input")
            stack.append(_Open(items, major == _MAP))
        while stack and stack[-1].left == 0:
            stack.pop()
        if not stack:
            return at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Read one head: (major type, argument, offset behind it)."""
    if at >= len(data):
        raise WireRefusal("truncated", "input ends before the value does")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        argument = info
    elif info < 28:
        width = 1 << (info - 24)
        if at + width > len(data):
            raise WireRefusal("truncated", "head is incomplete")
        argument = int.from_bytes(data[at : at + width], "big")
        at += width
    else:
        raise WireRefusal("not_deterministic", "indefinite length or reserved head")
    if major == _TAG:
        raise WireRefusal("forbidden_item", f"tag {argument}")
    if major == _SIMPLE:
        _check_simple(info, argument)
    elif info >= 24 and argument < _SHORTEST[info]:
        raise WireRefusal("not_deterministic", f"{argument} is not in its shortest form")
    return major, argument, at


def _check_simple(info: int, argument: int) -> None:
    """Accept false, true, null and floats in their shortest form (RFC 8949 §3.3, §4.2.2)."""
    if info in (20, 21, 22):
        return
    if info == 25:
        if argument & 0x7C00 == 0x7C00 and argument not in (0x7C00, 0xFC00, 0x7E00):
            raise WireRefusal("not_deterministic", "a NaN other than 7e00")
        return
    if info == 26:
        value = struct.unpack(">f", argument.to_bytes(4, "big"))[0]
        narrower = ">e"
    elif info == 27:
        value = struct.unpack(">d", argument.to_bytes(8, "big"))[0]
        narrower = ">f"
    else:
        raise WireRefusal("forbidden_item", f"simple value {argument}")
    try:
        fits = value != value or struct.unpack(narrower, struct.pack(narrower, value))[0] == value
    except OverflowError:
        fits = False
    if fits:
        raise WireRefusal("not_deterministic", "float is not in its shortest form")


def _string(data: bytes, at: int, length: int, major: int) -> int:
    """Check a string's bytes are there (and are UTF-8 when text); return the offset behind it."""
    if length > len(data) - at:
        raise WireRefusal("truncated", "string longer than the input")
    if major == _TSTR:
        try:
            data[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_text", "text is not UTF-8") from None
    return at + length


def _count(box: _Open, data: bytes, begin: int, end: int, major: int) -> None:
    """Count one item of a container; of a map, every second one is a key."""
    if box.is_map and box.left % 2 == 0:
        if major not in (_UINT, _NINT, _TSTR):
            raise WireRefusal("forbidden_item", "map key is neither integer nor text")
        key = data[begin:end]
        if key == box.key:
            raise WireRefusal("duplicate_key", "a map key stands twice")
        if key < box.key:
            raise WireRefusal("not_deterministic", "map keys are not in order")
        box.key = key
    box.left -= 1
