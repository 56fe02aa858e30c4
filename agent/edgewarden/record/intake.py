"""What waits in memory for the storage thread, bounded.

Decides when there is work to do and what is lost when too much waits. Leaves to storage.py what
the work is.

* Alarm and audit events wait in order, MAX_WAITING of each class; more are counted as
  ``alarm_overflow`` and ``audit_overflow`` (the newest are lost: the first ones of a story tell
  more).
* Bulk facts gather into one batch, due after commit_s or at commit_bytes; above MAX_BULK_BYTES
  (the disk refuses) they are counted as ``bulk_dropped``.
* From FIXED_NS on the moments at which a batch is due are fixed, commit_s apart: no fact waits
  longer than before, and the first of a batch wakes nobody to say when it will be due.
* What was accepted waits for such a moment: it saves a record from being sent twice, no more.
* Counters ride in the next batch; a batch may consist of nothing else.

Any thread puts in; one thread takes out. Only wait() blocks.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any

from edgewarden.plain import dataclass, field
from edgewarden.ports import Clock
from edgewarden.wire.burst import Burst, Part, each
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.record import RecordClass

MAX_WAITING = 4096
"""Alarm or audit events in memory while the disk refuses: 4 MB of the usual 1 kB ones."""
MAX_BULK_BYTES = 1 << 20
"""Bulk facts in memory before a commit: sixteen default commits."""
MAX_BATCH_FACTS = 2048
"""Facts in one record: keeps a batch of tiny readings far below record.MAX_RECORD_BYTES."""
READING_BYTES = 40
"""Estimate of an encoded reading without its texts; cutting needs the order of magnitude only."""
EVENT_BYTES = 200
"""The same for an event."""
FIXED_NS = 5 * 1_000_000_000
"""Below, a thread that looks each commit_s costs more wake-ups than a first fact that tells it."""
PHASE_NS = 1_000_000_000
"""The moments lie in the middle between two steps of link's loop, which are twice as long
(daemon/steps.STEP_S) and want the interpreter, too; the first, one period from the start on."""
LATE_ACK_NS = 10 * 1_000_000_000
"""Word of what was accepted may wait so long: what a power cut can send twice."""

Call = tuple[Callable[[], Any], "Future[Any]"]


@dataclass(slots=True)
class Batch:
    """Bulk facts that become one record.

    Attributes:
        readings: in order; what came with one read may be one burst.
        count: readings in all.
    """

    readings: list[Part] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    first_boot_ns: int = 0
    count: int = 0

    def __len__(self) -> int:
        return self.facts + len(self.counts)

    @property
    def facts(self) -> int:
        """Readings and events."""
        return self.count + len(self.events)

    def halves(self) -> tuple[Batch, Batch]:
        """The same facts in two batches, for two facts or more; the counts stay with the first."""
        readings: list[Part] = list(each(self.readings))
        r, e = (self.count + 1) // 2, len(self.events) // 2
        return (
            Batch(readings[:r], self.events[:e], self.counts, count=r),
            Batch(readings[r:], self.events[e:], count=self.count - r),
        )


def _size_of(reading: Reading) -> int:
    """Estimate of its encoding."""
    texts = len(reading.source) + len(reading.name) + len(reading.unit)
    return READING_BYTES + texts + (len(reading.value) if isinstance(reading.value, str) else 0)


def _size_of_all(readings: Sequence[Reading]) -> int:
    """The same of each, in all."""
    if not isinstance(readings, Burst):
        return sum(map(_size_of, readings))
    texts = sum(map(len, chain.from_iterable(readings.channels)))
    if str in map(type, readings.values):
        texts += sum(len(value) for value in readings.values if isinstance(value, str))
    return len(readings) * (READING_BYTES + len(readings.source)) + texts


class Intake:
    """See the module's docstring."""

    def __init__(self, clock: Clock, commit_s: float, commit_bytes: int) -> None:
        self._clock = clock
        self._commit_ns = round(commit_s * 1e9)
        self._fixed = self._commit_ns >= FIXED_NS
        now_ns = clock.mono_ns()
        self._before_ns = now_ns - now_ns % (2 * PHASE_NS) - PHASE_NS
        self._commit_bytes = commit_bytes
        self._changed = threading.Condition()
        self._events: dict[RecordClass, deque[Event]] = {
            RecordClass.ALARM: deque(),
            RecordClass.AUDIT: deque(),
        }
        self._batch = Batch()
        self._calls: deque[Call] = deque()
        self._accepted: dict[int, int] = {}
        self._flushes: list[Future[None]] = []
        self._closed = self._late = False
        self.lost = 0
        """Facts since the start that found no room here."""

    def add_event(self, event: Event, record_class: RecordClass) -> None:
        """Queue one event."""
        with self._changed:
            if record_class is RecordClass.BULK:
                self._gather(event, EVENT_BYTES + READING_BYTES * len(event.detail))
            elif len(self._events[record_class]) >= MAX_WAITING:
                self._batch.counts[f"{record_class.label}_overflow"] += 1
                self.lost += 1
            else:
                self._events[record_class].append(event)
                self._changed.notify()

    def add_reading(self, reading: Reading) -> None:
        """Add one reading to the batch."""
        with self._changed:
            self._gather(reading, _size_of(reading))

    def add_readings(self, readings: Sequence[Reading]) -> None:
        """Add several, in order: one by one only where not all find room."""
        size_bytes = _size_of_all(readings)
        with self._changed:
            batch = self._batch
            if not readings or batch.size_bytes + size_bytes > MAX_BULK_BYTES:
                for reading in readings:
                    self._gather(reading, _size_of(reading))
                return
            was_empty, was_full = not batch.facts, self._full()
            if was_empty:
                batch.first_boot_ns = self._clock.mono_ns()
            batch.readings += [readings] if isinstance(readings, Burst) else readings
            batch.count += len(readings)
            batch.size_bytes += size_bytes
            self._gathered(was_empty, was_full)

    def count(self, name: str, amount: int) -> None:
        """Add to a counter of the batch; does not make it due."""
        with self._changed:
            self._batch.counts[name] += amount

    def fill(self) -> float:
        """How much of its bound the fullest part of what waits has taken, 0 to 1."""
        with self._changed:
            events = max(len(queue) for queue in self._events.values()) / MAX_WAITING
            return max(events, self._batch.size_bytes / MAX_BULK_BYTES)

    def call(self, work: Callable[[], Any], done: Future[Any]) -> bool:
        """Queue a call; False when nobody will answer any more."""
        with self._changed:
            if self._closed:
                return False
            self._calls.append((work, done))
            self._changed.notify()
            return True

    def ack(self, record_class: int, upto_seq: int) -> None:
        """Everything up to here was accepted: wakes nobody where a round comes soon anyway."""
        with self._changed:
            self._accepted[record_class] = max(upto_seq, self._accepted.get(record_class, 0))
            now_ns = self._clock.mono_ns()
            if not self._fixed or self._due_ns(now_ns) - now_ns > LATE_ACK_NS:
                self._late = True
                self._changed.notify()

    def take_acks(self) -> dict[int, int]:
        """Class -> up to where all was accepted since the last call."""
        with self._changed:
            accepted, self._accepted, self._late = self._accepted, {}, False
            return accepted

    def flush(self, done: Future[None]) -> bool:
        """Make everything due now; False when nobody will answer any more."""
        with self._changed:
            if self._closed:
                return False
            self._flushes.append(done)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Answer no more calls, make everything due."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self, retry_s: float | None, at_most_s: float | None = None) -> bool:
        """Return when there is work; while the disk refuses (retry_s), facts wait that long.

        Args:
            at_most_s: return by then without any.

        Returns:
            Whether close() was called: what is taken after this is the last.
        """
        with self._changed:
            idle_s = self._idle_s(retry_s)
            if at_most_s is not None:
                idle_s = at_most_s if idle_s is None else min(idle_s, at_most_s)
            if idle_s != 0.0:
                self._changed.wait(idle_s)
            return self._closed

    def front(self, refused: Container[RecordClass] = ()) -> tuple[RecordClass, Event] | None:
        """The event to store next, alarms first, of no refused class; queued until pop()."""
        with self._changed:
            for record_class, queue in self._events.items():
                if queue and record_class not in refused:
                    return record_class, queue[0]
        return None

    def pop(self, record_class: RecordClass) -> None:
        """Forget the front event of a class: it is durable."""
        with self._changed:
            self._events[record_class].popleft()

    def take_batch(self, force: bool) -> Batch | None:
        """The batch, when it is due; with force, whatever there is of it."""
        with self._changed:
            if not self._batch or not (force or self._due_s() == 0.0):
                return None
            batch, self._batch = self._batch, Batch()
            return batch

    def put_back(self, batch: Batch) -> None:
        """The disk refused: the batch goes in front of what came since, up to the bound."""
        with self._changed:
            later, self._batch = self._batch, batch
            batch.counts.update(later.counts)
            facts: list[Event | Reading] = [*each(later.readings), *later.events]
            for fact in facts:
                self._gather(fact, READING_BYTES)

    def take_calls(self) -> list[Call]:
        """All queued calls that somebody still waits for, in order; they cannot be given up now."""
        with self._changed:
            calls = list(self._calls)
            self._calls.clear()
        return [call for call in calls if call[1].set_running_or_notify_cancel()]

    def take_flushes(self) -> list[Future[None]]:
        """All callers of flush() so far who still wait; they cannot give up now."""
        with self._changed:
            flushes, self._flushes = self._flushes, []
        return [done for done in flushes if done.set_running_or_notify_cancel()]

    # --- with the lock held -------------------------------------------------------------------

    def _gather(self, fact: Event | Reading, size_bytes: int) -> None:
        batch = self._batch
        if batch.size_bytes + size_bytes > MAX_BULK_BYTES:
            batch.counts["bulk_dropped"] += 1
            self.lost += 1
            return
        was_empty, was_full = not batch.facts, self._full()
        if was_empty:
            batch.first_boot_ns = self._clock.mono_ns()
        if isinstance(fact, Event):
            batch.events.append(fact)
        else:
            batch.readings.append(fact)
            batch.count += 1
        batch.size_bytes += size_bytes
        self._gathered(was_empty, was_full)

    def _gathered(self, was_empty: bool, was_full: bool) -> None:
        if (was_empty and not self._fixed) or (self._full() and not was_full):
            self._changed.notify()

    def _full(self) -> bool:
        batch = self._batch
        return batch.size_bytes >= self._commit_bytes or batch.facts >= MAX_BATCH_FACTS

    def _due_ns(self, since_ns: int) -> int:
        """When a batch is due that has facts since then."""
        early_ns = (since_ns - self._before_ns) % self._commit_ns if self._fixed else 0
        return since_ns + self._commit_ns - early_ns

    def _due_s(self) -> float | None:
        """Seconds until the batch is due; None while it holds no fact."""
        if not self._batch.facts:
            return None
        if self._full():
            return 0.0
        left_ns = self._due_ns(self._batch.first_boot_ns) - self._clock.mono_ns()
        return max(0.0, left_ns / 1e9)

    def _idle_s(self, retry_s: float | None) -> float | None:
        """Seconds without work; None for until somebody notifies."""
        if self._calls or self._flushes or self._closed or self._late:
            return 0.0
        if any(self._events.values()):
            return retry_s or 0.0
        due_s = self._due_s()
        if due_s is None and self._fixed:  # the first fact will not say so
            now_ns = self._clock.mono_ns()
            due_s = (self._due_ns(now_ns) - now_ns) / 1e9
        return due_s if due_s is None or retry_s is None else max(due_s, retry_s)
