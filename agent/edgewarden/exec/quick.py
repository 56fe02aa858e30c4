"""The short way: an exec of what was started a moment ago and is allowed.

What this decides, for one event: yes, or nothing (then exec/responder.py looks at it from the
beginning). Yes, if all of this holds:

1. (device, inode, ctime, mtime, size) is in the cache (exec/digest.py), and
2. the read lease of an earlier start is still ours (exec/hold.py): nobody can have opened the file
   for writing since it was judged. A writer who asks waits until we let go of it; the kernel takes
   it away by itself only after fs.lease-break-time (45 s), so one that was seen to be held a
   TRUSTED_S ago is ours, and
3. the rule that answers for the content lets it through. What a rule without a subject says is
   remembered until the policy changes; of the subject nothing is read then. What one says that
   asks for user or unit is remembered for that user in that cgroup, and the kernel is asked each
   time who it is; one that asks for the parent is judged each time.

Why it is written as it is: while a program is opened gate sleeps, and whoever was waiting is woken
on gate's processor, behind gate's priority. Every instruction between waking up and going back to
sleep, also after the answer, is time of somebody's exec, and met with cold caches: 4 us of work
take 17 to the answer, and 7 were lost after it (2 cores, 6.18). So fcntl is not called (under the
audit hook of gate, gate/doors.py, each call of it is one of the hook, too), gate sleeps here
(``serve_until``), soon in the read itself, and what was answered is only numbers until ``settle``
counts them and ``take`` makes reports of them. What starts again and again need not even be
answered (exec/spares.py).

    ready = quick.serve_until(waiting, group, due_mono)       # what is not answered here
    for one in quick.take(): ...   # later
"""

from __future__ import annotations

from errno import ENOENT
from os import close, fstat, read, write
from select import EPOLLIN

from edgewarden.errors import HardwareFault
from edgewarden.exec.digest import PACK_KEY, TOLD, key_of, only_root
from edgewarden.exec.judged import Judged
from edgewarden.exec.reports import REPORT_AFTER_S, REPORTS_AT_MOST
from edgewarden.exec.subject import Anybody, SubjectCounts
from edgewarden.judge.exec_table import CRITICAL
from edgewarden.kernel.fanotify import (
    FAN_ALLOW,
    FAN_MODIFY,
    FAN_OPEN_EXEC_PERM,
    FAN_OPEN_PERM,
    FEW_BYTES,
    USUAL,
    USUAL_RECORD,
    USUAL_RECORD_AT,
    ExecEvent,
    answer_refused,
    pack_answer,
    parse_events,
    unread,
    usual_head,
)
from edgewarden.kernel.process import ids_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import stat_result
    from typing import Protocol

    from edgewarden.exec.digest import Digests, Known
    from edgewarden.exec.judged import Counters
    from edgewarden.exec.subject import Subject as Asker
    from edgewarden.exec.subject import Subjects
    from edgewarden.judge.exec_rules import Rule, Subject
    from edgewarden.kernel.fanotify import Group

    class Bell(Protocol):
        due_mono: float
        rung: bool

        def may_sleep(self, group: Group, due_mono: float) -> bool: ...
        def wake(self, group: Group) -> None: ...

    class Sleeper(Protocol):
        poll: Callable[[float, int], list[tuple[int, int]]]

        @property
        def bell(self) -> Bell: ...

    Judge = Callable[[bytes, Subject], Rule | None]
    Done = tuple[int, int, int, Known, Rule, int, stat_result, float]
    """fd, pid and pidfd of the event, content, rule, uid, file, and last when (mono)."""

ANYBODY = Anybody()
LIVELY_S = 0.05
"""After a start gate expects another one, and sleeps where it hears of it first (gate/waiting.py),
for the price of a second thread that wakes up every 5 ms meanwhile."""
READY_AT_ONCE = 64
"""Descriptors of one round; there are seldom more than ten."""
TRUSTED_S = 1.0
"""``look`` asks every 5 ms; longer than this gate has been kept from running."""


class Quick:
    """See the module.

    Args:
        judge: digest and subject -> the rule that answers, or None.
        digests: the cache.
        subjects: who asks.
        counters: of the responder.
        mono_s: CLOCK_MONOTONIC in seconds.
        boot_ns: CLOCK_BOOTTIME.

    Attributes:
        judge: as above.
        left: events of the last ``serve`` that have no answer yet.
        broken: the kernel could not be read, or took no answer.
    """

    __slots__ = (
        "_answer", "_asks", "_boot_ns", "_catch_up", "_counters", "_done", "_epoch", "_head",
        "_known", "_lively_mono", "_mono_s", "_settled", "_subjects", "broken", "judge", "left",
        "mask",
    )  # fmt: skip

    def __init__(
        self,
        *,
        judge: Judge,
        digests: Digests,
        subjects: Subjects,
        counters: Counters,
        mono_s: Callable[[], float],
        boot_ns: Callable[[], int],
    ) -> None:
        self.judge = judge
        self.left: list[ExecEvent] = []
        self.broken: HardwareFault | None = None
        self._known = digests.known_by_key
        self._catch_up = digests.catch_up
        self._subjects = subjects
        self._counters = counters
        self._mono_s = mono_s
        self._boot_ns = boot_ns
        self._epoch, self._asks = object(), object()
        self._done: list[Done] = []
        self._settled = 0
        self._lively_mono = 0.0
        self.be_strict(False)

    def __len__(self) -> int:
        """How many ``take`` would give."""
        return len(self._done)

    @property
    def since_mono(self) -> float | None:
        """When the oldest that ``take`` would give was answered; None: there is none."""
        return self._done[0][-1] if self._done else None

    def is_due(self, now_mono: float) -> bool:
        """Whether what ``take`` would give is to be reported: it waited, or it is much."""
        since_mono = self.since_mono
        waited = since_mono is not None and now_mono >= since_mono + REPORT_AFTER_S
        return waited or len(self._done) >= REPORTS_AT_MOST

    def forget(self) -> None:
        """The policy is another: what was remembered of its word is void."""
        self._epoch, self._asks = object(), object()

    def serve_until(self, waiting: Sleeper, group: Group, due_mono: float) -> list[tuple[int, int]]:
        """Sleep, and answer in passing what can be, until there is something else to do.

        Args:
            waiting: as gate/waiting.py's.
            group: enforcing; its mode changes with nothing that happens here.
            due_mono: when somebody has something to do anyway.

        Returns:
            What is ready; [] when something is due.
        """
        fd, mono_s, done = group.fd, self._mono_s, self._done
        poll, bell = waiting.poll, waiting.bell
        now_mono = mono_s()
        while now_mono < due_mono:
            until_mono = min(due_mono, self._lively_mono)
            if now_mono < until_mono and bell.may_sleep(group, until_mono):
                try:
                    answered = self._serve_asleep(bell, group)
                finally:
                    bell.wake(group)
                if not answered:
                    return [(fd, EPOLLIN)]
                ready = poll(0.0, READY_AT_ONCE)
            else:
                ready = poll(due_mono - now_mono, READY_AT_ONCE)
            if len(done) >= REPORTS_AT_MOST or (ready and (len(ready) > 1 or ready[0][0] != fd)):
                return ready
            if ready:
                if not self.serve(group):
                    return ready
                self._lively_mono = mono_s() + LIVELY_S
            since_mono = self.since_mono
            if since_mono is not None and since_mono + REPORT_AFTER_S < due_mono:
                due_mono = since_mono + REPORT_AFTER_S
            now_mono = mono_s()
        return []

    def _serve_asleep(self, bell: Bell, group: Group) -> bool:
        """``serve``, which sleeps now, until the bell has rung or something is due; its word."""
        group_fd, done = group.fd, self._done
        answer, unpack, head = self._answer, USUAL.unpack, self._head
        while True:
            try:
                data = read(group_fd, FEW_BYTES)
            except OSError as fault:
                data = self._unread(fault)
            if (
                len(data) == USUAL.size
                and data.startswith(head)
                and data.startswith(USUAL_RECORD, USUAL_RECORD_AT)
            ):
                fd, pid, pidfd = unpack(data)
                now_mono = answer(group_fd, fd, pid, pidfd)
                if now_mono is None:
                    self.left.append(ExecEvent(self.mask, fd, pid, pidfd))
            else:
                now_mono = self._take_in(data, group_fd)
            if self.left or self.broken is not None:
                return False
            if now_mono is not None:
                self._lively_mono = now_mono + LIVELY_S
                if now_mono >= bell.due_mono or len(done) >= REPORTS_AT_MOST:
                    return True
                if done and done[0][-1] + REPORT_AFTER_S < bell.due_mono:
                    bell.due_mono = done[0][-1] + REPORT_AFTER_S
            if bell.rung:
                return True

    def serve(self, group: Group) -> bool:
        """Read once, and answer what can be answered at once; whether that was everything. If not,
        the rest is in ``left``, or ``broken`` says why not."""
        try:
            data = read(group.fd, FEW_BYTES)
        except OSError as fault:
            data = self._unread(fault)
        self._take_in(data, group.fd)
        return not self.left and self.broken is None

    def _unread(self, fault: OSError) -> bytes:
        try:
            return unread(fault)
        except HardwareFault as broken:
            self.broken = broken  # the event is gone with it: asking again would say nothing
            return b""

    def _take_in(self, data: bytes, group_fd: int) -> float | None:
        """Answer what can be; when the last of them was (mono), None: none."""
        last_mono = None
        for event in parse_events(data):
            if event.mask == FAN_MODIFY:
                event.close()  # the bell
                continue
            now_mono = None
            if event.mask == self.mask:
                now_mono = self._answer(group_fd, event.fd, event.pid, event.pidfd)
            if now_mono is None:
                self.left.append(event)
            else:
                last_mono = now_mono
        return last_mono

    def be_strict(self, strict: bool) -> None:
        """Answer openings in passing, not execs: those have an opening of their own to come
        (exec/opened.py)."""
        self.mask = FAN_OPEN_PERM if strict else FAN_OPEN_EXEC_PERM
        self._head = usual_head(self.mask)
        self._answer = self._opening if strict else self._one

    def _opening(self, group_fd: int, fd: int, _pid: int, pidfd: int) -> float | None:
        """As exec/opened.py, rule 3, where the rule is the same for all; else as ``_one``."""
        try:
            self._catch_up()
            status = fstat(fd)
            known = self._known(key_of(status))
        except Exception:
            return None  # the long way finds out what is wrong, and says it
        if known is None or known.epoch is not self._epoch or not only_root(status):
            return None
        if known.rule is None or not known.rule.allow:
            return None
        try:
            write(group_fd, pack_answer(fd, FAN_ALLOW))
        except OSError as fault:
            if fault.errno != ENOENT:
                self.broken = answer_refused(fault)
        close(fd)
        if pidfd >= 0:
            close(pidfd)
        return self._mono_s()

    def _one(self, group_fd: int, fd: int, pid: int, pidfd: int) -> float | None:
        """Answer, if all of the module's rules hold; when it was judged (mono), None: not here."""
        try:
            status = fstat(fd)
            known = self._known(
                PACK_KEY(
                    status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns,
                    status.st_size,
                )
            )  # fmt: skip
            if known is None or known.lease_fd < 0:
                return None
            now_mono = self._mono_s()
            if now_mono - known.checked_mono > TRUSTED_S:
                return None
            rule, who, ids = known.rule, None, None
            if known.epoch is not self._epoch:
                if known.epoch is self._asks:
                    ids = ids_of(pidfd)
                    rule = None if ids is None else known.told.get(ids)
                if ids is None or rule is None:
                    who = self._subjects.of(ExecEvent(FAN_OPEN_EXEC_PERM, fd, pid, pidfd))
                    rule = self._ask(known, who)
            if rule is None or not rule.allow:
                return None
        except Exception:
            return None  # the long way finds out what is wrong, and says it
        try:
            write(group_fd, pack_answer(fd, FAN_ALLOW))
        except OSError as fault:
            if fault.errno == ENOENT:
                self._counters.unanswered += 1
            else:
                self.broken = answer_refused(fault)
        if ids is None and who is None:
            ids = ids_of(pidfd)
        if ids is not None:
            uid = ids[0]
        elif who is not None:
            uid = who.uid
        else:  # it was killed meanwhile, or the kernel is older
            uid = self._subjects.uid_of(ExecEvent(FAN_OPEN_EXEC_PERM, fd, pid, pidfd))
        self._done.append((fd, pid, pidfd, known, rule, uid, status, now_mono))
        return now_mono

    def ask(self, known: Known, event: ExecEvent) -> Rule | None:
        """The rule for a content and who asks; remembered where it is the same for all."""
        if known.epoch is self._epoch:
            return known.rule
        return self._ask(known, self._subjects.of(event))

    def _ask(self, known: Known, who: Asker) -> Rule | None:
        if known.epoch is not self._asks:
            known.told.clear()
            try:
                known.rule = self.judge(known.digest, ANYBODY)
                known.epoch = self._epoch
                return known.rule
            except SubjectCounts:
                known.epoch = self._asks
        rule = self.judge(known.digest, who)
        ids = who.ids
        if ids is not None and rule is not None and rule.allow and len(known.told) < TOLD:
            known.told[ids] = rule
        return rule

    def word(self, known: Known) -> Rule | None:
        """What the policy is known to say of a content, whoever asks."""
        return known.rule if known.epoch is self._epoch else None

    def rule_for(self, known: Known | None, digest: bytes, event: ExecEvent) -> Rule | None:
        """As ``ask``, also for a content that is not kept."""
        if known is not None:
            return self.ask(known, event)
        return self.judge(digest, self._subjects.of(event))

    def settle(self) -> None:
        """Count what was answered: for whoever is about to look at the counters, or at what still
        relies on a lease. Twice is harmless."""
        counters, fresh = self._counters, self._done[self._settled :]
        for _, _, _, known, _, _, _, then_mono in fresh:
            known.used_mono = then_mono
            known.starting += 1
        counters.cached += len(fresh)
        counters.allowed += len(fresh)
        self._settled = len(self._done)

    def take(self, mode: str) -> list[Judged]:
        """What was answered since, to be reported and held."""
        self.settle()
        taken = []
        boot_ns, mono_s = self._boot_ns(), self._mono_s()
        for fd, pid, pidfd, known, rule, uid, status, then_mono in self._done:
            event = ExecEvent(FAN_OPEN_EXEC_PERM, fd, pid, pidfd)
            one = Judged(event, mode, boot_ns - int((mono_s - then_mono) * 1e9))
            one.reason = "critical" if rule is CRITICAL else "listed"
            one.digest, one.rule, one.known = known.digest, rule.name, known
            one.inode = status.st_dev, status.st_ino
            one.uid = uid
            known.again = True
            taken.append(one)
        self._done.clear()
        self._settled = 0
        return taken
