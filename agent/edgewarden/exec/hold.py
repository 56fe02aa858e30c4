"""Between the verdict and the start: keep the judged content from being exchanged.

The kernel asks gate while it opens a program, and takes its own write lock (deny_write_access) only
after gate has answered. Whoever owns the file can write to it in between: one writer in a loop
beside one exec in a loop got 13 foreign contents started in 780 runs (ext4, 6.18). A read lease
makes such a writer wait, so the lease of an allowed program is kept until, in this order:

1. the process has ended, or
2. /proc/PID/exe is the judged file: now a running program holds the kernel's lock on it. (It is the
   judged file already when a program executes itself anew; the lock is held then just as well.) Or
3. HOLD_S is over: the exec failed for a reason of its own, or the process was kept from running.
   That is what remains of the gap, together with HOLD_ENTRIES.

Scripts are not held: their interpreter reads them again whenever it likes.

What this leaves to others: taking the lease (exec/responder.py), calling ``look`` (daemon/gate.py).

    hold.keep(event, (st_dev, st_ino), now_mono)
    hold.look(now_mono)          # at due_mono, every LOOK_S while anything is held
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.fanotify import ExecEvent

    Inode = tuple[int, int]
    """st_dev, st_ino."""

HOLD_S = 1.0
"""An exec takes about 1 ms; a writer who waits for this long has asked to change a program in the
very moment it starts."""
LOOK_S = 0.005
HOLD_ENTRIES = 128
"""Two descriptors each, of the 1024 that a process may have at the least."""


class Hold:
    """Events whose leases are kept; see the module.

    Args:
        program_of: pid -> the inode of /proc/PID/exe, None when it does not say.

    Attributes:
        overdue: let go without proof that the program had started.
        due_mono: when ``look`` has something to do, None while nothing is held.
    """

    __slots__ = ("_held", "_program_of", "due_mono", "overdue")

    def __init__(self, program_of: Callable[[int], Inode | None]) -> None:
        self._program_of = program_of
        self._held: list[tuple[ExecEvent, Inode, float]] = []
        self.overdue = 0
        self.due_mono: float | None = None

    def keep(self, event: ExecEvent, inode: Inode, now_mono: float) -> None:
        """Take the event, and with its descriptor the lease, unless it has started already."""
        if self._has_started(event, inode):
            event.close()
            return
        if len(self._held) >= HOLD_ENTRIES:
            self._held.pop(0)[0].close()
            self.overdue += 1
        self._held.append((event, inode, now_mono + HOLD_S))
        if self.due_mono is None:
            self.due_mono = now_mono + LOOK_S

    def look(self, now_mono: float) -> None:
        """Let go of what has started, ended or waited long enough."""
        if self.due_mono is None or now_mono < self.due_mono:
            return
        still = []
        for entry in self._held:
            event, inode, until_mono = entry
            if self._has_started(event, inode):
                event.close()
            elif now_mono >= until_mono:
                event.close()
                self.overdue += 1
            else:
                still.append(entry)
        self._held = still
        self.due_mono = now_mono + LOOK_S if still else None

    def _has_started(self, event: ExecEvent, inode: Inode) -> bool:
        return not event.is_alive() or self._program_of(event.pid) == inode

    def clear(self) -> None:
        """Let go of everything: the marks are gone."""
        for event, _, _ in self._held:
            event.close()
        self._held.clear()
        self.due_mono = None
