"""What came over a port lately, raw beside decoded, for whoever watches it.

Decides what is kept: nothing until somebody asks, then the last LINES reads for as long as somebody
goes on asking. Leaves to others how it is shown (cli/sensors_watch.py).

    view.since(0, now_ns) == {"next": 0, "missed": 0, "lines": []}      # and keeps from now on
"""

from __future__ import annotations

from collections import deque

from edgewarden.plain import dataclass, field
from edgewarden.readings.worth import Worth
from edgewarden.wire.facts import Reading

LINES = 64
"""A line of 115200 baud brings about ten reads between two questions."""
SHOWN_BYTES = 64
SHOWN_READINGS = 32
ASKED_NS = 10 * 10**9
"""Whoever watches asks twice a second."""


@dataclass(slots=True)
class _Read:
    """One read, kept for whoever watches."""

    number: int
    seen_ns: int
    size: int
    head: bytes
    readings: list[dict[str, object]] = field(default_factory=list)
    more: int = 0


class View:
    """Of one port; every method on the loop's thread."""

    def __init__(self) -> None:
        self._reads: deque[_Read] = deque(maxlen=LINES)
        self._number = 0
        self._asked_ns: int | None = None

    @property
    def watched(self) -> bool:
        """Whether anything is kept."""
        return self._asked_ns is not None

    def tap(self, data: bytes, seen_ns: int) -> None:
        """A read, before its readings."""
        if self._asked_ns is None:
            return
        if seen_ns - self._asked_ns > ASKED_NS:
            self._asked_ns = None
            self._reads.clear()
            return
        self._number += 1
        self._reads.append(_Read(self._number, seen_ns, len(data), data[:SHOWN_BYTES]))

    def reading(self, reading: Reading, worth: Worth) -> None:
        """A reading that the last read completed."""
        if self._asked_ns is None or not self._reads:
            return
        last = self._reads[-1]
        if len(last.readings) >= SHOWN_READINGS:
            last.more += 1
            return
        said = worth.latest.get(reading.name)
        last.readings.append(
            {
                "name": reading.name,
                "value": reading.value,
                "unit": reading.unit,
                "quality": str(reading.quality),
                "raw": reading.raw,
                "why": [] if said is None else [str(rule) for rule in said.why],
            }
        )

    def since(self, after: int, now_ns: int) -> dict[str, object]:
        """Every read behind number ``after`` that is still there, and how many are not."""
        self._asked_ns = now_ns
        new = [read for read in self._reads if read.number > after]
        missed = max(0, self._number - after - len(new)) if after else 0
        lines = [
            {
                "age_s": round(max(0, now_ns - read.seen_ns) / 1e9, 3),
                "bytes": read.size,
                "hex": read.head.hex(),
                "readings": read.readings,
                "more": read.more,
            }
            for read in new
        ]
        return {"next": self._number, "missed": missed, "lines": lines}
