"""The last findings, for `edgewarden findings`: one line each, with a count, in memory only.

The durable account of every alarm is the spool and then the fleet; this list answers the person at
the board while the agent runs. At most MAX_FINDINGS, the least recently seen leaves first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from datetime import UTC, datetime

from edgewarden.judge.describe import describe, subject_of, times
from edgewarden.judge.triage import classify
from edgewarden.plain import dataclass
from edgewarden.ports import Clock
from edgewarden.wire.facts import Event
from edgewarden.wire.record import RecordClass

MAX_FINDINGS = 200
"""Two hundred lines are more than a person reads; each is about 400 bytes."""


@dataclass(slots=True)
class _Line:
    """What is told of one finding; of the event, which may name a process with all its words,
    nothing is kept."""

    code: str
    severity: int
    text: str
    first_mono_ns: int
    last_mono_ns: int
    count: int


class Findings:
    """Remembers alarms; every method on the loop's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: OrderedDict[bytes, _Line] = OrderedDict()

    def see(self, event: Event) -> None:
        """Count an event if it is an alarm."""
        if classify(event) is not RecordClass.ALARM:
            return
        subject = hashlib.sha256(repr(subject_of(event)).encode()).digest()
        line = self._lines.pop(subject, None)
        if line is None:
            text, seen_ns = describe(event), event.seen_mono_ns
            line = _Line(event.code, int(event.severity_id), text, seen_ns, seen_ns, 0)
        line.count += times(event)
        line.last_mono_ns = event.seen_mono_ns
        self._lines[subject] = line
        if len(self._lines) > MAX_FINDINGS:
            self._lines.popitem(last=False)

    def listed(self) -> list[dict[str, object]]:
        """The findings, last seen first (surface: edgewarden.findings/1)."""
        now = self._clock.now()
        shift_ns = now.wall_ns - now.boot_ns
        return [
            {
                "id": f"f-{subject.hex()[:8]}",
                "code": line.code,
                "severity": line.severity,
                "text": line.text,
                "first_utc": _utc(line.first_mono_ns + shift_ns),
                "last_utc": _utc(line.last_mono_ns + shift_ns),
                "count": line.count,
            }
            for subject, line in reversed(self._lines.items())
        ]


def _utc(wall_ns: int) -> str:
    moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
