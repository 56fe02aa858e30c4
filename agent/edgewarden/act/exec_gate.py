"""The responder: every exec event gets a verdict by content, and exactly one answer.

What this decides, for each event, in order:

1. Not a regular file: ``not_a_file``, allowed (the kernel executes none).
2. Permission event and somebody has the file open for writing: ``being_written``, denied. The
   kernel itself would say ETXTBSY a moment later, unless the writer changed the content and closed
   it in just that moment.
3. (device, inode, ctime, mtime, size) is in the cache: its digest is used.
4. Longer than MAX_HASH_BYTES: ``too_large``, judged as not listed. A file that long cannot be on
   the allowlist.
5. SHA-256 of the content, read from the event's own descriptor: never by path, the path may lead
   elsewhere by now.
6. The table names a rule: ``listed``, allowed; none: ``unlisted``.
7. Anything raised on the way: ``undecidable``, allowed in this release, counted, and an alarm for
   each.

The mode then makes it a decision: learn ``learned``; observe ``allow`` or ``would_deny``; enforce
``allow`` or ``deny``.

Answers come first: what was answered is reported REPORT_AFTER_S later. Neither /proc nor a slow
link can delay an exec then, and gate, which goes before others, is not in the way of the process
that it has just let go (+140 us at p10 when it reported at once, machine busy). Per event nothing
is opened on a filesystem that can be marked.

The cache takes a digest only if a read lease was held all the while it was computed, fstat says the
same before and after, ctime is older than CTIME_SETTLE_NS (two changes within one tick of the
kernel's clock look like one), and the filesystem is one where a store through a mapping moves ctime
at all (act/exec_marks.py, CACHEABLE).

Under enforce the lease of a program that may run is kept until it runs (act/exec_hold.py). Scripts
are judged when they are executed; that an interpreter reads the same bytes afterwards, nobody
promises.

What this leaves to others: marks (act/exec_marks.py), the table (judge/), sending facts (daemon/).
"""

from __future__ import annotations

import os
import struct
from stat import S_ISREG

from edgewarden.act.exec_hold import LOOK_S, Hold
from edgewarden.errors import HardwareFault
from edgewarden.kernel.fanotify import UNTOLD, ExecEvent
from edgewarden.kernel.lease import ReadLease
from edgewarden.wire.lean import sha256
from edgewarden.wire.local import UNKNOWN_UID, Alarm, AnyMessage, ExecVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.fanotify import Group

MAX_HASH_BYTES = 128 << 20
"""Above the programs seen on gateways (a node or container runtime is 50 to 110 MB); at 325 MB/s
(measured, x86-64) 0.4 s in which other execs wait, on a Pi 4 about 1 s."""
CHUNK_BYTES = 128 << 10
"""Read at once while hashing: small beside gate's 6 MB, large beside a system call."""
CTIME_SETTLE_NS = 20_000_000
"""Two ticks of a kernel with HZ=100."""
CACHE_ENTRIES = 2048
"""About 240 bytes each; a gateway runs some hundred different programs."""

REPORT_AFTER_S = LOOK_S
"""One wake-up for both: by then most programs have started and need not be held. A process that
lives shorter is reported with the owner of its /proc entry, its effective uid."""
REPORTS_AT_MOST = 64
"""Two descriptors each."""
SCRIPT = b"#!"
"""How binfmt_script knows a script."""

_KEY = struct.Struct("<QQqqQ")
_U64 = (1 << 64) - 1


class Counters:
    """What the responder has done since its start."""

    __slots__ = (
        "allowed", "cached", "denied", "hashed", "learned", "unanswered", "undecidable",
        "unreported", "would_deny",
    )  # fmt: skip

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.would_deny = 0
        self.learned = 0
        self.undecidable = 0
        self.hashed = 0
        self.cached = 0
        self.unreported = 0
        self.unanswered = 0
        """Answers nobody waited for any more: the process had been killed."""


class _Judged:
    """An event between its answer and its report."""

    __slots__ = (
        "boot_ns",
        "decision",
        "digest",
        "event",
        "fault",
        "inode",
        "lease",
        "mode",
        "reason",
        "rule",
        "uid",
    )

    def __init__(self, event: ExecEvent, mode: str) -> None:
        self.event = event
        self.mode = mode
        self.uid = UNKNOWN_UID
        self.lease = ReadLease(event.fd)
        self.reason = "undecidable"
        self.digest = b""
        self.rule: str | None = None
        self.decision = "allow"
        self.fault = ""
        self.boot_ns = 0
        self.inode: tuple[int, int] | None = None


class ExecGate:
    """Judges, answers and reports; one thread; opens nothing by itself.

    Args:
        judge: digest -> name of the rule that allows it, or None. Raises nothing for 32 bytes.
        report: takes a fact; must not block.
        proc_text: name below /proc -> its first 4 KiB, "" when it is gone.
        proc_link: name below /proc -> what the link says.
        owner_of: pid -> owner of its /proc entry, UNKNOWN_UID when it is gone.
        boot_ns, wall_ns: CLOCK_BOOTTIME and CLOCK_REALTIME.
        mono_s: CLOCK_MONOTONIC in seconds.
        program_of: as act/exec_hold.py wants it.
        pulse: called between chunks of a long hash, so that guard hears a heartbeat.
        tier: of TIERS, for the facts.
    """

    def __init__(
        self,
        *,
        judge: Callable[[bytes], str | None],
        report: Callable[[AnyMessage], None],
        proc_text: Callable[[str], str],
        proc_link: Callable[[str], bytes],
        owner_of: Callable[[int], int],
        boot_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        mono_s: Callable[[], float],
        program_of: Callable[[int], tuple[int, int] | None],
        pulse: Callable[[], None],
        tier: str,
    ) -> None:
        self.judge = judge
        self.mode = "learn"
        self.tier = tier
        self.cacheable: set[int] = set()
        self.counters = Counters()
        self.hold = Hold(program_of)
        self._mono_s = mono_s
        self._report = report
        self._proc_text = proc_text
        self._proc_link = proc_link
        self._owner_of = owner_of
        self._boot_ns = boot_ns
        self._wall_ns = wall_ns
        self._pulse = pulse
        self._answered: list[_Judged] = []
        self._reports_due_mono: float | None = None
        self._cache: dict[bytes, bytes] = {}
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def serve(self, group: Group) -> int:
        """Answer what waits, at most one read of the group. Reports follow with ``tick``.

        Returns:
            The number of events.

        Raises:
            HardwareFault: the kernel refuses to be read or answered. The caller must close the
                group: that allows whatever still waits.
        """
        broken: HardwareFault | None = None
        events = group.read()
        for event in events:
            one = _Judged(event, self.mode)
            self._answered.append(one)
            self._decide(one)
            if event.wants_answer:
                self._attribute(one)
                try:
                    if not group.answer(event.fd, allow=one.decision != "deny"):
                        self.counters.unanswered += 1
                except HardwareFault as fault:
                    broken = fault
        now_mono = self._mono_s()
        if not group.permission or len(self._answered) >= REPORTS_AT_MOST:
            self._report_all(now_mono)
        elif self._reports_due_mono is None and events:
            self._reports_due_mono = now_mono + REPORT_AFTER_S
        if broken is not None:
            raise broken
        return len(events)

    @property
    def due_mono(self) -> float | None:
        """When ``tick`` has something to do; None while it has not."""
        return self._reports_due_mono or self.hold.due_mono

    def tick(self, now_mono: float) -> None:
        """Report what was answered a moment ago, and let go of what has started."""
        if self._reports_due_mono is not None and now_mono >= self._reports_due_mono:
            self._report_all(now_mono)
        self.hold.look(now_mono)

    def finish(self) -> None:
        """The marks are gone: report what is left and let go of everything."""
        self._report_all(self._mono_s())
        self.hold.clear()

    def _report_all(self, now_mono: float) -> None:
        answered, self._answered, self._reports_due_mono = self._answered, [], None
        for one in answered:
            try:
                self._report_one(one)
            except Exception:
                self.counters.unreported += 1
            finally:
                self._keep_or_close(one, now_mono)

    def inspect(self, fd: int, pid: int) -> None:
        """Judge and report a program that already runs (proc connector); ``fd`` stays the
        caller's."""
        one = _Judged(ExecEvent(0, fd, pid, UNTOLD), self.mode)
        self._decide(one)
        self._report_one(one)

    def _decide(self, one: _Judged) -> None:
        """Fill in the decision; raises nothing: whoever waits for it must get one."""
        one.boot_ns = self._boot_ns()
        try:
            allowed = self._judge(one)
        except Exception as fault:
            one.reason, one.digest, one.rule, one.inode = "undecidable", b"", None, None
            one.fault = f"{type(fault).__name__}: {fault}"
            self.counters.undecidable += 1
            allowed = True
        counters = self.counters
        if self.mode == "learn":
            one.decision = "learned"
            counters.learned += 1
        elif allowed:
            one.decision = "allow"
            counters.allowed += 1
        elif self.mode == "enforce" and one.event.wants_answer:
            one.decision = "deny"
            counters.denied += 1
        else:
            one.decision = "would_deny"
            counters.would_deny += 1

    def _judge(self, one: _Judged) -> bool:
        fd = one.event.fd
        before = os.fstat(fd)
        if not S_ISREG(before.st_mode):
            one.reason = "not_a_file"
            return True
        if one.event.wants_answer:
            one.lease.take()
            if one.lease.writer_lives:
                one.reason = "being_written"
                return False
        digest = self._digest(one, before)
        if not one.event.wants_answer:
            one.lease.release()
        if digest is None:
            one.reason = "too_large"
            return False
        one.digest = digest
        one.rule = self.judge(digest)
        if one.rule is None:
            one.reason = "unlisted"
            return False
        one.reason = "listed"
        if one.event.wants_answer and one.lease.granted:
            one.inode = before.st_dev, before.st_ino
        return True

    def _digest(self, one: _Judged, before: os.stat_result) -> bytes | None:
        """SHA-256 of the content, from the cache or read; None when it is too large."""
        key = _key(before)
        found = self._cache.get(key)
        if found is not None:
            self.counters.cached += 1
            return found
        if before.st_size > MAX_HASH_BYTES:
            return None
        settled = self._wall_ns() - before.st_ctime_ns >= CTIME_SETTLE_NS
        one.lease.take()
        digest = self._read_and_hash(one.event.fd)
        self.counters.hashed += 1
        if (
            digest is not None
            and settled
            and before.st_dev in self.cacheable
            and one.lease.held()
            and _key(os.fstat(one.event.fd)) == key
        ):
            if len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = digest
        return digest

    def _read_and_hash(self, fd: int) -> bytes | None:
        running = sha256()
        at = 0
        while count := os.preadv(fd, [self._buffer], at):
            running.update(self._buffer[:count])
            at += count
            if at > MAX_HASH_BYTES:
                return None  # it grew while it was read
            if at % (8 * CHUNK_BYTES) == 0:
                self._pulse()
        return running.digest()

    def _report_one(self, one: _Judged) -> None:
        event = one.event
        path = self._proc_link(f"self/fd/{event.fd}")
        uid = one.uid
        if one.decision != "deny" or uid == UNKNOWN_UID:
            now = self._uid(event)
            uid = uid if now == UNKNOWN_UID else now
        self._report(
            ExecVerdict(
                one.decision,
                one.reason,
                one.mode,
                self.tier,
                one.digest,
                one.rule or "",
                path,
                max(event.pid, 0),
                uid,
                one.boot_ns,
            )
        )
        if one.reason == "undecidable":
            text = f"not judged, allowed: {path.decode('utf-8', 'backslashreplace')}: {one.fault}"
            self._report(Alarm("EW-EXEC-007", 4, text, one.boot_ns))

    def _attribute(self, one: _Judged) -> None:
        """Whose process it is, while it waits for us: exactly for a denial, cheaply for the
        rest."""
        try:
            denied = one.decision == "deny"
            one.uid = self._uid(one.event) if denied else self._owner_of(one.event.pid)
        except Exception:
            one.uid = UNKNOWN_UID  # no reason to leave somebody waiting

    def _keep_or_close(self, one: _Judged, now_mono: float) -> None:
        """The lease goes with the descriptor: keep both of a program that may run."""
        try:
            if one.inode is not None and os.pread(one.event.fd, len(SCRIPT), 0) != SCRIPT:
                self.hold.keep(one.event, one.inode, now_mono)
                return
        except OSError:  # a disk that fails: nothing to protect any more
            self.counters.unreported += 1
        one.event.close()

    def _uid(self, event: ExecEvent) -> int:
        """Real uid of the process, if it is still the one that called execve."""
        text = self._proc_text(f"{event.pid}/status") if event.pid > 0 else ""
        at = text.find("\nUid:\t")
        if at < 0 or not event.is_alive():
            return UNKNOWN_UID
        return int(text[at + 6 :].split(None, 1)[0])


def _key(status: os.stat_result) -> bytes:
    return _KEY.pack(
        status.st_dev & _U64, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
    )
