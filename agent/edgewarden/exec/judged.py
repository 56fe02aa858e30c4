"""What the responder knows of one exec event, what it counts of all, and how long it may take.

Decides nothing; exec/responder.py fills the first two in.
"""

from __future__ import annotations

from edgewarden.kernel.lease import ReadLease
from edgewarden.kernel.signals import ITIMER_REAL, SIGALRM, setitimer, signal
from edgewarden.wire.local import UNKNOWN_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from edgewarden.exec.digest import Hashing, Known
    from edgewarden.kernel.fanotify import ExecEvent

    T = TypeVar("T")

OVERDUE_S = 1.8
"""Longer than an idle gate's heartbeat (1.2 s), and less than guard's patience (2.5 s)."""
FRESH_S = 0.2
"""Who is judged behind an older heartbeat has a new one first, so that the time is his."""
LATE_S, GRACE_S = 0.1, 0.5
"""Where the signal itself comes so late, gate was kept from running, and judges on for so long:
guard, which was late then, too, gives it a second."""


class Counters:
    """What the responder has done since its start."""

    __slots__ = (
        "allowed", "cached", "denied", "hashed", "killed", "learned", "unanswered", "undecidable",
        "unreported", "would_deny",
    )  # fmt: skip

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.would_deny = 0
        self.killed = 0
        """After their start."""
        self.learned = 0
        self.undecidable = 0
        self.hashed = 0
        self.cached = 0
        self.unreported = 0
        self.unanswered = 0
        """Answers nobody waited for any more: the process had been killed."""


class Judged:
    """An event from its arrival to its report."""

    __slots__ = (
        "asker", "boot_ns", "decision", "digest", "event", "fault", "hashing", "inode", "known",
        "lease", "mode", "owner", "reason", "rule", "size_bytes", "uid",
    )  # fmt: skip

    def __init__(self, event: ExecEvent, mode: str, boot_ns: int) -> None:
        self.event = event
        self.mode = mode
        self.size_bytes = 0
        self.hashing: Hashing | None = None
        self.uid = UNKNOWN_UID
        self.asker = UNKNOWN_UID
        self.lease = ReadLease(event.fd)
        self.reason = "undecidable"
        self.digest = b""
        self.rule: str | None = None
        self.decision = "allow"
        self.fault = ""
        self.boot_ns = boot_ns
        self.inode: tuple[int, int] | None = None
        self.known: Known | None = None
        self.owner = False

    @property
    def left_bytes(self) -> int:
        """What is still to be hashed."""
        return self.size_bytes - (0 if self.hashing is None else self.hashing.at)


class Overdue(Exception):
    """Judging one event took so long that others may not be left waiting for it."""


class Patience:
    """Ends a judgement that does not come to an end: what is raised in it is that event's fault.

    Wound up with each heartbeat; the handler of the signal that comes when no other followed raises
    in this thread. It reaches what loops, or waits where a signal can; what waits in the kernel
    where none can ends with gate, by guard. Time in which gate did not run is no judgement's fault:
    otherwise whoever keeps the processors busy at the right moment starts what he likes.

    Attributes:
        beat: sends a heartbeat; raises nothing.
    """

    __slots__ = ("_begun", "_due_mono", "_excused", "_judging", "_mono_s", "_stale_mono", "beat")

    def __init__(self, mono_s: Callable[[], float]) -> None:
        self._begun = self._judging = self._excused = False
        self._mono_s = mono_s
        self._due_mono = self._stale_mono = float("inf")
        self.beat: Callable[[], None] = lambda: None

    def wind(self) -> None:
        """All is well; from now on OVERDUE_S. In the process whose only responder this is."""
        if not self._begun:
            self._begun = True
            signal(SIGALRM, lambda _signal, _frame: self.end())
        self._excused = False
        now_mono = self._mono_s()
        self._stale_mono, self._due_mono = now_mono + FRESH_S, now_mono + OVERDUE_S
        setitimer(ITIMER_REAL, OVERDUE_S)

    def within(self, act: Callable[[], T]) -> T:
        """``act``, which may be ended. Raises what it raises, or Overdue."""
        if self._mono_s() >= self._stale_mono:
            self.wind()
            self.beat()
        self._judging = True
        try:
            return act()
        finally:
            self._judging = False

    def end(self) -> None:
        """Raise Overdue if something is being judged, once. Late for the first time: a little more
        time."""
        if not self._judging:
            return
        if self._mono_s() - self._due_mono >= LATE_S and not self._excused:
            self._excused = True
            self._due_mono = self._mono_s() + GRACE_S
            setitimer(ITIMER_REAL, GRACE_S)
            return
        self._judging = False
        raise Overdue
