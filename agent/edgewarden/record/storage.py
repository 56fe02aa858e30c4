"""The one thread that touches the disk and signs records.

Decides the order of work and what happens when the disk refuses. Leaves to journal.py what stands
in a record, to intake.py when a commit is due. The event loop hands facts in and gets futures out:
it never waits for a disk, and no other thread sees SQLite.

* Alarm and audit: each event is a record and a commit of its own, at once, alarms first. Bulk: one
  record per batch. The batch's age is the window of bulk facts that a power cut can take.
* The first records of every start introduce the report key; before they are durable nothing else
  is written.
* A disk that refuses is tried again every RETRY_S with what waits. Bulk that finds no room is
  dropped and counted.
* A class without room waits by itself: the others go on.
* Evictions, damage and a disk that takes no bulk are told by an alarm, at most one per reason and
  TELL_AGAIN_S; the storage's own trouble never makes a record per try.
* state() is the picture after the last commit: ``durable`` never runs ahead of the disk.

    storage = StorageThread(open_journal, introduction, clock, bulk_commit_s=10, ...)
    storage.start()
    storage.submit_event(event, RecordClass.ALARM)
    storage.flush().result()
    storage.stop()
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgewarden.errors import EdgewardenError, HardwareFault, OurFault
from edgewarden.ports import ClassState, Clock, Loss, Stored
from edgewarden.record.aside import Aside
from edgewarden.record.intake import Batch, Intake
from edgewarden.record.journal import (
    DISK_FULL,
    SPOOL_FULL,
    DiskTight,
    Introduction,
    Journal,
    SpoolFull,
    Unstorable,
)
from edgewarden.wire.evidence import Heads
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import RecordClass

RETRY_S = 1.0
"""Between tries while the disk refuses: an SD card that stalls comes back within seconds."""
TELL_AGAIN_S = 600
"""Between two alarms about the same storage trouble."""
ACTIVITY_OTHER = 99
"""OCSF activity_id of what the class has no number for."""
DISK_TIGHT = "disk nearly full"
LOSS_CODES = {SPOOL_FULL: "EW-SPL-003", DISK_FULL: "EW-SPL-006"}
"""Reason of a loss -> code; every other reason is damage."""

T = TypeVar("T")


class StorageThread:
    """Owns journal and spool; implements ports.Drain.

    Every method may be called from any thread; only start() and stop() block.

    Args:
        open_journal: called on the storage thread; opens the spool and the journal on it.
        introduction: who vouches for the report key of this start.
        clock: ages of batches.
        bulk_commit_s, bulk_commit_bytes: when a batch of bulk facts becomes a record.
        aside: the folder of records that the broker will never take; None keeps none.
    """

    def __init__(
        self,
        open_journal: Callable[[], Journal],
        introduction: Introduction,
        clock: Clock,
        *,
        bulk_commit_s: float,
        bulk_commit_bytes: int,
        aside: Path | None = None,
    ) -> None:
        self._aside = None if aside is None else Aside(aside)
        self._open_journal = open_journal
        self._introduction = introduction
        self._clock = clock
        self._intake = Intake(clock, bulk_commit_s, bulk_commit_bytes)
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._opened: Future[None] = Future()
        # Written by the storage thread, replaced whole, read by anybody:
        self._state: dict[int, ClassState] = {}
        self._heads: Heads = {}
        self._fault: EdgewardenError | None = None
        self._busy_since_ns: int | None = None
        self._totals: Counter[str] = Counter()
        self._watchers: tuple[Callable[[], None], ...] = ()
        # The storage thread's own:
        self._introduced = False
        self._told_ns: dict[str, int] = {}

    def start(self) -> None:
        """Start the thread; return when the spool is open and the report key was introduced, or
        could not be because the disk is full (fault() says so; it is tried again).

        Raises:
            EdgewardenError: what opening the spool raised; the thread has ended.
        """
        self._thread.start()
        self._opened.result()

    def submit_event(self, event: Event, record_class: RecordClass) -> None:
        """Take one event; alarm and audit become durable at once, bulk with the next batch."""
        self._intake.add_event(event, record_class)

    def submit_reading(self, reading: Reading) -> None:
        """Take one reading for the next batch."""
        self._intake.add_reading(reading)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter that the next batch carries (ring overflows, bad frames, ...)."""
        self._intake.count(name, amount)

    def flush(self) -> Future[None]:
        """Resolves when everything submitted before is durable or counted as lost.

        Its exception is the disk's refusal when something still waits.
        """
        done: Future[None] = Future()
        if not self._intake.flush(done):
            done.set_exception(OurFault("the storage has stopped"))
        return done

    def attest(self, evidence: bytes, heads: Heads) -> Future[int]:
        """Store an attestation record: SHA-256 of the evidence message, and the heads it names."""
        digest = hashlib.sha256(evidence).digest()
        return self._call(lambda journal: journal.attestation(digest, heads))

    def keep_evidence(self, message: bytes) -> Future[int]:
        """Store evidence that nobody asked for; it leaves with the other records."""
        return self._call(lambda journal: journal.evidence(message))

    async def peek(
        self, record_class: int, after_seq: int, count: int, max_bytes: int
    ) -> list[Stored]:
        """See ports.Drain."""
        work = self._call(lambda j: j.spool.peek(record_class, after_seq, count, max_bytes))
        return await asyncio.wrap_future(work)

    def ack(self, record_class: int, upto_seq: int) -> None:
        """See ports.Drain."""
        self._call(lambda journal: journal.spool.ack(record_class, upto_seq))

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        """See ports.Drain."""
        refuses = f"the broker refuses it with {reason:#04x}"  # beyond a byte: link/window.py
        why = f"set aside: {refuses if reason <= 0xFF else 'the verifier does not store it'}"
        box = self._aside
        if box is None:
            return False
        work = self._call(lambda journal: journal.set_aside(record_class, seq, why, box))
        return await asyncio.wrap_future(work)

    def state(self) -> dict[int, ClassState]:
        """See ports.Drain."""
        return self._state

    def heads(self) -> Heads:
        """class -> (sequence, hash) of the latest durable record."""
        return self._heads

    def totals(self) -> dict[str, int]:
        """Counters since start: events, batches, readings, and everything lost by name."""
        return dict(self._totals)

    def fault(self) -> EdgewardenError | None:
        """What the disk refused at the last try; None when it worked."""
        return self._fault

    def busy_since_ns(self) -> int | None:
        """CLOCK_BOOTTIME since when one round of work takes, None while idle: for the watchdog."""
        return self._busy_since_ns

    def alive(self) -> bool:
        """False when the thread ended by stop() or by a defect; then nothing is stored any more."""
        return self._thread.is_alive()

    def watch(self, changed: Callable[[], None]) -> None:
        """See ports.Drain."""
        self._watchers = (*self._watchers, changed)

    def stop(self) -> None:
        """Commit what waits, close the spool, end the thread. Blocks for a commit per record."""
        self._intake.close()
        if self._thread.is_alive():
            self._thread.join()

    def _call(self, work: Callable[[Journal], T]) -> Future[T]:
        done: Future[T] = Future()
        if not self._intake.call(work, done):
            done.set_exception(OurFault("the storage has stopped"))
        return done

    # --- the storage thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            journal = self._open_journal()
        except BaseException as fault:
            self._intake.close()
            self._opened.set_exception(fault)
            return
        try:
            self._round(journal, force=False)
            self._opened.set_result(None)
            last = False
            while not last:
                last = self._intake.wait(RETRY_S if self._fault else None)
                self._busy_since_ns = self._clock.now().boot_ns
                self._round(journal, force=last)
                self._busy_since_ns = None
        except BaseException as fault:
            self._fault = OurFault(f"the storage thread ended: {fault!r}")
            raise
        finally:
            self._end(journal)

    def _end(self, journal: Journal) -> None:
        self._intake.close()
        if not self._opened.done():
            self._opened.set_exception(self._fault or OurFault("the storage thread ended"))
        for _, done in self._intake.take_calls():
            done.set_exception(OurFault("the storage has stopped"))
        for done in self._intake.take_flushes():
            done.set_exception(OurFault("the storage has stopped"))
        journal.spool.close()

    def _round(self, journal: Journal, *, force: bool) -> None:
        """Everything there is to do now, then publish the new picture."""
        flushes = self._intake.take_flushes()
        try:
            self._store(journal, force or bool(flushes))
            self._fault = None
        except HardwareFault as fault:
            self._fault = fault
        answers = [(done, _outcome(work, journal)) for work, done in self._intake.take_calls()]
        before = self._heads
        # First the picture, then the answers: who has an answer sees what it led to.
        self._state, self._heads = journal.spool.state(), journal.heads()
        for done, (value, failure) in answers:
            if failure is None:
                done.set_result(value)
            else:
                done.set_exception(failure)
        for done in flushes:
            if self._fault is None:
                done.set_result(None)
            else:
                done.set_exception(self._fault)
        if self._heads != before:
            for changed in self._watchers:
                changed()

    def _store(self, journal: Journal, force: bool) -> None:
        if not self._introduced:
            journal.introduce(self._introduction)
            self._introduced = True
        self._tell(journal)
        refused: dict[RecordClass, SpoolFull] = {}
        while (waiting := self._intake.front(refused)) is not None:
            try:
                journal.event(*waiting)
            except SpoolFull as full:
                refused[waiting[0]] = full
                continue
            self._intake.pop(waiting[0])
            self._totals[f"{waiting[0].label}_events"] += 1
        batch = self._intake.take_batch(force)
        if batch is not None:
            self._store_batch(journal, batch)
        self._tell(journal)
        if refused:
            raise next(iter(refused.values()))

    def _store_batch(self, journal: Journal, batch: Batch) -> None:
        """Store a batch, in halves where it is too long for one record or holds an odd fact."""
        pending = [batch]
        while pending:
            part = pending.pop()
            facts = len(part.readings) + len(part.events)
            try:
                journal.batch(part.readings, part.events, part.counts)
            except SpoolFull as full:
                self._not_stored(part, facts)
                if isinstance(full, DiskTight):
                    self._alarm(journal, DISK_TIGHT, _tight_event)
            except Unstorable:
                if facts < 2:
                    self._lose("bulk_unstorable", facts)
                else:
                    pending.extend(reversed(part.halves()))
            except HardwareFault:
                for rest in (part, *reversed(pending)):
                    self._intake.put_back(rest)
                raise
            else:
                self._totals["batches"] += 1
                self._totals["readings"] += len(part.readings)
                self._totals["bulk_events"] += len(part.events)
                self._totals.update(part.counts)

    def _not_stored(self, part: Batch, facts: int) -> None:
        """Facts are lost and counted; what the batch counted itself goes with a later one."""
        for name, amount in part.counts.items():
            self._intake.count(name, amount)
        if facts:
            self._lose("bulk_no_room", facts)

    def _lose(self, name: str, amount: int) -> None:
        self._totals[name] += amount
        self._intake.count(name, amount)

    def _tell(self, journal: Journal) -> None:
        """Write gap records for damage, and alarms about what went missing and why."""
        for loss in (*journal.explain_losses(), *journal.take_evictions()):
            self._alarm(journal, loss.reason, partial(_loss_event, loss))

    def _alarm(self, journal: Journal, reason: str, make: Callable[[int], Event]) -> None:
        """Store an alarm of the storage's own, unless one with this reason was told just now."""
        now_ns = self._clock.now().boot_ns
        told_ns = self._told_ns.get(reason)
        if told_ns is None or now_ns - told_ns >= TELL_AGAIN_S * 1_000_000_000:
            self._told_ns[reason] = now_ns
            try:
                journal.event(RecordClass.ALARM, make(now_ns))
            except SpoolFull:
                self._lose("alarm_no_room", 1)


def _outcome(work: Callable[[Journal], T], journal: Journal) -> tuple[T | None, Exception | None]:
    """What a call returns or raises."""
    try:
        return work(journal), None
    except Exception as fault:
        return None, fault


def _tight_event(now_ns: int) -> Event:
    """The alarm about bulk that is not stored; how much it was rides in the next batch's counts."""
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.HIGH,
        seen_mono_ns=now_ns,
        detail={"what": "bulk is not stored", "why": DISK_TIGHT},
        code="EW-SPL-006",
    )


def _loss_event(loss: Loss, now_ns: int) -> Event:
    """The alarm about records that are gone; the gap record in audit has the hashes."""
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.HIGH,
        seen_mono_ns=now_ns,
        detail={
            "what": "records lost",
            "why": loss.reason,
            "class": RecordClass(loss.record_class).label,
            "first": loss.first,
            "last": loss.last,
        },
        code=LOSS_CODES.get(loss.reason, "EW-SPL-002"),
    )
