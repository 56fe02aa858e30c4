"""What the readings of one sensor are worth: each leaves with its quality, each fault with a
finding.

Decides quality, substitution and what is told. Leaves to others what is broken (channel.py,
cadence.py) and how often a finding becomes a record (judge/triage.py).

Rules, in order:

1. Faults of the channel (range, rate, stuck, replay) and of the sensor (cadence, another adapter)
   each give a quality; the reading has the worst one. Nothing is ever dropped.
2. ``on_fault`` of the channel says what a fault of the channel, or another adapter, makes of it:
   mark leaves that quality, untrusted makes it untrusted, substitute puts the fail-safe value in
   its place, says so, and keeps what was measured in ``raw``. A strange cadence only marks: it is
   judged against what was learned, not against what a person wrote.
3. A finding is told once per rule and channel when it begins, with its evidence, and once when it
   was quiet for QUIET_S, with the number of readings it concerned.

    worth = Worth("boiler", {"temperature": Limits(high=110)})
    worth.reading(Reading("boiler", "temperature", "Cel", 400.0, now_ns))
    # (Reading(..., quality=Quality.SUSPECT), [finding EW-SER-010])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgewarden.plain import dataclass
from edgewarden.readings.cadence import Cadence
from edgewarden.readings.channel import NOTHING, Broken, Channel
from edgewarden.readings.limits import QUALITY, TOLD, Limits, OnFault, Rule
from edgewarden.wire.burst import Burst
from edgewarden.wire.facts import OCSF, Event, FramesSeen, Plain, Quality, Reading, Severity

QUIET_S = 60.0
"""A value that trembles about its limit is one matter."""
MAX_CHANNELS = 128
"""Twice what a decoder lets through (serial/jsonlines.py): never met."""
EVERY_OTHER = "*"
"""The name of the limits of every channel without its own."""
ADAPTER_CODE = "EW-USB-003"
CREATE, CLOSE = 1, 3
"""OCSF detection_finding: a finding, and that it is over."""
_ORDER = tuple(Quality)
_SKIPPED = frozenset({Rule.CADENCE})


_STRANGER: object = object()
"""In the place of a channel that was not heard before."""


@dataclass(slots=True)
class _Standing:
    """What holds of a channel now."""

    first_ns: int
    last_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The latest word about a channel.

    Attributes:
        quality: of its last reading.
        why: the rules that were broken.
        measured: what was measured.
    """

    quality: Quality
    why: tuple[Rule, ...]
    measured: float | str | bool


class Worth:
    """Of one sensor; time comes in with what is seen.

    Args:
        source: name of the sensor.
        limits: channel -> its limits; EVERY_OTHER for those without.
        fingerprint: judge who speaks.

    Attributes:
        latest: channel -> the last word about it.
        unjudged: readings of channels beyond MAX_CHANNELS.
    """

    def __init__(
        self, source: str, limits: Mapping[str, Limits] | None = None, *, fingerprint: bool = True
    ) -> None:
        self._source = source
        self._limits = dict(limits or {})
        self._channels: dict[str, Channel | None] = {}
        self._standing: dict[tuple[Rule, str], _Standing] = {}
        self._fingerprint = fingerprint
        self._cadences: dict[int, Cadence] = {}
        self._of_sensor: tuple[Rule, ...] = ()
        self._first_adapter = ""
        self.latest: dict[str, Judged] = {}
        self.unjudged = 0

    # --- what comes in --------------------------------------------------------------------------

    def frames(self, seen: FramesSeen) -> list[Event]:
        """Take what one read completed; returns findings. Each voice is compared with itself: the
        others of a bus are no stranger for it when one falls silent."""
        if not self._fingerprint:
            return []
        cadence = self._cadences.get(seen.voice)
        if cadence is None:
            cadence = self._cadences[seen.voice] = Cadence()
        evidence = cadence.see(seen)
        strange = evidence is not None or any(one.strange for one in self._cadences.values())
        self._stands(Rule.CADENCE, strange)
        if not strange:
            return self._over(Rule.CADENCE, "", seen.seen_mono_ns, 0.0)
        if evidence is None:
            return []
        whose: dict[str, Plain] = {"unit": seen.voice} if seen.voice else {}
        return self._found(Rule.CADENCE, "", whose | evidence, seen.seen_mono_ns)

    def happened(self, event: Event) -> None:
        """Take an event of the port itself: another adapter marks what comes over it."""
        if event.code == ADAPTER_CODE:
            previous, device = event.detail.get("previous"), event.detail.get("peripheral_device")
            now = device.get("adapter") if isinstance(device, dict) else None
            self._first_adapter = self._first_adapter or str(previous)
            self._stands(Rule.ADAPTER, now != self._first_adapter)
        if event.class_uid is OCSF.PERIPHERAL_ACTIVITY:
            for cadence in self._cadences.values():
                cadence.reopened()

    def reading(self, reading: Reading) -> tuple[Reading, list[Event]]:
        """Return the reading with its quality, and findings."""
        channel, broken = self._channel(reading.name), NOTHING
        if channel is not None:
            broken = channel.judge(reading.value, reading.seen_mono_ns)
        return self._judged(reading, channel, broken)

    def readings(self, came: Sequence[Reading]) -> tuple[Sequence[Reading], list[Event]]:
        """What ``reading`` gives of each in turn; a burst of good ones stays the burst it is."""
        at, marked, events = 0, list[Reading](), list[Event]()
        if isinstance(came, Burst) and not self._standing and not self._of_sensor:
            at, broken = self._good(came)
            if at == len(came):
                return came, events
            marked += came[:at]
            first, found = self._judged(came[at], self._channels[came.channels[at][0]], broken)
            marked.append(first)
            events += found
            at += 1
        for reading in came[at:]:
            one, found = self.reading(reading)
            marked.append(one)
            events += found
        return marked, events

    # --- what is shown --------------------------------------------------------------------------

    def quality(self) -> Quality:
        """The worst of all channels; good where there is none."""
        found = [judged.quality for judged in self.latest.values()]
        return max(found, key=_ORDER.index, default=Quality.GOOD)

    def why(self) -> tuple[str, ...]:
        """``lat: range`` for each channel that is not good, and what concerns the whole sensor."""
        own = [
            f"{name}: {rule}"
            for name, judged in self.latest.items()
            for rule in judged.why
            if rule not in self._of_sensor
        ]
        return (*self._of_sensor, *own)

    # --- inside -----------------------------------------------------------------------------------

    def _good(self, burst: Burst) -> tuple[int, Broken]:
        """How many come before the first that breaks a rule, and what that one breaks; to be asked
        while nothing stands. Of the good ones the last word of each channel is kept."""
        names = [name for name, _ in burst.channels]
        good, broken = len(burst), NOTHING
        if any(self._channels.get(name, _STRANGER) is not None for name in set(names)):
            for at, value in enumerate(burst.values):
                channel = self._channel(names[at])
                if channel is not None:
                    broken = channel.judge(value, burst.seen_mono_ns)
                    if broken:
                        good = at
                        break
        for name, value in dict(zip(names[:good], burst.values, strict=False)).items():
            if name in self.latest or len(self.latest) < MAX_CHANNELS:
                self.latest[name] = Judged(Quality.GOOD, (), value)
        return good, broken

    def _judged(
        self, reading: Reading, channel: Channel | None, broken: Broken
    ) -> tuple[Reading, list[Event]]:
        """The reading and findings, after its channel's word."""
        name = reading.name
        if not broken and not self._of_sensor and not self._standing:
            if name in self.latest or len(self.latest) < MAX_CHANNELS:
                self.latest[name] = Judged(Quality.GOOD, (), reading.value)
            return reading, []
        events: list[Event] = []
        for rule, evidence in broken.items():
            events += self._found(rule, name, evidence, reading.seen_mono_ns)
        for rule, subject in list(self._standing):
            if subject == name and rule not in broken:
                events += self._over(rule, name, reading.seen_mono_ns, QUIET_S)
        why = (*broken, *self._of_sensor)
        marked = self._marked(reading, why, channel.limits if channel else None)
        if name in self.latest or len(self.latest) < MAX_CHANNELS:
            self.latest[name] = Judged(marked.quality, why, reading.value)
        return marked, events

    def _channel(self, name: str) -> Channel | None:
        if name in self._channels:
            return self._channels[name]
        if len(self._channels) >= MAX_CHANNELS:
            self.unjudged += 1
            return None
        limits = self._limits.get(name, self._limits.get(EVERY_OTHER))
        self._channels[name] = None if limits is None else Channel(limits)
        return self._channels[name]

    def _stands(self, rule: Rule, stands: bool) -> None:
        if stands != (rule in self._of_sensor):
            kept = tuple(r for r in self._of_sensor if r is not rule)
            self._of_sensor = (*kept, rule) if stands else kept

    @staticmethod
    def _marked(reading: Reading, why: tuple[Rule, ...], limits: Limits | None) -> Reading:
        if not why:
            return reading
        quality = max((QUALITY[rule] for rule in why), key=_ORDER.index)
        if limits is None or limits.on_fault is OnFault.MARK or _SKIPPED.issuperset(why):
            return replace(reading, quality=quality)
        if limits.on_fault is OnFault.UNTRUSTED or isinstance(reading.value, str):
            return replace(reading, quality=Quality.UNTRUSTED)
        failsafe = limits.failsafe
        value = bool(failsafe) if isinstance(reading.value, bool) else failsafe
        if value is None:
            return replace(reading, quality=Quality.UNTRUSTED)
        return replace(reading, value=value, quality=Quality.SUBSTITUTED, raw=reading.value)

    def _found(
        self, rule: Rule, channel: str, evidence: Mapping[str, Plain], now_ns: int
    ) -> list[Event]:
        standing = self._standing.get((rule, channel))
        if standing is not None:
            standing.count += 1
            standing.last_ns = now_ns
            return []
        self._standing[rule, channel] = _Standing(now_ns, now_ns, 1)
        return [self._event(rule, channel, now_ns, evidence, CREATE)]

    def _over(self, rule: Rule, channel: str, now_ns: int, quiet_s: float) -> list[Event]:
        standing = self._standing.get((rule, channel))
        if standing is None or now_ns - standing.last_ns < quiet_s * 1e9:
            return []
        del self._standing[rule, channel]
        span_s = (standing.last_ns - standing.first_ns) / 1e9
        evidence: dict[str, Plain] = {"count": standing.count, "span_s": round(span_s, 1)}
        return [self._event(rule, channel, now_ns, evidence, CLOSE)]

    def _event(
        self, rule: Rule, channel: str, now_ns: int, evidence: Mapping[str, Plain], activity: int
    ) -> Event:
        code, title, severity = TOLD[rule]
        title = f"{channel} {title}" if channel else title
        if activity == CLOSE:
            title, severity = f"over: {title}", Severity.INFORMATIONAL
        detail: dict[str, Plain] = {
            "title": title,
            "peripheral_device": {"name": self._source, "class": "serial"},
            "rule": str(rule),
            "evidence": dict(evidence),
        }
        if channel:
            detail["channel"] = channel
        return Event(OCSF.DETECTION_FINDING, activity, severity, now_ns, detail, code)
