"""Triage: which class an event's record belongs to, and how a storm of equal events becomes one
record and an exact count.

Rules in order:

1. A finding (detection_finding) and anything of severity HIGH or worse is alarm.
2. Configuration, health, peripherals and log-integrity events are audit: what an auditor asks for
later.
3. Everything else is bulk.

An alarm is told at its first occurrence per subject (code, action, rule, path, digest, device).
Within REPEAT_S equal ones are only counted; ``due`` tells the counts as one event per subject,
which names its first. At most MAX_SUBJECTS are remembered, the last RESERVED of them for codes that
hold fewer than SHARE: one kind of flood hides no other kind's first. An alarm that finds no room is
counted by its code, and the counts are told as one event: a record, signed like any other. So the
spool grows by at most MAX_SUBJECTS alarms and as many counts a minute, and whoever adds up
``times`` of what was told has the number of what happened, to the last unit.

Starts of programs that the policy allows are counted the same way, in bulk, where room is left;
without room each is told.

    triage.admit(event) -> [(event, RecordClass.ALARM)]      first
    triage.admit(event) -> []                                again, counted
    triage.due(now)     -> [(the first, with repeated=1)]    REPEAT_S later
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgewarden.judge.describe import Subject, subject_of, times
from edgewarden.plain import dataclass
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass

REPEAT_S = 60
"""How long equal alarms are only counted: a person reacts in minutes, a record a minute is
cheap."""
MAX_SUBJECTS = 1024
"""About 300 bytes each; more different alarms than this in a minute is itself the news."""
RESERVED = 256
SHARE = 32
"""Places for eight more codes after one has taken all it may."""
OVERFLOW_CODE = "EW-AGT-010"
_CREATE = 1

_AUDIT = frozenset(
    {OCSF.CONFIG_STATE, OCSF.HEALTH, OCSF.PERIPHERAL_ACTIVITY, OCSF.EVENT_LOG_ACTIVITY}
)
_ROUTINE_ACTIONS = ("allowed", "learned")

Told = tuple[Event, RecordClass]


def classify(event: Event) -> RecordClass:
    """Return the class of an event's record."""
    if event.class_uid is OCSF.DETECTION_FINDING or event.severity_id >= Severity.HIGH:
        return RecordClass.ALARM
    if event.class_uid in _AUDIT:
        return RecordClass.AUDIT
    return RecordClass.BULK


@dataclass(slots=True)
class _Seen:
    """A first event and how often it came again."""

    first: Event
    count: int
    last_mono_ns: int


class _Book:
    """Firsts and their counts, bounded."""

    def __init__(self, record_class: RecordClass) -> None:
        self._class = record_class
        self._seen: dict[Subject, _Seen] = {}
        self._held: Counter[str] = Counter()

    def take(self, event: Event) -> list[Told] | None:
        """What to tell now; None when there is no room to remember it."""
        subject = subject_of(event)
        seen = self._seen.get(subject)
        if seen is not None:
            seen.count += times(event)
            seen.last_mono_ns = event.seen_mono_ns
            return []
        room = MAX_SUBJECTS - len(self._seen)
        if room <= (RESERVED if self._held[event.code] >= SHARE else 0):
            return None
        self._seen[subject] = _Seen(event, 0, event.seen_mono_ns)
        self._held[event.code] += 1
        return [(event, self._class)]

    def close(self, limit_ns: int, now_mono_ns: int) -> Iterator[Told]:
        """Forget what was first seen at ``limit_ns`` or before, and tell its count."""
        if not self._seen:
            return
        for subject in [s for s, e in self._seen.items() if e.first.seen_mono_ns <= limit_ns]:
            seen = self._seen.pop(subject)
            self._held[seen.first.code] -= 1
            if seen.count:
                yield _repeated(seen, now_mono_ns), self._class
        self._held += Counter()  # drops what is zero


@dataclass(slots=True)
class _Overflow:
    """What came beyond the bound."""

    first_mono_ns: int
    last_mono_ns: int
    counts: Counter[str]


class Triage:
    """Remembers the alarms of the last REPEAT_S; pure, time comes in with the events.

    Attributes:
        overflow: alarms since the start that were counted by their code only.
    """

    def __init__(self) -> None:
        self._alarms = _Book(RecordClass.ALARM)
        self._routine = _Book(RecordClass.BULK)
        self._over: _Overflow | None = None
        self.overflow = 0

    def admit(self, event: Event) -> list[Told]:
        """Return what has to be recorded now for this event."""
        record_class = classify(event)
        if record_class is RecordClass.ALARM:
            told = self._alarms.take(event)
            if told is None:
                self._overflow(event)
            return told or []
        if record_class is RecordClass.BULK and event.detail.get("action") in _ROUTINE_ACTIONS:
            told = self._routine.take(event)
            return [(event, record_class)] if told is None else told
        return [(event, record_class)]

    def _overflow(self, event: Event) -> None:
        self.overflow += times(event)
        if self._over is None:
            self._over = _Overflow(event.seen_mono_ns, event.seen_mono_ns, Counter())
        self._over.counts[event.code] += times(event)
        self._over.last_mono_ns = event.seen_mono_ns

    def due(self, now_mono_ns: int, *, all_now: bool = False) -> list[Told]:
        """Return the counts of what was first seen REPEAT_S ago, and forget it.

        Args:
            now_mono_ns: CLOCK_BOOTTIME.
            all_now: before the process ends: whatever its age.
        """
        limit_ns = now_mono_ns if all_now else now_mono_ns - REPEAT_S * 10**9
        out = [*self._alarms.close(limit_ns, now_mono_ns)]
        out += self._routine.close(limit_ns, now_mono_ns)
        over = self._over
        if over is not None and over.first_mono_ns <= limit_ns:
            self._over = None
            out.append((_overflowed(over, now_mono_ns), RecordClass.ALARM))
        return out


def _repeated(seen: _Seen, now_mono_ns: int) -> Event:
    first = seen.first
    detail: dict[str, Plain] = {
        **first.detail,
        "repeated": seen.count,
        "first_seen_mono_ns": first.seen_mono_ns,
        "last_seen_mono_ns": seen.last_mono_ns,
    }
    return Event(
        first.class_uid, first.activity_id, first.severity_id, now_mono_ns, detail, first.code
    )


def _overflowed(over: _Overflow, now_mono_ns: int) -> Event:
    by_code: dict[str, Plain] = {code or "none": n for code, n in sorted(over.counts.items())}
    detail: dict[str, Plain] = {
        "finding_info": {"title": "more different alarms than can be told apart, counted only"},
        "repeated": over.counts.total(),
        "by_code": by_code,
        "first_seen_mono_ns": over.first_mono_ns,
        "last_seen_mono_ns": over.last_mono_ns,
    }
    return Event(OCSF.DETECTION_FINDING, _CREATE, Severity.HIGH, now_mono_ns, detail, OVERFLOW_CODE)
