"""What becomes of a fact in each mode of overload.py: passed on, made one with others, or counted.

Pure; time comes in with the facts. By value, lowest first:

1. Readings: those of one channel (and quality) within the window become one, which says how many
   there were, the least, the mean and the greatest; of what is no number it is the last. A channel
   beyond MAX_CHANNELS, and what is not a number at all, is counted only.
2. Routine facts: bulk events below MEDIUM (starts that are allowed, ends, connections). Of each
   kind one a window is passed on, then none.
3. Plugs: peripheral events that are no alarm, and bulk events of MEDIUM.
4. Never: alarms; health, log integrity and configuration (the reporter's own words, the clock's
   anchors, statements of devices behind the gateway). Attestation and heads do not come this way
   at all, nor do readings of the board itself.

Every fact that is asked about is in exactly one count: ``offered`` is passed + aggregated + shed +
what waits in a window that is still open.

    shedder = Shedder()
    shedder.mode = Mode.COALESCING
    shedder.reading(r)          # []
    shedder.close(now_ns)       # [Reading(..., mean, spread=Spread(50, 9.8, low, high))]
"""

from __future__ import annotations

import math
from collections import Counter
from enum import StrEnum

from edgewarden.judge.overload import Mode
from edgewarden.plain import dataclass
from edgewarden.wire.facts import OCSF, Event, Reading, Severity, Spread
from edgewarden.wire.record import RecordClass

WINDOW_S = {Mode.NORMAL: 0, Mode.COALESCING: 10, Mode.SAMPLING: 10, Mode.ESSENTIAL: 60}
"""Ten seconds are the default commit of bulk: a value is not later than it would be anyway."""
MAX_CHANNELS = 1024
"""What the fleet shows of a device."""
MAX_KINDS = 256
"""Kinds of routine facts remembered in a window; there are a dozen."""
MAX_NUMBER = 1e300
"""Beyond, a mean may not be a number: the last one stands."""
_NS = 1_000_000_000


class Worth(StrEnum):
    """What is shed first stands first."""

    READINGS = "readings"
    ROUTINE = "routine"
    PLUGS = "plugs"
    KEPT = "kept"


def worth_of(event: Event, record_class: RecordClass) -> Worth:
    """Which of the module's four groups an event is in."""
    if record_class is RecordClass.ALARM or event.severity_id >= Severity.HIGH:
        return Worth.KEPT
    if record_class is RecordClass.AUDIT:
        return Worth.PLUGS if event.class_uid is OCSF.PERIPHERAL_ACTIVITY else Worth.KEPT
    return Worth.PLUGS if event.severity_id >= Severity.MEDIUM else Worth.ROUTINE


@dataclass(slots=True)
class _Channel:
    """What came on one channel since the window began."""

    first_ns: int
    last: Reading
    count: int
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    numbers: bool = True

    def add(self, reading: Reading) -> None:
        """One more."""
        self.count += 1
        self.last = reading
        number = _number(reading)
        if number is None or not self.numbers:
            self.numbers = False
            return
        if self.count == 1:
            self.mean = self.low = self.high = number
            return
        self.low, self.high = min(self.low, number), max(self.high, number)
        self.mean += (number - self.mean) / self.count

    def one(self) -> Reading:
        """One reading for all of them."""
        r = self.last
        if self.count == 1:
            return r
        span_s = max(0.0, round((r.seen_mono_ns - self.first_ns) / _NS, 6))
        measured = _measured(r)
        if self.numbers:
            measured, spread = self.mean, Spread(self.count, span_s, self.low, self.high)
        elif isinstance(measured, (int, float)) and not isinstance(measured, bool):
            # Numbers and others in turn, or beyond MAX_NUMBER: the last speaks for itself.
            spread = Spread(self.count, span_s, measured, measured)
        else:
            spread = Spread(self.count, span_s)
        value, raw = (measured, None) if r.raw is None else (r.value, measured)
        return Reading(r.source, r.name, r.unit, value, r.seen_mono_ns, r.quality, raw, spread)


def _measured(reading: Reading) -> float | str | bool:
    """Not the substitute for it."""
    return reading.value if reading.raw is None else reading.raw


def _number(reading: Reading) -> float | None:
    """What was measured, where a mean of it is one."""
    value = _measured(reading)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > MAX_NUMBER:
        return None
    return float(value)


_Key = tuple[str, str, str, str]


class Shedder:
    """One thread.

    Attributes:
        mode: what is shed; whoever lowers it closes the window first.
        passed, shed: facts since the start, by worth.
        aggregated: readings that left as part of one.
    """

    def __init__(self) -> None:
        self.mode = Mode.NORMAL
        self._events: Counter[Worth] = Counter()
        self._readings = 0
        self.passed: Counter[Worth] = Counter()
        self.shed: Counter[Worth] = Counter()
        self.aggregated = 0
        self._channels: dict[_Key, _Channel] = {}
        self._kinds: set[tuple[object, ...]] = set()
        self._began_ns: int | None = None

    @property
    def offered(self) -> Counter[Worth]:
        """Facts that were asked about since the start, by worth."""
        return self._events + Counter({Worth.READINGS: self._readings})

    @property
    def waiting(self) -> int:
        """Readings in the open window."""
        return sum(channel.count for channel in self._channels.values())

    def reading(self, reading: Reading) -> list[Reading]:
        """What of it is passed on now."""
        self._readings += 1
        if self.mode is Mode.NORMAL:
            self.passed[Worth.READINGS] += 1
            return [reading]
        measured = _measured(reading)
        if isinstance(measured, float) and math.isnan(measured):
            self.shed[Worth.READINGS] += 1
            return []
        key = (reading.source, reading.name, reading.unit, reading.quality.value)
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                self.shed[Worth.READINGS] += 1
                return []
            channel = self._channels[key] = _Channel(reading.seen_mono_ns, reading, 0)
        channel.add(reading)
        return []

    def event(self, event: Event, record_class: RecordClass) -> bool:
        """Whether it is passed on."""
        worth = worth_of(event, record_class)
        self._events[worth] += 1
        if self._passes(event, worth):
            self.passed[worth] += 1
            return True
        self.shed[worth] += 1
        return False

    def _passes(self, event: Event, worth: Worth) -> bool:
        if worth is Worth.KEPT or self.mode < Mode.SAMPLING:
            return True
        if self.mode is Mode.ESSENTIAL:
            return False
        if worth is Worth.PLUGS:
            return True
        kind = (event.class_uid, event.activity_id, event.severity_id, event.detail.get("action"))
        if kind in self._kinds or len(self._kinds) >= MAX_KINDS:
            return False
        self._kinds.add(kind)
        return True

    def due(self, now_ns: int) -> list[Reading]:
        """What the window gives when it is over; call it each second or two."""
        if self.mode is Mode.NORMAL:
            return []
        if self._began_ns is None:
            self._began_ns = now_ns
        if now_ns - self._began_ns < WINDOW_S[self.mode] * _NS:
            return []
        return self.close(now_ns)

    def close(self, now_ns: int) -> list[Reading]:
        """What the window has so far; the next begins."""
        out = []
        for channel in self._channels.values():
            out.append(channel.one())
            if channel.count == 1:
                self.passed[Worth.READINGS] += 1
            else:
                self.aggregated += channel.count
        self._channels, self._kinds, self._began_ns = {}, set(), now_ns
        return out

    def counts(self) -> dict[str, int]:
        """What was shed since the start, as facts, status and metrics name it."""
        return {
            "readings_aggregated": self.aggregated,
            "readings_shed": self.shed[Worth.READINGS],
            "routine_shed": self.shed[Worth.ROUTINE],
            "plugs_shed": self.shed[Worth.PLUGS],
        }
