"""Bytes of an endless, noisy stream to whole lines, in flat memory.

Decides where one line ends and the next begins. Leaves to others what a line means (nmea.py,
jsonlines.py) and how bytes arrive (serialport.py). Pure: no I/O, no clock.

Rules, in order:

1. A line ends at a newline; a carriage return before it is not part of it; empty lines are nothing.
2. A line longer than the hard maximum is dropped whole, up to its newline, and counted once in
   ``overrun``: a port that never sends a newline costs at most ``max_line_bytes`` of memory.
3. Every byte that does not reach a caller inside a line is counted in ``dropped_bytes``.

    framer = LineFramer(64, FrameCounters())
    framer.feed(b'{"a":') == []
    framer.feed(b' 1}\\n{"a": 2}\\n') == [b'{"a": 1}', b'{"a": 2}']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from edgewarden.plain import dataclass, field
from edgewarden.wire.facts import Reading

MAX_REFUSAL_NAMES = 32
"""Refusal names come from our own code, so this is never met; it keeps a slip from growing
memory."""


@dataclass(slots=True)
class FrameCounters:
    """What a stream was worth so far. Only grows.

    Attributes:
        frames: frames that were whole and, where the format has one, carried a right checksum.
        crc_bad: frame-shaped bytes with a wrong or missing checksum.
        resync: times the framer had to skip bytes to find a frame's start.
        overrun: frames beyond the hard maximum.
        dropped_bytes: bytes that reached nobody.
        refused: whole frames whose content was refused, by name in ``refusals``.
    """

    frames: int = 0
    crc_bad: int = 0
    resync: int = 0
    overrun: int = 0
    dropped_bytes: int = 0
    refused: int = 0
    refusals: dict[str, int] = field(default_factory=dict)

    def refuse(self, name: str) -> None:
        """Count one refused frame under its stable name."""
        self.refused += 1
        if name in self.refusals or len(self.refusals) < MAX_REFUSAL_NAMES:
            self.refusals[name] = self.refusals.get(name, 0) + 1

    @property
    def bad(self) -> int:
        """Frames that yielded nothing: what a person reads as ``bad_frames``."""
        return self.crc_bad + self.overrun + self.refused

    def as_map(self) -> dict[str, object]:
        """Plain values, for status and events."""
        return asdict(self)


class Decoder(Protocol):
    """Bytes in, readings out; never raises; memory flat."""

    counters: FrameCounters

    def feed(self, data: bytes, seen_mono_ns: int) -> Sequence[Reading]:
        """Return the readings that ``data`` completes."""


class LineFramer:
    """Lines with a maximum length.

    Args:
        max_line_bytes: hard maximum of a line without its terminator.
        counters: where to count; shared with the decoder above.
    """

    checked = False
    """A line has no checksum: whether it is a frame is for the decoder to say."""

    def __init__(self, max_line_bytes: int, counters: FrameCounters) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be positive")
        self._max = max_line_bytes
        self._rest = b""
        self._skipping = False
        self.counters = counters

    @property
    def held_bytes(self) -> int:
        """Bytes kept for the line that is still open; never more than ``max_line_bytes`` + 1."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, in order, without their terminators."""
        came = self._rest + data
        if not self._skipping:
            # Nearly always every line fits and says something: then no step for each is due.
            *fit, rest = came.replace(b"\r\n", b"\n").split(b"\n")
            if all(fit) and max(map(len, fit), default=0) <= self._max:
                self._keep(rest)
                return fit
        *whole, rest = came.split(b"\n")
        lines: list[bytes] = []
        for raw in whole:
            if self._skipping:
                self._skipping = False
                self.counters.dropped_bytes += len(raw) + 1
                continue
            line = raw.removesuffix(b"\r")
            if len(line) > self._max:
                self.counters.overrun += 1
                self.counters.dropped_bytes += len(raw) + 1
            elif line:
                lines.append(line)
        self._keep(rest)
        return lines

    def _keep(self, rest: bytes) -> None:
        # One byte above the maximum may still be the carriage return of a line that fits.
        if self._skipping or len(rest) > self._max + 1:
            if not self._skipping:
                self.counters.overrun += 1
            self._skipping = True
            self.counters.dropped_bytes += len(rest)
            rest = b""
        self._rest = rest
