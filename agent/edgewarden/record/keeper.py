"""What the storage thread does in one round: on the disk, or in memory while that takes nothing.

Decides the order of work and what happens when the disk refuses. Leaves to journal.py what stands
in a record, to intake.py when a commit is due, to storage.py the thread and who waits for it.

* Alarm and audit: each event is a record and a commit of its own, at once, alarms first. Bulk: one
  record per batch. The batch's age is the window of bulk facts that a power cut can take.
* The first records of every start introduce the report key; before they are durable nothing else
  is written.
* A disk that refuses is tried again every RETRY_S with what waits. Bulk that finds no room is
  dropped and counted.
* A class without room waits by itself: the others go on.
* A filesystem that takes nothing at all is left: what comes is signed in memory, and the disk is
  asked again now and then (refuge.py). A start may find it so.
* Evictions, damage, a disk that takes no bulk and one that takes nothing are told by an alarm, at
  most one per reason and TELL_AGAIN_S; the storage's own trouble never makes a record per try.

    keeper = Keeper(open_journal, introduction, clock, intake)
    keeper.open(); keeper.work(force=False); keeper.publish()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault, OurFault
from edgewarden.ports import ClassState, Clock, Stored
from edgewarden.record.alarms import (
    DISK_TIGHT,
    IN_MEMORY,
    away_event,
    back_event,
    loss_event,
    tight_event,
)
from edgewarden.record.intake import Batch, Intake
from edgewarden.record.journal import DiskTight, Introduction, Journal, SpoolFull, Unstorable
from edgewarden.record.refuge import LOOK_S, Picture, Refuge
from edgewarden.record.segment import DiskRefuses
from edgewarden.wire.burst import Part
from edgewarden.wire.evidence import Heads
from edgewarden.wire.facts import Event
from edgewarden.wire.record import MEMORY, RecordClass

RETRY_S = 1.0
"""Between tries while the disk refuses: an SD card that stalls comes back within seconds."""
TELL_AGAIN_S = 600
"""Between two alarms about the same storage trouble."""
LOST = frozenset({"bulk_no_room", "alarm_no_room", "bulk_unstorable", "memory_refused"})
"""Counters of our own that stand for facts that are gone."""

Write = Callable[[Sequence[Part], Sequence[Event], Mapping[str, int]], object]
"""Makes a record of a batch: Journal.batch, or that of the chain in memory."""


class Keeper:
    """See the module's docstring. Storage thread only; every method blocks on the disk.

    Attributes:
        state, heads, memory, fault, totals: the picture, replaced whole; read by anybody.
        tight: the filesystem is too full for bulk: the last batch was counted and not stored.
    """

    def __init__(
        self,
        open_journal: Callable[[], Journal],
        introduction: Introduction,
        clock: Clock,
        intake: Intake,
        refuge: Refuge | None = None,
    ) -> None:
        self._open_journal = open_journal
        self._introduction = introduction
        self._clock = clock
        self._intake = intake
        self._refuge = refuge
        self._journal: Journal | None = None
        self.state: dict[int, ClassState] = {}
        self.heads: Heads = {}
        self.memory = Picture()
        self.fault: EdgewardenError | None = None
        self.totals: Counter[str] = Counter()
        self.tight = False
        self._introduced = False
        self._told_ns: dict[str, int] = {}
        self._lost_before = 0
        self._told_away = False
        self._signs = True  # the key's holder took the last record in memory

    def open(self) -> None:
        """Open the spool, or begin without it where it can be read and not written."""
        try:
            self._journal = self._open_journal()
        except DiskRefuses as fault:
            if self._refuge is None:
                raise
            try:
                self.state = self._refuge.last_known()
            except EdgewardenError:
                raise fault from None
            self._leave_disk(fault, {})

    def wait(self) -> bool:
        """Until there is work; while records are kept in memory, facts need not wait for a disk."""
        if self._journal is None and self._refuge is not None:
            free = self._signs and all(map(self._refuge.chain.has_room, RecordClass))
            return self._intake.wait(None if free else RETRY_S, LOOK_S)
        return self._intake.wait(RETRY_S if self.fault else None)

    def work(self, *, force: bool) -> None:
        """Store everything that is due, or all there is; ``fault`` says what was refused."""
        try:
            self._come_back(force)
            self._store(self.disk(), force)
            self.fault = None
        except (HardwareFault, OperatorFault) as fault:  # the latter: another link has the lock now
            self.fault = fault.to_keep()
            if isinstance(fault, DiskRefuses) and self._journal is not None:
                self._leave_disk(fault, self._journal.spool.heads())
        if self._journal is None:
            self._store_in_memory(force)

    def close(self) -> None:
        """Close the spool; raises nothing."""
        if self._journal is not None:
            self._journal.spool.close()

    def lost(self) -> int:
        """Facts that found no room since the start, on the disk or in memory."""
        return self._intake.lost + sum(n for name, n in self.totals.items() if name in LOST)

    def publish(self) -> bool:
        """Replace the picture; whether there is something new to send."""
        before = self.heads, self.memory.signed
        if self._journal is not None:
            self.state, self.heads = self._journal.spool.state(), self._journal.heads()
        if self._refuge is not None:
            self.memory = self._refuge.picture()
            if self.memory.signed:
                self.state = {**self.state, MEMORY: self._refuge.chain.state()}
        return before != (self.heads, self.memory.signed)

    def disk(self) -> Journal:
        """The journal; raises EdgewardenError while there is none."""
        if self._journal is None:
            raise self.fault or OurFault("there is no spool")
        return self._journal

    def peek(self, c: int, after_seq: int, count: int, max_bytes: int) -> list[Stored]:
        """As ports.Spool.peek; the chain in memory as class MEMORY."""
        if self._refuge is not None and c == MEMORY:
            return self._refuge.chain.peek(after_seq, count, max_bytes)
        if self._refuge is not None and self._journal is None:
            return self._refuge.peek(c, max(after_seq, self.state[c].acked), count, max_bytes)
        return self.disk().spool.peek(c, after_seq, count, max_bytes)

    def ack(self, c: int, upto_seq: int) -> None:
        """As ports.Spool.ack."""
        if self._refuge is not None and c == MEMORY:
            self._refuge.chain.ack(upto_seq)
        elif self._journal is not None:
            self._journal.spool.ack(c, upto_seq)
        else:
            known = self.state[c]
            acked = max(known.acked, min(upto_seq, known.durable))
            self.state = {**self.state, c: replace(known, acked=acked)}

    # --- the disk goes, and comes back ----------------------------------------------------------

    def _leave_disk(self, fault: DiskRefuses, heads: Mapping[int, tuple[int, bytes]]) -> None:
        """Let go of every file, and say so."""
        if self._refuge is None:
            return
        if self._journal is not None:
            self.state = self._journal.spool.state()
            self._journal.spool.close()
            self._journal = None
        audit = self.state.get(RecordClass.AUDIT)
        self._refuge.enter(heads, audit.durable if audit else 0)
        self.fault, self._lost_before, self._told_away = fault.to_keep(), self.lost(), False

    def _come_back(self, force: bool) -> None:
        """Ask the disk, and where it takes everything again, go on there.

        Raises:
            HardwareFault: it does not.
        """
        refuge = self._refuge
        if self._journal is not None or refuge is None or refuge.since_ns is None:
            return
        if not (force or refuge.due()):
            raise self.fault or OurFault("there is no spool")
        journal = refuge.open(self.state)
        try:
            if not self._introduced:
                journal.introduce(self._introduction)
                self._introduced = True
            chain = refuge.chain
            for part, more in refuge.pieces() if chain.head else ():
                data = [record.data for record in part]
                journal.end_of_memory(chain.kid, (chain.head, chain.digest), data, more=more)
                chain.ack(part[-1].seq if part else chain.head)
        except BaseException:
            # What was taken meanwhile counts: it is not waited for here any more.
            refuge.know(journal.spool.heads())
            self.state = {**self.state, **journal.spool.state()}
            journal.spool.close()
            raise
        now_ns, lost = self._clock.mono_ns(), self.lost() - self._lost_before
        if self._told_away:
            told = back_event(refuge.since_ns, refuge.chain.head, lost, now_ns)
            self._intake.add_event(told, RecordClass.AUDIT)
        self._journal = journal
        refuge.leave()

    def _store_in_memory(self, force: bool) -> None:
        """Sign what waits, as far as there is room."""
        if self._refuge is None:
            return
        now_ns, chain = self._clock.mono_ns(), self._refuge.chain
        if not self._told_away and self._is_news(IN_MEMORY, now_ns):
            self._told_away = True
            why = "" if self.fault is None else self.fault.text
            self._intake.add_event(away_event(why, now_ns), RecordClass.ALARM)
        refused = {c for c in RecordClass if not chain.has_room(c)}
        self._signs = True
        try:
            while (waiting := self._intake.front(refused)) is not None:
                chain.event(*waiting)
                self._intake.pop(waiting[0])
                self.totals[f"{waiting[0].label}_events"] += 1
                refused = {c for c in RecordClass if not chain.has_room(c)}
            if RecordClass.BULK not in refused:
                batch = self._intake.take_batch(force)
                if batch is not None:
                    self._store_batch(chain.batch, batch)
        except HardwareFault as fault:  # a key's holder: nothing was signed, and all of it waits
            self.fault, self._signs = fault.to_keep(), False

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
            self.totals[f"{waiting[0].label}_events"] += 1
        batch = self._intake.take_batch(force)
        if batch is not None:
            self.tight = self._store_batch(journal.batch, batch)
            if self.tight:
                self._alarm(journal, DISK_TIGHT, tight_event)
        self._tell(journal)
        if refused:
            raise next(iter(refused.values()))

    def _store_batch(self, write: Write, batch: Batch) -> bool:
        """Store a batch, in halves where it is too long for one record or holds an odd fact.

        Returns:
            Whether the filesystem is too full for bulk.
        """
        pending, tight = [batch], False
        while pending:
            part = pending.pop()
            facts = part.facts
            try:
                write(part.readings, part.events, part.counts)
            except SpoolFull as full:
                self._not_stored(part, facts)
                tight = tight or isinstance(full, DiskTight)
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
                self.totals["batches"] += 1
                self.totals["readings"] += part.count
                self.totals["bulk_events"] += len(part.events)
                self.totals.update(part.counts)
        return tight

    def _not_stored(self, part: Batch, facts: int) -> None:
        """Facts are lost and counted; what the batch counted itself goes with a later one."""
        for name, amount in part.counts.items():
            self._intake.count(name, amount)
        if facts:
            self._lose("bulk_no_room", facts)

    def drop(self, seq: int) -> None:
        """The broker will never take a record of the chain in memory: it is lost, and counted."""
        self.ack(MEMORY, seq)
        self._lose("memory_refused", 1)

    def _lose(self, name: str, amount: int) -> None:
        """Count facts that are gone; the count rides in the next batch."""
        self.totals[name] += amount
        self._intake.count(name, amount)

    def _tell(self, journal: Journal) -> None:
        """Write gap records for damage, and alarms about what went missing and why."""
        for loss in (*journal.explain_losses(), *journal.take_evictions()):
            self._alarm(journal, loss.reason, partial(loss_event, loss))

    def _alarm(self, journal: Journal, reason: str, make: Callable[[int], Event]) -> None:
        """Store an alarm of the storage's own, unless one with this reason was told just now."""
        now_ns = self._clock.mono_ns()
        if self._is_news(reason, now_ns):
            try:
                journal.event(RecordClass.ALARM, make(now_ns))
            except SpoolFull:
                self._lose("alarm_no_room", 1)

    def _is_news(self, reason: str, now_ns: int) -> bool:
        """Whether this reason was not told just now; it is from here on."""
        told_ns = self._told_ns.get(reason)
        if told_ns is not None and now_ns - told_ns < TELL_AGAIN_S * 1_000_000_000:
            return False
        self._told_ns[reason] = now_ns
        return True
