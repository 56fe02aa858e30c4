"""Triage: which class an event's record belongs to, and how a storm of equal alarms becomes one
alarm and a count.

Rules in order:

1. A finding (detection_finding) and anything of severity HIGH or worse is alarm.
2. Configuration, health, peripherals and log-integrity events are audit: what an auditor asks for
later.
3. Everything else is bulk.

An alarm is told at its first occurrence per subject (code, action, rule, path, digest, device).
Within REPEAT_S equal ones are only counted; ``due`` tells the counts as one event per subject,
which names its first. At most MAX_SUBJECTS are
remembered: an alarm that finds no room is told by itself, so that a flood of subjects can make the
spool grow but never hides one, and the overflow is counted and told.

    triage.admit(event) -> [(event, RecordClass.ALARM)]      first
    triage.admit(event) -> []                                again, counted
"""

from __future__ import annotations

from dataclasses import dataclass

from edgewarden.judge.describe import Subject, subject_of
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass

REPEAT_S = 60
"""How long equal alarms are only counted: a person reacts in minutes, a record a minute is
cheap."""
MAX_SUBJECTS = 1024
"""About 300 bytes each; more different alarms than this in a minute is itself the news."""

_AUDIT = frozenset(
    {OCSF.CONFIG_STATE, OCSF.HEALTH, OCSF.PERIPHERAL_ACTIVITY, OCSF.EVENT_LOG_ACTIVITY}
)


def classify(event: Event) -> RecordClass:
    """Return the class of an event's record."""
    if event.class_uid is OCSF.DETECTION_FINDING or event.severity_id >= Severity.HIGH:
        return RecordClass.ALARM
    if event.class_uid in _AUDIT:
        return RecordClass.AUDIT
    return RecordClass.BULK


@dataclass(slots=True)
class _Seen:
    first: Event
    count: int


class Triage:
    """Remembers the alarms of the last REPEAT_S; pure, time comes in with the events."""

    def __init__(self) -> None:
        self._seen: dict[Subject, _Seen] = {}
        self.overflow = 0

    def admit(self, event: Event) -> list[tuple[Event, RecordClass]]:
        """Return what has to be recorded now for this event."""
        record_class = classify(event)
        if record_class is not RecordClass.ALARM:
            return [(event, record_class)]
        subject = subject_of(event)
        seen = self._seen.get(subject)
        if seen is not None:
            seen.count += 1
            return []
        if len(self._seen) < MAX_SUBJECTS:
            self._seen[subject] = _Seen(event, 0)
        else:
            self.overflow += 1
        return [(event, record_class)]

    def due(self, now_mono_ns: int) -> list[tuple[Event, RecordClass]]:
        """Return the counts of alarms whose REPEAT_S is over, and forget them."""
        limit_ns = now_mono_ns - REPEAT_S * 10**9
        over = [s for s, seen in self._seen.items() if seen.first.seen_mono_ns <= limit_ns]
        out: list[tuple[Event, RecordClass]] = []
        for subject in over:
            seen = self._seen.pop(subject)
            if seen.count:
                out.append((_repeated(seen, now_mono_ns), RecordClass.ALARM))
        return out


def _repeated(seen: _Seen, now_mono_ns: int) -> Event:
    first = seen.first
    detail: dict[str, Plain] = {
        **first.detail,
        "repeated": seen.count,
        "first_seen_mono_ns": first.seen_mono_ns,
    }
    return Event(
        first.class_uid, first.activity_id, first.severity_id, now_mono_ns, detail, first.code
    )
