"""The one thread that touches the disk and signs records.

Decides who waits for what. Leaves to keeper.py the work, to intake.py when some is due. The event
loop hands facts in and gets futures out: it never waits for a disk, and no other thread sees
SQLite. state() is the picture after the last commit: ``durable`` never runs ahead of the disk.

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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgewarden.errors import EdgewardenError, HardwareFault, OurFault
from edgewarden.ports import ClassState, Clock, Stored
from edgewarden.record.aside import Aside
from edgewarden.record.fresh import Fresh
from edgewarden.record.intake import Intake
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.keeper import Keeper
from edgewarden.record.refuge import Picture, Refuge
from edgewarden.record.wear import Wear
from edgewarden.wire.evidence import Heads
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.record import MEMORY, RecordClass

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
        refuge: where records go while the disk takes none; without one they wait in the intake.
        wear, fresh: what open_journal's journals count in, and keep their newest records in.
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
        refuge: Refuge | None = None,
        wear: Wear | None = None,
        fresh: Fresh | None = None,
    ) -> None:
        self._wear = wear or Wear()
        self._fresh = fresh or Fresh()
        self._aside = None if aside is None else Aside(aside)
        self._clock = clock
        self._intake = Intake(clock, bulk_commit_s, bulk_commit_bytes)
        self._keeper = Keeper(open_journal, introduction, clock, self._intake, refuge)
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._opened: Future[None] = Future()
        self._busy_since_ns: int | None = None
        self._watchers: tuple[Callable[[], None], ...] = ()

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

    def submit_readings(self, readings: Sequence[Reading]) -> None:
        """Take several, in order."""
        self._intake.add_readings(readings)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter that the next batch carries (ring overflows, bad frames, ...)."""
        self._intake.count(name, amount)

    def fill(self) -> float:
        """How full the queue to this thread is, 0 to 1 (intake.py)."""
        return self._intake.fill()

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
        return self._call(lambda: self._keeper.disk().attestation(digest, heads))

    def keep_evidence(self, message: bytes) -> Future[int]:
        """Store evidence that nobody asked for; it leaves with the other records."""
        return self._call(lambda: self._keeper.disk().evidence(message))

    async def peek(
        self, record_class: int, after_seq: int, count: int, max_bytes: int
    ) -> list[Stored]:
        """See ports.Drain."""
        if (fresh := self._fresh.peek(record_class, after_seq, count, max_bytes)) is not None:
            return fresh
        work = self._call(lambda: self._keeper.peek(record_class, after_seq, count, max_bytes))
        return await asyncio.wrap_future(work)

    def ack(self, record_class: int, upto_seq: int) -> None:
        """See ports.Drain; seen in state() after the next round."""
        if record_class == MEMORY:  # it makes room, which facts may wait for
            self._call(lambda: self._keeper.ack(record_class, upto_seq))
        else:
            self._fresh.ack(record_class, upto_seq)
            self._intake.ack(record_class, upto_seq)

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        """See ports.Drain."""
        refuses = f"the broker refuses it with {reason:#04x}"  # beyond a byte: link/window.py
        why = f"set aside: {refuses if reason <= 0xFF else 'the verifier does not store it'}"
        box = self._aside
        if record_class == MEMORY:
            await asyncio.wrap_future(self._call(lambda: self._keeper.drop(seq)))
            return True
        if box is None:
            return False
        work = self._call(lambda: self._keeper.disk().set_aside(record_class, seq, why, box))
        return await asyncio.wrap_future(work)

    def state(self) -> dict[int, ClassState]:
        """See ports.Drain."""
        return self._keeper.state

    def heads(self) -> Heads:
        """class -> (sequence, hash) of the latest durable record.

        Raises:
            HardwareFault: records are kept in memory only. A start may never have known the heads,
                and evidence that names too little shows an older state: a copy.
        """
        if self._keeper.memory.since_ns is not None:
            raise HardwareFault(
                "records are kept in memory only: nothing durable can be attested",
                code="EW-SPL-010",
                next_step="run `edgewarden doctor disk`",
            )
        return self._keeper.heads

    def totals(self) -> dict[str, int]:
        """Counters since start: events, batches, readings, and everything lost by name."""
        return dict(self._keeper.totals)

    def wear(self) -> dict[str, int]:
        """Collector -> bytes of its durable records since the start (wear.py)."""
        return self._wear.snapshot()

    def memory(self) -> Picture:
        """Whether the disk is given up, and what is in memory for it."""
        return self._keeper.memory

    def lost(self) -> int:
        """Facts that found no room since the start."""
        return self._keeper.lost()

    def fault(self) -> EdgewardenError | None:
        """What the disk refused at the last try; None when it worked."""
        return self._keeper.fault

    def tight(self) -> bool:
        """Whether the filesystem is too full for bulk, which is counted and not stored."""
        return self._keeper.tight

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

    def _call(self, work: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        if not self._intake.call(work, done):
            done.set_exception(OurFault("the storage has stopped"))
        return done

    # --- the storage thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keeper.open()
        except BaseException as fault:
            self._intake.close()
            self._opened.set_exception(fault)
            return
        try:
            self._round(force=False)
            self._opened.set_result(None)
            last = False
            while not last:
                last = self._keeper.wait()
                self._busy_since_ns = self._clock.mono_ns()
                self._round(force=last)
                self._busy_since_ns = None
        except BaseException as fault:
            self._keeper.fault = OurFault(f"the storage thread ended: {fault!r}")
            raise
        finally:
            self._end()

    def _end(self) -> None:
        self._intake.close()
        if not self._opened.done():
            self._opened.set_exception(self._keeper.fault or OurFault("the storage thread ended"))
        for _, done in self._intake.take_calls():
            done.set_exception(OurFault("the storage has stopped"))
        for done in self._intake.take_flushes():
            done.set_exception(OurFault("the storage has stopped"))
        self._keeper.close()

    def _round(self, *, force: bool) -> None:
        """Everything there is to do now, then publish the new picture."""
        flushes, keeper = self._intake.take_flushes(), self._keeper
        for c, upto_seq in self._intake.take_acks().items():  # first: what is written carries it
            _outcome(partial(keeper.ack, c, upto_seq))
        keeper.work(force=force or bool(flushes))
        answers = [(done, _outcome(work)) for work, done in self._intake.take_calls()]
        # First the picture, then the answers: who has an answer sees what it led to.
        moved = keeper.publish()
        for done, (value, failure) in answers:
            if failure is None:
                done.set_result(value)
            else:
                done.set_exception(failure)
        for done in flushes:
            if keeper.fault is None:
                done.set_result(None)
            else:
                done.set_exception(keeper.fault)
        if moved:
            for changed in self._watchers:
                changed()


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What a call returns or raises."""
    try:
        return work(), None
    except Exception as fault:
        return None, fault
