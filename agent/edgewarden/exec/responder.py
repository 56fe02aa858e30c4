"""The responder: every exec event gets a verdict by content, and exactly one answer.

What this decides, for each event, in order:

1. Not a regular file: ``not_a_file``, allowed (the kernel executes none).
2. Permission event and somebody has the file open for writing, or asked to while it was hashed:
   ``being_written``, denied. The kernel itself would say ETXTBSY a moment later, unless the writer
   changed the content and closed it in just that moment.
3. (device, inode, ctime, mtime, size) is in the cache (exec/digest.py): its digest is used.
4. Longer than MAX_HASH_BYTES: ``too_large``, judged as not listed. A file that long cannot be on
   the allowlist.
5. It waits for its turn to be hashed (exec/queue.py), SLICE_BYTES at a time; between two slices
   whatever is new is looked at. Who waits behind more than PENDING_AT_MOST: ``crowded_out``, not
   allowed; an answer for want of room must not be a way in.
6. The rule that the table finds for content and subject (exec/subject.py): ``listed``, allowed, or
   ``ruled_out``, not allowed; content of the critical set: ``critical``, allowed; none:
   ``unlisted``.
7. What would be denied by these may still be excused (lockout/excuses.py), by a reason of its own.
8. Anything raised on the way, or that takes too long: ``undecidable``, allowed (strict: denied), an
   alarm for each. So is what still waits when the marks are taken away: closing has allowed it.

The mode then makes it a decision: learn ``learned``; observe ``allow`` or ``would_deny``; enforce
``allow`` or ``deny``. Who does not wait cannot be denied: ``would_deny``, or, where ``kills`` says
so, ``killed`` after the start (after_start.py).

What was started a moment ago is answered by exec/quick.py, which leaves the rest to these rules;
what starts again and again is not asked for, but told (exec/spares.py). Answers come first, reports
later (exec/reports.py). Per event nothing is opened on a filesystem that can be marked.

A read lease is held from before the first byte is read until the verdict, and looked at in the end:
the kernel takes it away after 45 s from who does not give it back, and a hash may be interrupted
for longer than that. Who waits for his turn holds none. Under enforce the lease of a program that
may run is kept until it runs (exec/hold.py). Scripts are judged when they are executed; that an
interpreter reads the same bytes afterwards, nobody promises.

What this leaves to others: marks (exec/marks.py), the table (judge/), sending facts (daemon/).

    gate.serve(group)                # when the group is readable, and as long as gate.busy
"""

from __future__ import annotations

import os
from stat import S_ISREG

from edgewarden.errors import HardwareFault
from edgewarden.exec.after_start import end
from edgewarden.exec.digest import MAX_HASH_BYTES, Digests
from edgewarden.exec.hold import Hold, lend_lease
from edgewarden.exec.judged import Counters, Judged, Patience
from edgewarden.exec.opened import Opened
from edgewarden.exec.queue import PENDING_AT_MOST, Queue
from edgewarden.exec.quick import Quick
from edgewarden.exec.reports import REPORT_AFTER_S, Reports
from edgewarden.exec.spares import Spares
from edgewarden.judge.exec_table import CRITICAL
from edgewarden.kernel.fanotify import EVENTS_PER_READ, UNTOLD, ExecEvent
from edgewarden.wire.local import UNKNOWN_UID, AnyMessage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.digest import Hashing
    from edgewarden.exec.subject import Subjects
    from edgewarden.judge.exec_rules import Rule, Subject
    from edgewarden.kernel.fanotify import Group

SLICE_BYTES = 1 << 20
"""Hashed before new events are looked at: 3 ms (x86-64), 8 ms on a Pi 4."""
FILE_COST_BYTES = 64 << 10
"""What a file costs beside its bytes, in bytes: of small ones a slice takes at most 16."""


class ExecGate:
    """Judges, answers and reports; one thread; opens nothing by itself.

    Args:
        judge: digest and subject -> the rule that answers, or None. Raises nothing for 32 bytes.
        subjects: who asks.
        report: takes a fact; must not block.
        proc_link: name below /proc -> what the link says.
        boot_ns, wall_ns: CLOCK_BOOTTIME and CLOCK_REALTIME.
        mono_s: CLOCK_MONOTONIC in seconds.
        program_of: as exec/hold.py wants it.
        tier: of TIERS, for the facts.
        excuse: a reason of REASONS for which ``one`` is allowed although it would be denied; "" for
            none. Asked in observe and enforce only.
    """

    def __init__(
        self,
        *,
        judge: Callable[[bytes, Subject], Rule | None],
        subjects: Subjects,
        report: Callable[[AnyMessage], None],
        proc_link: Callable[[str], bytes],
        boot_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        mono_s: Callable[[], float],
        program_of: Callable[[int], tuple[int, int] | None],
        tier: str,
        excuse: Callable[[Judged], str] = lambda one: "",
    ) -> None:
        self._excuse, self._subjects, self._program_of = excuse, subjects, program_of
        self._boot_ns, self._mono_s = boot_ns, mono_s
        self.mode = "learn"
        self.digests = Digests(wall_ns)
        self.kills, self.patience, self._counters = False, Patience(mono_s), Counters()
        self.opened: Opened | None = None
        self._strict = False
        self.quick = Quick(
            judge=judge, digests=self.digests, subjects=subjects, counters=self._counters,
            mono_s=mono_s, boot_ns=boot_ns,
        )  # fmt: skip
        self.spares = Spares(self.quick.word, subjects, self._counters, boot_ns, mono_s)
        self.hold = Hold(program_of, self.spares)
        self.reports = Reports(report, proc_link, self.hold, self._counters, tier)
        self._queue: Queue[Judged] = Queue()

    def serve(self, group: Group) -> int:
        """Answer what waits, at most one read of the group and one slice of hashing. Reports follow
        with ``tick``.

        Returns:
            The number of events.

        Raises:
            HardwareFault: the kernel refuses to be read or answered. The caller must close the
                group: that allows whatever still waits.
        """
        if self.in_passing(group):
            if not self.quick.left and self.quick.broken is None:
                self.quick.serve(group)
            events, self.quick.left = self.quick.left, []
        elif group.permission or len(self._queue) <= PENDING_AT_MOST - EVENTS_PER_READ:
            events = group.read()
        else:
            events = []  # without marks that hold, they wait in the kernel
        for event in events:
            self._arrive(Judged(event, self.mode, self._boot_ns()), group)
        if self._queue:
            self._hash_some(group)
        self.reports.after_round(self._mono_s(), at_once=not group.permission)
        if self.quick.broken is not None:
            broken, self.quick.broken = self.quick.broken, None
            raise broken
        return len(events)

    def in_passing(self, group: Group) -> bool:
        """Whether ``quick`` may answer what waits there; the rest is for ``serve``."""
        return group.in_passing and group.permission and self.mode == "enforce"

    @property
    def strict(self) -> bool:
        """Openings wait, too, and are for ``opened`` to decide; what cannot be judged is denied."""
        return self._strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self._strict = strict
        self.quick.be_strict(strict)

    def work(self) -> None:
        """As ``serve``, where there is no group: what ``inspect`` took is hashed."""
        self._hash_some(None)
        self.reports.all(self._mono_s())

    def inspect(self, fd: int, pid: int) -> None:
        """Judge and report what already runs (proc connector); ``fd`` stays the caller's."""
        event = ExecEvent(0, os.dup(fd), pid, UNTOLD)
        self._arrive(Judged(event, self.mode, self._boot_ns()), None)

    @property
    def counters(self) -> Counters:
        """What was done until now, also in passing."""
        self.quick.settle()
        return self._counters

    @property
    def busy(self) -> bool:
        """Whether somebody's program is still to be hashed: call again at once."""
        return len(self._queue) > 0

    @property
    def due_mono(self) -> float | None:
        """When ``tick`` has something to do; None while it has not."""
        if self.quick.since_mono is not None:
            return self.quick.since_mono + REPORT_AFTER_S
        return self.reports.due_mono or self.hold.due_mono

    def tick(self, now_mono: float) -> None:
        """Report what started a moment ago, and let go of others; raises as ``serve``."""
        if self.quick and not self.quick.is_due(now_mono):
            return
        if self.quick or (self.spares and now_mono >= (self.hold.due_mono or 0.0)):
            self.hear(now_mono)
        self.reports.tick(now_mono)
        self.hold.look(now_mono)

    def hear(self, now_mono: float) -> None:
        """Report what was answered in passing, or was not asked for and is told by ``spares``."""
        for one in self.quick.take(self.mode):
            self.reports.add(one)
        self.reports.all(now_mono)  # first: what was asked for is not to be reported again
        if self.spares:
            for one in self.spares.hear(now_mono):
                self.reports.add(one)
            self.reports.all(now_mono)

    def finish(self) -> None:
        """The marks are gone: report what is left and let go of everything."""
        for one in self._queue.take_all():
            if one.event.wants_answer:
                self._give_up(one, "the marks were taken away first")
                self._conclude(one, None, allowed=True)
            else:
                self._queue.add(one)  # nobody waits for it, and it can still be seen
        self.hear(self._mono_s())
        self.spares.end()
        self.hold.clear()

    def new_policy(self) -> None:
        """What was remembered of the policy's word is void."""
        self.quick.forget()
        self.spares.all_again()
        if self.opened is not None:
            self.opened.forget()

    def _arrive(self, one: Judged, group: Group | None) -> None:
        """Answer at once what need not be hashed; the rest waits for its turn."""
        if self._go_on(one, group, 0):
            return
        if self._queue:  # whoever waits alone is in nobody's way
            self._attribute(one)
            one.asker = one.uid
        self._queue.add(one)
        surplus = self._queue.surplus()
        if surplus is not None:
            surplus.reason = "crowded_out"
            self._queue.remove(surplus)
            self._conclude(surplus, group, allowed=False)

    def _hash_some(self, group: Group | None) -> None:
        left_bytes = SLICE_BYTES
        while self._queue and left_bytes > 0:
            one = self._queue.next()
            before_bytes = one.left_bytes
            if self._go_on(one, group, left_bytes):
                self._queue.remove(one)
            left_bytes -= FILE_COST_BYTES + max(0, before_bytes - one.left_bytes)

    def _go_on(self, one: Judged, group: Group | None, most_bytes: int) -> bool:
        """Take ``one`` further, and answer it when it has its verdict; raises nothing: whoever
        waits for it must get one."""
        try:
            allowed = self.patience.within(lambda: self._judge(one, most_bytes))
        except Exception as fault:
            self._give_up(one, f"{type(fault).__name__}: {fault}")
            allowed = not self.strict
        if allowed is not None and one.event.is_opening:
            self._conclude_opening(one, group, allowed=allowed)
        elif allowed is not None:
            self._conclude(one, group, allowed=allowed)
        return allowed is not None

    def _give_up(self, one: Judged, why: str) -> None:
        one.reason, one.digest, one.rule, one.inode = "undecidable", b"", None, None
        one.fault = why
        self._counters.undecidable += 1

    def _conclude(self, one: Judged, group: Group | None, *, allowed: bool) -> None:
        """Decide by the mode, and answer. Whoever waits in a group that is closed needs none."""
        counters = self._counters
        if not allowed and one.mode != "learn":
            allowed = self._is_excused(one)
        if one.mode == "learn":
            one.decision = "learned"
            counters.learned += 1
        elif allowed:
            one.decision = "allow"
            counters.allowed += 1
        elif one.mode == "enforce" and one.event.wants_answer:
            one.decision = "deny"
            counters.denied += 1
        elif one.mode == "enforce" and self.kills and end(one.event, self._program_of):
            one.decision = "killed"
            counters.killed += 1
        else:
            one.decision = "would_deny"
            counters.would_deny += 1
        self.reports.add(one)
        if group is None or not one.event.wants_answer:
            return
        denied = one.decision == "deny"
        if denied and one.uid == UNKNOWN_UID:
            self._attribute(one)  # it may end at once
        try:
            if not group.answer(one.event.fd, allow=not denied):
                counters.unanswered += 1
        except HardwareFault as fault:
            self.quick.broken = fault
        if one.uid == UNKNOWN_UID:
            self._attribute(one)
        if one.inode is not None:
            lend_lease(one, self._mono_s())

    def _is_excused(self, one: Judged) -> bool:
        try:
            reason = self.patience.within(lambda: self._excuse(one))
            if reason and one.event.wants_answer and one.lease.granted:
                status = os.fstat(one.event.fd)
                one.inode = status.st_dev, status.st_ino
        except Exception as fault:
            self._give_up(one, f"{type(fault).__name__}: {fault}")
            return not self.strict
        one.reason = reason or one.reason
        return bool(reason)

    def _judge(self, one: Judged, most_bytes: int) -> bool | None:
        """Whether it is allowed; None: it is still to be hashed, by more than ``most_bytes``."""
        fd, hashing = one.event.fd, one.hashing
        if one.event.is_opening:
            return self.opened is None or self.opened.judge(one, most_bytes, self.quick.rule_for)
        if hashing is None:
            if one.event.wants_answer or most_bytes:
                one.lease.take()
            status = os.fstat(fd)  # after the lease: as it is now it stays
            if not S_ISREG(status.st_mode):
                one.reason = "not_a_file"
                return True
            if one.event.wants_answer and one.lease.writer_lives:
                one.reason = "being_written"
                return False
            known = self.digests.known(status, fd)
            if known is not None:
                self._counters.cached += 1
                one.known = known
                return self._look_up(one, known.digest, self.quick.ask(known, one.event), status)
            if status.st_size > MAX_HASH_BYTES:
                one.reason = "too_large"
                return False
            one.size_bytes = status.st_size
            if not most_bytes:
                one.lease.release()
                return None
            hashing = one.hashing = self.digests.begin(status)
        if not hashing.step(fd, most_bytes):
            return None
        return self._judge_hashed(one, hashing)

    def _conclude_opening(self, one: Judged, group: Group | None, *, allowed: bool) -> None:
        """Answer; a denial is reported, the rest is not: a Python program opens a hundred files."""
        if not allowed:
            self._conclude(one, group, allowed=False)
            return
        try:
            if group is not None:
                group.answer(one.event.fd, allow=True)
        except HardwareFault as fault:
            self.quick.broken = fault
        one.event.close()

    def _judge_hashed(self, one: Judged, done: Hashing) -> bool:
        self._counters.hashed += 1
        quiet, one.known = self.digests.finish(done, one.event.fd, one.lease)
        if not one.event.wants_answer:
            one.lease.release()
        elif not quiet:
            one.reason = "being_written"
            return False
        if not done.digest:
            one.reason = "too_large"
            return False
        rule = self.quick.rule_for(None, done.digest, one.event)
        return self._look_up(one, done.digest, rule, os.fstat(one.event.fd))

    def _look_up(
        self, one: Judged, digest: bytes, rule: Rule | None, status: os.stat_result
    ) -> bool:
        one.digest = digest
        one.rule = None if rule is None else rule.name
        if self.opened:
            self.opened.runs(digest, status)
        if rule is None or not rule.allow:
            one.reason = "unlisted" if rule is None else "ruled_out"
            return False
        one.reason = "critical" if rule is CRITICAL else "listed"
        if self.opened and self.strict:
            self.opened.started(one, status)
        if one.event.wants_answer and one.lease.granted:
            one.inode = status.st_dev, status.st_ino
        return True

    def _attribute(self, one: Judged) -> None:
        """Whose process it is: of who is denied or queued before the answer, else right after."""
        try:
            one.uid = self._subjects.uid_of(one.event)
        except Exception:
            one.uid = UNKNOWN_UID  # no reason to leave somebody waiting
