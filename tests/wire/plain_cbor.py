"""The rules of wire/cbor.py read plainly: one function a kind of item, one call an item.

What ``cbor.check`` was before it was made quick, and what it must still be: test_quick.py holds the
two against each other, refusal by refusal and text by text. Slow, and nothing in it is shared with
the code that it is held against but the limits.
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.cbor import MAX_BYTES, MAX_DEPTH, MAX_TEXT_BYTES

UINT, NINT, BSTR, TSTR, ARRAY, MAP, TAG, SIMPLE = range(8)


def check(data: bytes) -> None:
    """Refuse data unless it is one deterministic value."""
    if len(data) > MAX_BYTES:
        raise WireRefusal("too_long", f"{len(data)} bytes, limit {MAX_BYTES}")
    end = item(data, 0, 0)
    if end != len(data):
        raise WireRefusal("trailing_bytes", f"{len(data) - end} bytes follow the value")


def item(data: bytes, at: int, depth: int, last_key: bytes | None = None) -> int:
    """Read one item; the offset behind it. A map's key comes with the key before it."""
    begin = at
    major, argument, at = head(data, at)
    if major in (BSTR, TSTR):
        at = string(data, at, major, argument)
    if last_key is not None:
        key(data[begin:at], last_key, major)
    if major in (ARRAY, MAP):
        if depth >= MAX_DEPTH:
            raise WireRefusal("too_deep", f"more than {MAX_DEPTH} containers")
        if argument * (2 if major == MAP else 1) > len(data) - at:
            raise WireRefusal("truncated", "container longer than the input")
        before = b""
        for _ in range(argument):
            if major == MAP:
                begin, at = at, item(data, at, depth + 1, before)
                before = data[begin:at]
            at = item(data, at, depth + 1)
    return at


def head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, offset behind the head."""
    if at >= len(data):
        raise WireRefusal("truncated", "input ends before the value does")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        argument = info
    elif info > 27:
        raise WireRefusal("not_deterministic", "indefinite length or reserved head")
    else:
        width = 1 << (info - 24)
        if at + width > len(data):
            raise WireRefusal("truncated", "head is incomplete")
        argument = int.from_bytes(data[at : at + width], "big")
        at += width
    if major == TAG:
        raise WireRefusal("forbidden_item", f"tag {argument}")
    if major == SIMPLE:
        simple(info, argument)
    elif info > 23 and argument < {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}[info]:
        raise WireRefusal("not_deterministic", f"{argument} is not in its shortest form")
    return major, argument, at


def string(data: bytes, at: int, major: int, length: int) -> int:
    """The offset behind a string's bytes."""
    if length > len(data) - at:
        raise WireRefusal("truncated", "string longer than the input")
    if major == TSTR:
        if length > MAX_TEXT_BYTES:
            raise WireRefusal("too_long", f"text of {length} bytes, limit {MAX_TEXT_BYTES}")
        try:
            data[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_text", "text is not UTF-8") from None
    return at + length


def key(spelt: bytes, last: bytes, major: int) -> None:
    """Refuse a map's key unless it may be one and follows the last one."""
    if major not in (UINT, NINT, TSTR):
        raise WireRefusal("forbidden_item", "map key is neither integer nor text")
    if spelt == last:
        raise WireRefusal("duplicate_key", "a map key stands twice")
    if spelt < last:
        raise WireRefusal("not_deterministic", "map keys are not in order")


def simple(info: int, argument: int) -> None:
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
