"""Tier T2: programs stopped before their first instruction, told as events of a fanotify group are.

What this decides, for each record of the BPF programs (deploy/bpf/), in order:

1. ``STOPPED``: the process is held by a pidfd, its program opened through /proc/PID/exe. Lies that
   on a filesystem that is not watched (stop/places.py), it goes on at once. Can it not be read
   without waiting for somebody else, it is killed. Else it is an ExecEvent that wants an answer:
   the responder judges it by the same code as a permission event.
2. The answer is SIGCONT or SIGKILL through the pidfd, never through a number, and only while the
   process still runs what was judged: who has executed another program since is stopped anew, and
   has a record of its own. Where that does not come within OWED_NS it goes on; where it cannot be
   seen what a process runs, the verdict there is holds. Nobody is left standing.
3. ``KILLED``: a user who may start nothing; the kernel has done it, it is only told.
4. ``RESUMED``: somebody else sent SIGCONT to a process that stands still. It may run unjudged for
   the moment until its verdict, which nothing at this tier can prevent (ADR 13); it is told.

Whoever stands still is let go when the group closes. That a responder which dies leaves nobody
standing is for stop/resume.py.

What it leaves to others: verdicts (exec/responder.py), whom to stop at all (``aim``), beats.

    stopper = Stopper(Libbpf(), mono_ns=time.monotonic_ns)
    stopper.aim(Aim(otherwise=STOP))
    group = StopGroup(stopper, places, ...)     # programs are stopped from here on
"""

from __future__ import annotations

import errno
import os
import struct

from edgewarden.errors import HardwareFault
from edgewarden.kernel.bpf_objects import EXEC_STOP
from edgewarden.kernel.fanotify import EVENTS_PER_READ, FAN_OPEN_EXEC_PERM, ExecEvent, Group
from edgewarden.kernel.libbpf import Libbpf, Ring
from edgewarden.kernel.libc import refused
from edgewarden.kernel.process import open_pidfd, signal_pidfd
from edgewarden.kernel.signals import SIGCONT, SIGKILL
from edgewarden.stop.aim import PASS, Aim
from edgewarden.stop.places import JUDGE, SPARE
from edgewarden.stop.resume import resume
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.stop.places import Places

# exec_stop.bpf.c
STOPPED, KILLED, RESUMED = 0, 1, 2
COUNTERS = ("stopped", "killed", "stale", "no_room", "resumed")
OWED_NS = 10**9
"""A record is in the ring before its process stands still; read it is within a second, or else
nobody is stopped any more (STALE_NS)."""
OWED_AT_MOST = 64
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_SETTINGS = struct.Struct("=QQIIII")
_EVENT = struct.Struct("=QIIII16s")
_ATTACHED = (("signal_generate", "exec_resumed"), ("sched_process_exec", "exec_stop"))
"""The second starts to stop programs, so it comes last."""


class Told(Frozen):
    """One record of the BPF programs.

    Attributes:
        kind: STOPPED, KILLED or RESUMED.
        pid: whose exec it is.
        uid: its user; of RESUMED the sender's.
        sender: pid of who sent the SIGCONT, 0 otherwise.
        name: the kernel's short name of the process (RESUMED: of the sender).
    """

    __slots__ = ("kind", "name", "pid", "sender", "uid")
    kind: int
    pid: int
    uid: int
    sender: int
    name: bytes


class Stopper:
    """The loaded programs. One thread; nothing here blocks, and after the start nothing is opened.

    Args:
        bpf: the library.
        mono_ns: CLOCK_MONOTONIC, which the kernel compares the beat with.

    Raises:
        HardwareFault: this kernel does not load them.
    """

    def __init__(self, bpf: Libbpf, *, mono_ns: Callable[[], int]) -> None:
        self._bpf = bpf
        self._mono_ns = mono_ns
        self._aim = Aim(PASS, (), (0, 0))
        self._told: list[Told] = []
        self._most = EVENTS_PER_READ
        self._links: list[int] = []
        self._owed: dict[int, tuple[int, int]] = {}
        self._fds = bpf.load(EXEC_STOP)
        self._ring = Ring(bpf, self._fds["events"], self._take)
        self.fd = self._ring.fd

    def aim(self, aim: Aim) -> None:
        """Whom to stop from now on; takes effect at once where programs are attached.

        Raises:
            HardwareFault: more users than the map holds.
        """
        for uid, _ in self._aim.users:
            self._bpf.drop(self._fds["users"], _U32.pack(uid))
        for uid, action in aim.users:
            self._bpf.put(self._fds["users"], _U32.pack(uid), _U32.pack(action))
        self._aim = aim
        self.beat()

    def single_out(self, pid: int, action: int) -> None:
        """PASS, STOP or KILL for one process, whoever it is (the canary's own children)."""
        self._bpf.put(self._fds["tasks"], _U32.pack(pid), _U32.pack(action))

    def beat(self) -> None:
        """Say that somebody is there to answer; a second without it and nobody is stopped."""
        cgroup, level = self._aim.cgroup
        ours = _SETTINGS.pack(self._mono_ns(), cgroup, level, self._aim.otherwise, os.getpid(), 0)
        self._bpf.put(self._fds["settings"], _U32.pack(0), ours)

    def attach(self) -> None:
        """Stop programs from here on; twice is harmless.

        Raises:
            HardwareFault: the kernel refuses; nothing is attached then.
        """
        if self._links:
            return
        self.beat()
        try:
            for tracepoint, program in _ATTACHED:
                self._links.append(self._bpf.attach(tracepoint, self._fds[program]))
        except HardwareFault:
            self.detach()
            raise

    def detach(self) -> None:
        """Stop nobody any more; twice is harmless."""
        links, self._links = self._links, []
        for fd in reversed(links):
            os.close(fd)

    def read(self, most: int = EVENTS_PER_READ) -> list[Told]:
        """The next records, at most ``most``."""
        self._most = most
        self._ring.consume()
        told, self._told = self._told, []
        return told

    def let_go(self) -> None:
        """Resume whoever was stopped and is unread, or owed a record: nobody will judge them."""
        self.let_overdue_go(all_now=True)
        for told in self.read(1 << 30):
            if told.kind == STOPPED:
                resume(told.pid)

    def owe(self, pid: int, pidfd: int) -> None:
        """Its verdict is not for what it runs by now: another record of it must come."""
        self._paid(pid)
        if len(self._owed) < OWED_AT_MOST:
            self._owed[pid] = os.dup(pidfd), self._mono_ns()
        else:
            signal_pidfd(pidfd, SIGCONT)

    def let_overdue_go(self, *, all_now: bool = False) -> None:
        """Resume who is owed a record that has not come; call it once a second or so."""
        now_ns = self._mono_ns()
        for pid, (pidfd, since_ns) in list(self._owed.items()):
            if all_now or now_ns - since_ns >= OWED_NS:
                signal_pidfd(pidfd, SIGCONT)
                self._paid(pid)

    def _paid(self, pid: int) -> None:
        owed = self._owed.pop(pid, None)
        if owed is not None:
            os.close(owed[0])

    def counters(self) -> dict[str, int]:
        """What the programs have counted since they were loaded, by COUNTERS."""
        found = {}
        for number, name in enumerate(COUNTERS):
            value = self._bpf.get(self._fds["counters"], _U32.pack(number), _U64.size)
            found[name] = 0 if value is None else _U64.unpack(value)[0]
        return found

    def close(self) -> None:
        """Detach, let go, unload; twice is harmless."""
        self.detach()
        if self._fds:
            self.let_go()
            self._ring.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def _take(self, record: bytes) -> bool:
        _, kind, pid, uid, sender, name = _EVENT.unpack(record)
        if kind == STOPPED:
            self._paid(pid)
        self._told.append(Told(kind, pid, uid, sender, name.rstrip(b"\0")))
        return len(self._told) < self._most


class StopGroup(Group):
    """Stopped programs in the shape of a fanotify permission group; see the module.

    Args:
        stopper: aimed, not attached.
        places: which filesystems are watched.
        proc_fd: /proc.
        proc_link: name below /proc -> what the link says.
        opener: as exec/marks.py wants it; opens below /proc.
        program_of: pid -> inode of the program it runs now, None when it is gone.
        tell: (what, record, path): ``barred`` for KILLED, ``out_of_reach`` for what was killed
            because it cannot be read, ``resumed`` for RESUMED.

    Raises:
        HardwareFault: the kernel refuses to attach.
    """

    __slots__ = (
        "_opener",
        "_places",
        "_proc_fd",
        "_proc_link",
        "_program_of",
        "_stopper",
        "_tell",
        "_waiting",
    )

    in_passing = False

    def __init__(
        self,
        stopper: Stopper,
        places: Places,
        *,
        proc_fd: int,
        proc_link: Callable[[str], bytes],
        opener: Callable[[int, str, int], int],
        program_of: Callable[[int], tuple[int, int] | None],
        tell: Callable[[str, Told, bytes], None],
    ) -> None:
        super().__init__(stopper.fd, True, True)
        self._stopper = stopper
        self._places = places
        self._proc_fd = proc_fd
        self._proc_link = proc_link
        self._opener = opener
        self._program_of = program_of
        self._tell = tell
        self._waiting: dict[int, ExecEvent] = {}
        stopper.attach()

    def read(self) -> list[ExecEvent]:
        """As Group.read: at most EVENTS_PER_READ, and fewer when others need no verdict."""
        self._stopper.beat()
        events: list[ExecEvent] = []
        told = self._stopper.read()
        try:
            while told:
                self._one(told[0], events)
                del told[0]
        except BaseException:
            for pid in [event.pid for event in events] + [left.pid for left in told]:
                resume(pid)
            for event in events:
                del self._waiting[event.fd]
                event.close()
            raise
        return events

    def _one(self, told: Told, events: list[ExecEvent]) -> None:
        if told.kind == STOPPED:
            event = self._look(told)
            if event is not None:
                self._waiting[event.fd] = event
                events.append(event)
        else:
            self._tell("barred" if told.kind == KILLED else "resumed", told, b"")

    def _look(self, told: Told) -> ExecEvent | None:
        """The event, or None: gone, let go or killed already."""
        try:
            pidfd = open_pidfd(told.pid)
        except HardwareFault as fault:
            return self._gone(fault.fields.get("errno"), "pidfd_open")
        path_fd = -1
        try:
            path_fd = self._opener(self._proc_fd, f"{told.pid}/exe", os.O_PATH | os.O_CLOEXEC)
            where = self._places.look(told.pid, path_fd)
            if where == SPARE:
                signal_pidfd(pidfd, SIGCONT)
            elif where == JUDGE:
                name = f"self/fd/{path_fd}"
                fd = self._opener(self._proc_fd, name, os.O_RDONLY | os.O_CLOEXEC)
                event, pidfd = ExecEvent(FAN_OPEN_EXEC_PERM, fd, told.pid, pidfd), -1
                return event
            elif signal_pidfd(pidfd, SIGKILL):
                self._tell("out_of_reach", told, self._proc_link(f"self/fd/{path_fd}"))
        except OSError as fault:
            signal_pidfd(pidfd, SIGCONT)
            return self._gone(fault.errno, f"open(/proc/{told.pid}/exe)")
        finally:
            for fd in (path_fd, pidfd):
                if fd >= 0:
                    os.close(fd)
        return None

    @staticmethod
    def _gone(number: object, call: str) -> None:
        """A process that has ended is no fault; all else ends the group, as a failed read does."""
        if number not in (errno.ENOENT, errno.ESRCH):
            raise refused(call, number if isinstance(number, int) else 0)

    def answer(self, fd: int, *, allow: bool) -> bool:
        """Let the process of the event with ``fd`` go on, or kill it.

        Returns:
            False when it has ended, or runs another program by now: that one has a record.
        """
        event = self._waiting.pop(fd, None)
        if event is None:
            return False
        status, now = os.fstat(fd), self._program_of(event.pid)
        if now is not None and now != (status.st_dev, status.st_ino):
            if all(other.pid != event.pid for other in self._waiting.values()):
                self._stopper.owe(event.pid, event.pidfd)
            return False
        return signal_pidfd(event.pidfd, SIGCONT if allow else SIGKILL)

    def close(self) -> None:
        """Detach, and let everybody go who waits; twice is harmless."""
        if self.fd < 0:
            return
        self.fd = -1
        self._stopper.detach()
        for event in self._waiting.values():
            if event.pidfd >= 0:
                signal_pidfd(event.pidfd, SIGCONT)
        self._waiting.clear()
        self._stopper.let_go()
