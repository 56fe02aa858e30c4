"""Senders of every framed format: payloads to the bytes that a device puts on the line."""

from __future__ import annotations

from collections.abc import Callable

from edgewarden.serial.binary import (
    CHECKS,
    Check,
    CountedFramer,
    Counts,
    Layout,
    Start,
    StuffedFramer,
    Stuffing,
)
from edgewarden.serial.fields import Framer
from edgewarden.serial.framing import FrameCounters

MAX = 64
CRC, CRC32 = CHECKS["crc16-ccitt"], CHECKS["crc32"]
LAYOUT = Layout(b"\xaa\x55", 1, "big", Counts.PAYLOAD, CRC, Start.LENGTH)


def summed(payload: bytes, check: Check = CRC) -> bytes:
    return payload + check.of(payload).to_bytes(check.size, check.order)


def slip(payload: bytes, check: Check = CRC32) -> bytes:
    """RFC 1055, with the delimiter in front that it recommends."""
    body = summed(payload, check).replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + body + b"\xc0"


def cobs(payload: bytes, check: Check = CRC32) -> bytes:
    """COBS, byte by byte as its paper has it; a delimiter in front and behind."""
    out, block = bytearray(), bytearray()
    body = summed(payload, check)
    for at, byte in enumerate(body):
        if byte:
            block.append(byte)
        if not byte or (len(block) == 254 and at + 1 < len(body)):
            out += bytes((len(block) + 1,)) + block
            block.clear()
    return b"\0" + bytes(out) + bytes((len(block) + 1,)) + bytes(block) + b"\0"


def counted(payload: bytes) -> bytes:
    """Start, length, payload; the checksum covers length and payload."""
    body = bytes((len(payload),)) + payload
    return LAYOUT.start + summed(body)


Made = tuple[Callable[[bytes], bytes], Callable[[FrameCounters], Framer]]

FORMATS: dict[str, Made] = {
    "slip": (slip, lambda c: StuffedFramer(Stuffing.SLIP, CRC32, MAX, c)),
    "cobs": (cobs, lambda c: StuffedFramer(Stuffing.COBS, CRC32, MAX, c)),
    "length-crc": (counted, lambda c: CountedFramer(LAYOUT, MAX, c)),
}
