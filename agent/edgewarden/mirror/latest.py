"""The last value of every channel, for publishers that show what is and not what was.

Decides what a publisher knows and what is left out, each by its count. Leaves to homeassistant.py
and sparkplug.py how it is said. Rules, in order:

1. A channel is (source, name); source "" is the gateway itself. Only sources that were named at the
   start are taken: nobody invents a sensor by speaking.
2. At most MAX_CHANNELS, and MAX_OF_SOURCE of one source: names can come from a sensor's wire.
3. A channel keeps the kind of its first value (number, text, flag); another kind is refused.
4. A value that was not told yet is replaced by the next: a slow reader costs no memory.

    latest = Latest(["gps"]); latest.see(Reading("gps", "speed", "m/s", 1.5, 7))
    list(latest.changed) == [("gps", "speed")]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum

from edgewarden.plain import dataclass
from edgewarden.wire.facts import Quality, Reading

MAX_CHANNELS = 256
MAX_OF_SOURCE = 64
"""A description of 64 channels is about 50 kB, a message that every broker takes."""
MAX_TEXT = 255
"""Characters of a text value: what Home Assistant keeps of a state."""
GATEWAY = ""
"""The source of what the gateway says of itself."""

Value = float | str | bool
Channel = tuple[str, str]


class Kind(StrEnum):
    """What a channel's values are."""

    NUMBER = "number"
    TEXT = "text"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Shown:
    """One channel as it is shown.

    Attributes:
        value: None for a number that is none (NaN, infinite).
        raw: what was measured where value is a substitute.
        seen_mono_ns: as of the reading.
    """

    kind: Kind
    unit: str
    value: Value | None
    quality: Quality
    raw: Value | None
    seen_mono_ns: int


class Latest:
    """See the module's docstring.

    Attributes:
        values: every channel, in the order in which they were first seen.
        changed: channels with a value that was not told yet, the longest waiting first.
        superseded: values that were replaced before they were told.
        refused: values of unknown sources, of channels beyond the limits, of another kind.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._of_source = dict.fromkeys((GATEWAY, *sources), 0)
        self.values: dict[Channel, Shown] = {}
        self.changed: dict[Channel, None] = {}
        self.superseded = 0
        self.refused = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """Sensors that may speak, without the gateway itself."""
        return tuple(s for s in self._of_source if s != GATEWAY)

    def see(self, reading: Reading) -> None:
        """Take a reading in."""
        channel = reading.source, reading.name
        known = self.values.get(channel)
        kind = kind_of(reading.value)
        if known is None:
            count = self._of_source.get(reading.source, MAX_OF_SOURCE)
            if count >= MAX_OF_SOURCE or len(self.values) >= MAX_CHANNELS:
                self.refused += 1
                return
            self._of_source[reading.source] = count + 1
        elif known.kind is not kind:
            self.refused += 1
            return
        if channel in self.changed:
            self.superseded += 1
        self.changed[channel] = None
        value, raw = _bounded(reading.value), _bounded(reading.raw)
        self.values[channel] = Shown(
            kind, reading.unit, value, reading.quality, raw, reading.seen_mono_ns
        )

    def report(self, health: Mapping[str, Value], seen_mono_ns: int) -> None:
        """What the gateway says of itself: only what is not what it said before."""
        for name, value in health.items():
            known = self.values.get((GATEWAY, name))
            if known is None or known.value != value:
                self.see(Reading(GATEWAY, name, "", value, seen_mono_ns))

    def of(self, source: str) -> dict[str, Shown]:
        """Channels of one source, by name."""
        return {name: shown for (owner, name), shown in self.values.items() if owner == source}


def kind_of(value: Value) -> Kind:
    """Of a value (a truth value is a number to Python)."""
    if isinstance(value, bool):
        return Kind.FLAG
    return Kind.TEXT if isinstance(value, str) else Kind.NUMBER


def _bounded(value: Value | None) -> Value | None:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if value is None or isinstance(value, bool):
        return value
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
