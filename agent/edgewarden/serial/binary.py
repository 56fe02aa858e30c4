"""Binary frames out of an endless, noisy stream: SLIP, COBS, and a length with a checksum.

Decides where a frame begins and ends and whether its checksum is right. Leaves to others what it
holds (fields.py, jsonlines.py) and how bytes arrive (serialport.py). Pure: no I/O, no clock; what
comes out does not depend on how the stream was cut.

Rules, in order:

1. SLIP and COBS: a frame is what lies between two delimiters; nothing between two is nothing. Noise
   costs the frame it touches and, where a sender puts no delimiter in front, the next one.
2. Length and checksum: a frame begins at ``start``, whose length and checksum must fit; otherwise
   the search goes on one byte behind that start, so that noise which looks like a start costs no
   frame behind it. A start is waited for until its whole frame is there, at most
   ``max_frame_bytes``: a frame in another's payload is never taken for one.
3. A frame whose checksum is wrong is counted in ``crc_bad``, a longer one than ``max_frame_bytes``
   in ``overrun``, one that breaks the stuffing in ``refusals`` as ``bad_stuffing``.
4. A CRC without a final XOR (crc16-*) does not see zeros appended to its frame: a delimiter of COBS
   that one bit made another byte can let a frame through that is longer than it was sent.
   crc32 sees it; so does a length.
5. At most about twice ``max_frame_bytes`` are held between two calls.

Sources: RFC 1055; S. Cheshire and M. Baker, Consistent Overhead Byte Stuffing, 1997.

    framer = StuffedFramer(Stuffing.SLIP, CHECKS["none"], 64, FrameCounters())
    framer.feed(b"\\xc0a\\xdb\\xdcb\\xc0") == [b"a\\xc0b"]
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable
from enum import StrEnum
from typing import Literal

from edgewarden.plain import dataclass
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import crc16
from edgewarden.serial.nmea import xor8

# RFC 1055.
END, ESC, ESC_END, ESC_ESC = b"\xc0", b"\xdb", b"\xdb\xdc", b"\xdb\xdd"
COBS_DELIMITER = b"\0"
COBS_FULL = 0xFF
"""A block of 254 bytes that no zero follows."""


ByteOrder = Literal["big", "little"]


@dataclass(frozen=True, slots=True)
class Check:
    """A checksum behind a frame.

    Attributes:
        size: bytes; 0 for none.
        order: byte order on the wire, as usual for it.
        of: bytes to number.
    """

    size: int
    order: ByteOrder
    of: Callable[[bytes], int]


def _xor(data: bytes) -> int:
    folded = 0
    for at in range(0, len(data), 256):  # what xor8 folds at once
        folded ^= xor8(data[at : at + 256])
    return folded


CHECKS: dict[str, Check] = {
    "none": Check(0, "big", lambda data: 0),
    "sum8": Check(1, "big", lambda data: sum(data) & 0xFF),
    "xor8": Check(1, "big", _xor),
    # CRC RevEng's names: CRC-16/MODBUS, CRC-16/IBM-3740 ("CCITT-FALSE"), CRC-16/XMODEM, CRC-32.
    "crc16-modbus": Check(2, "little", crc16),
    "crc16-ccitt": Check(2, "big", lambda data: binascii.crc_hqx(data, 0xFFFF)),
    "crc16-xmodem": Check(2, "big", lambda data: binascii.crc_hqx(data, 0)),
    "crc32": Check(4, "little", zlib.crc32),
}


class Stuffing(StrEnum):
    """How a delimiter is kept out of a payload."""

    SLIP = "slip"
    COBS = "cobs"


class Start(StrEnum):
    """Where a checksum, or the count of a length, begins."""

    START = "start"
    LENGTH = "length"
    PAYLOAD = "payload"


class Counts(StrEnum):
    """What a length counts."""

    PAYLOAD = "payload"
    REST = "rest"
    """Payload and checksum."""
    FRAME = "frame"
    """Everything, the start included."""


def unslip(raw: bytes) -> bytes:
    """What a SLIP frame holds. Raises ValueError for an escape that is none."""
    if raw.count(ESC) != raw.count(ESC_END) + raw.count(ESC_ESC):
        raise ValueError("bad_stuffing")
    return raw.replace(ESC_END, END).replace(ESC_ESC, ESC)


def uncobs(raw: bytes) -> bytes:
    """What a COBS frame holds. Raises ValueError for a block that reaches beyond its end."""
    out, at = [], 0
    while at < len(raw):
        code = raw[at]
        if at + code > len(raw):
            raise ValueError("bad_stuffing")
        out.append(raw[at + 1 : at + code])
        at += code
        if code < COBS_FULL and at < len(raw):
            out.append(b"\0")
    return b"".join(out)


class StuffedFramer:
    """SLIP or COBS frames.

    Args:
        stuffing: which of the two.
        check: what ends each frame, inside the stuffing.
        max_frame_bytes: hard maximum of a payload.
        counters: where to count; shared with the decoder above.

    Attributes:
        checked: whether a frame that comes out has passed a checksum, and is counted here.
    """

    def __init__(
        self, stuffing: Stuffing, check: Check, max_frame_bytes: int, counters: FrameCounters
    ) -> None:
        slip = stuffing is Stuffing.SLIP
        most = max_frame_bytes + check.size
        self._delimiter = END if slip else COBS_DELIMITER
        self._unstuff = unslip if slip else uncobs
        self._most_raw = 2 * most if slip else most + most // 254 + 1
        self._most, self._check = max_frame_bytes, check
        self._rest = b""
        self._skipping = False
        self.counters = counters
        self.checked = check.size > 0

    @property
    def held_bytes(self) -> int:
        """Bytes kept for the frame that is still open."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads of the good frames that ``data`` completes."""
        *whole, rest = (self._rest + data).split(self._delimiter)
        out = []
        for raw in whole:
            if self._skipping:
                self._skipping = False
                self.counters.dropped_bytes += len(raw)
            elif raw and (payload := self._payload(raw)) is not None:
                out.append(payload)
        if self._skipping or len(rest) > self._most_raw:
            if not self._skipping:
                self.counters.overrun += 1
            self._skipping = True
            self.counters.dropped_bytes += len(rest)
            rest = b""
        self._rest = rest
        return out

    def _payload(self, raw: bytes) -> bytes | None:
        counters = self.counters
        payload = None
        if len(raw) > self._most_raw:
            counters.overrun += 1
        else:
            try:
                payload = self._unstuff(raw)
            except ValueError as refusal:
                counters.refuse(str(refusal))
        if payload is not None:
            payload = _passed(payload, self._check, counters, self._most)
        if payload is None:
            counters.dropped_bytes += len(raw)
        return payload


def _passed(body: bytes, check: Check, counters: FrameCounters, most: int) -> bytes | None:
    """The payload in front of a right checksum, counted; None, counted too, for a wrong one.

    Nothing in front of one is no frame: the checksum of nothing is 0, and zeros are noise.
    """
    end = len(body) - check.size
    payload, sum_ = body[: max(0, end)], body[max(0, end) :]
    if end <= 0 or (check.size and int.from_bytes(sum_, check.order) != check.of(payload)):
        counters.crc_bad += 1
        return None
    if len(payload) > most:
        counters.overrun += 1
        return None
    counters.frames += bool(check.size)
    return payload


@dataclass(frozen=True, slots=True)
class Layout:
    """How a counted frame is laid out: start, length, payload, checksum.

    Attributes:
        start: the bytes that every frame begins with, at least one.
        length_bytes: 1 or 2.
        length_order: big or little.
        counts: what the length counts.
        check: the checksum behind the payload; there is one.
        check_from: where what it covers begins.
    """

    start: bytes
    length_bytes: int
    length_order: ByteOrder
    counts: Counts
    check: Check
    check_from: Start

    @property
    def head_bytes(self) -> int:
        """Start and length."""
        return len(self.start) + self.length_bytes

    def frame_bytes(self, length: int) -> int:
        """The whole frame whose length field says ``length``; too small a one is negative."""
        if self.counts is Counts.FRAME:
            return length if length >= self.head_bytes + self.check.size else -1
        if self.counts is Counts.REST:
            return self.head_bytes + length if length >= self.check.size else -1
        return self.head_bytes + length + self.check.size


class CountedFramer:
    """Frames with a start, a length and a checksum.

    Args:
        layout: how they are laid out.
        max_frame_bytes: hard maximum of a payload.
        counters: where to count; shared with the decoder above.
    """

    checked = True
    """Every frame that comes out has passed a checksum and is counted here."""

    def __init__(self, layout: Layout, max_frame_bytes: int, counters: FrameCounters) -> None:
        self._layout = layout
        self._most = layout.head_bytes + max_frame_bytes + layout.check.size
        self._rest = b""
        self._lost_start = False
        self.counters = counters

    @property
    def held_bytes(self) -> int:
        """Bytes kept of what may still become a frame."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads of the good frames that ``data`` completes."""
        layout, counters = self._layout, self.counters
        buffer, at, out = self._rest + data, 0, []
        while True:
            found = buffer.find(layout.start, at)
            if found < 0:
                # The end may be a part of a start.
                keep = _overlap(buffer[at:], layout.start)
                self._skip(len(buffer) - keep - at)
                at = len(buffer) - keep
                break
            self._skip(found - at)
            at = found
            if len(buffer) - at < layout.head_bytes:
                break
            field = buffer[at + len(layout.start) : at + layout.head_bytes]
            size = layout.frame_bytes(int.from_bytes(field, layout.length_order))
            if not 0 < size <= self._most:
                counters.overrun += 1
                self._skip(1)
                at += 1
                continue
            if len(buffer) - at < size:
                break
            payload = self._good(buffer[at : at + size])
            if payload is None:
                counters.crc_bad += 1
                self._skip(1)
                at += 1
                continue
            counters.frames += 1
            self._lost_start = False
            out.append(payload)
            at += size
        self._rest = buffer[at:]
        return out

    def _good(self, frame: bytes) -> bytes | None:
        layout = self._layout
        end = len(frame) - layout.check.size
        begin = {Start.START: 0, Start.LENGTH: len(layout.start)}.get(
            layout.check_from, layout.head_bytes
        )
        told = int.from_bytes(frame[end:], layout.check.order)
        return frame[layout.head_bytes : end] if told == layout.check.of(frame[begin:end]) else None

    def _skip(self, count: int) -> None:
        if count and not self._lost_start:
            self.counters.resync += 1
            self._lost_start = True
        self.counters.dropped_bytes += count


def _overlap(tail: bytes, start: bytes) -> int:
    """How many of the last bytes of ``tail`` can be the first ones of ``start``."""
    for size in range(min(len(start) - 1, len(tail)), 0, -1):
        if tail.endswith(start[:size]):
            return size
    return 0
