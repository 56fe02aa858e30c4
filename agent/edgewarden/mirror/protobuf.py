"""As much of protocol buffers as Sparkplug B's payload needs: written out, and for commands read.

Source of the wire format: Protocol Buffers, Encoding. A field is a varint of number << 3 | type and
its value: type 0 a varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes.

    field(3, 150) == b"\\x18\\x96\\x01"
    list(fields(b"\\x18\\x96\\x01")) == [(3, 150)]
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
_MAX_VARINT = 10


def varint(number: int) -> bytes:
    """An unsigned number below 2**64; a negative one as its two's complement of 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: a whole number or a truth value, a double, a text, bytes or a message."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | EIGHT) + struct.pack("<d", value)
    body = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(body)) + body


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field, eight and four bytes as they are.

    Raises:
        ValueError: no protocol buffer, or one with groups.
    """
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field 0")
        if kind == VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _read_varint(message, at)
        elif kind in (EIGHT, FOUR):
            size = 8 if kind == EIGHT else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(message) - at:
            raise ValueError("cut short")
        yield number, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(message[at : at + _MAX_VARINT]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if number >> 64:
                raise ValueError("a number above 64 bits")
            return number, at + place + 1
    raise ValueError("a number without an end")
