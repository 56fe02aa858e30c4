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

A content that stands in the cache keeps its lease LINGER_S longer, unless somebody asks to write:
whatever starts it again meanwhile relies on that lease and needs none of its own (exec/quick.py).
Who asks to write waits until every one of those has started, as under 1 to 3; from the moment that
``look`` sees him, none relies on the lease any more. A lease is an open file: so long a filesystem
cannot be unmounted.

Scripts are not held: their interpreter reads them again whenever it likes.

What this leaves to others: taking the lease (exec/responder.py), calling ``look`` (daemon/gate.py).

    hold.keep(event, (st_dev, st_ino), known, owner=True, now_mono=now)
    hold.look(now_mono)          # at due_mono, every LOOK_S while anything is held
"""

from __future__ import annotations

import os

from edgewarden.kernel.lease import lease_is_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.digest import Known
    from edgewarden.exec.judged import Judged
    from edgewarden.exec.spares import Spares
    from edgewarden.kernel.fanotify import ExecEvent

    Inode = tuple[int, int]
    """st_dev, st_ino."""

SCRIPT = b"#!"
"""How binfmt_script knows a script."""
HOLD_S = 1.0
"""An exec takes about 1 ms; a writer who waits for this long has asked to change a program in the
very moment it starts."""
LOOK_S = 0.005
LINGER_S = 0.02
"""A loop that starts a program again comes back within 1 to 5 ms; whoever unmounts or writes after
a start should not notice."""
HOLD_ENTRIES = 128
"""Two descriptors each, of the 1024 that a process may have at the least."""


class _Held:
    """A start: its event, which file it must become, how long at most, and the lease it relies on.

    ``owner``: the lease in ``known`` is that of this event's descriptor.
    """

    __slots__ = ("event", "inode", "known", "owner", "started", "until_mono")

    def __init__(
        self, event: ExecEvent, inode: Inode, known: Known | None, owner: bool, until_mono: float
    ) -> None:
        self.event = event
        self.inode = inode
        self.known = known
        self.owner = owner
        self.until_mono = until_mono
        self.started = False


class Hold:
    """Events whose leases are kept; see the module.

    Args:
        program_of: pid -> the inode of /proc/PID/exe, None when it does not say.
        spares: what starts under a lease of ours and need not be asked for.

    Attributes:
        overdue: let go without proof that the program had started.
        due_mono: when ``look`` has something to do, None while nothing is held.
    """

    __slots__ = ("_held", "_program_of", "_spares", "due_mono", "overdue")

    def __init__(self, program_of: Callable[[int], Inode | None], spares: Spares) -> None:
        self._program_of = program_of
        self._spares = spares
        self._held: list[_Held] = []
        self.overdue = 0
        self.due_mono: float | None = None

    def keep(
        self,
        event: ExecEvent,
        inode: Inode,
        known: Known | None,
        *,
        owner: bool,
        now_mono: float,
    ) -> None:
        """Take the event, and with its descriptor the lease, as long as it is needed.

        Args:
            event: allowed; closed from here on by ``Hold``.
            inode: of the judged file.
            known: whose lease it relies on, counted in ``known.starting``; None: on that of its own
                descriptor alone.
            owner: ``known.lease`` is the lease of this descriptor.
            now_mono: the time.
        """
        self._spares.asked(event, inode)
        one = _Held(event, inode, known, owner, now_mono + HOLD_S)
        if self._is_over(one, now_mono):
            return
        if len(self._held) >= HOLD_ENTRIES:
            oldest = self._held.pop(0)
            self.overdue += not oldest.started
            self._let_go(oldest)
        self._held.append(one)
        if self.due_mono is None:
            self.due_mono = now_mono + LOOK_S

    def look(self, now_mono: float) -> None:
        """Let go of what has started, ended or waited long enough."""
        if self.due_mono is None or now_mono < self.due_mono:
            return
        # Those that only rely on a lease first: its owner waits for them.
        self._held.sort(key=_owns)
        self._held = [one for one in self._held if not self._is_over(one, now_mono)]
        self.due_mono = now_mono + LOOK_S if self._held else None

    def _is_over(self, one: _Held, now_mono: float) -> bool:
        """Whether it is let go of; so it is, then."""
        known = one.known
        if not one.started:
            if self._has_started(one):
                one.started = True
            elif now_mono >= one.until_mono:
                one.started = True
                self.overdue += 1
            else:
                return False
            if known is not None:
                known.starting -= 1
        if one.owner and known is not None:
            if not lease_is_held(one.event.fd):
                known.lease_fd = -1
            known.checked_mono = now_mono
            lingers = known.lease_fd >= 0 and now_mono < known.used_mono + LINGER_S
            if not lingers:
                self._spares.ask_again(known, now_mono)
            elif known.again and not self._spares.keeps(known, now_mono):
                self._spares.spare(one.event, known, self._under_way(known))
            if lingers or known.starting > 0 or self._spares.keeps(known, now_mono):
                return False
        self._let_go(one)
        return True

    def _let_go(self, one: _Held) -> None:
        if one.known is not None:
            if one.owner:
                self._spares.drop(one.known)
            if one.known.lease_fd == one.event.fd:
                one.known.lease_fd = -1  # first: its descriptor's number will be another's
            if not one.started:
                one.known.starting -= 1
        one.event.close()

    def _under_way(self, known: Known) -> list[int]:
        return [one.event.pid for one in self._held if one.known is known and not one.started]

    def _has_started(self, one: _Held) -> bool:
        event = one.event
        return not event.is_alive() or self._program_of(event.pid) == one.inode

    def clear(self) -> None:
        """Let go of everything: the marks are gone."""
        for one in self._held:
            self._let_go(one)
        self._held.clear()
        self.due_mono = None


def lend_lease(one: Judged, now_mono: float) -> None:
    """It was allowed and let go: others that start the same content may rely on its lease from now
    on; of a script nothing is held."""
    try:
        if os.pread(one.event.fd, len(SCRIPT), 0) == SCRIPT:
            one.inode = None
            return
    except OSError:  # a disk that fails: nothing to protect any more
        one.inode = None
        return
    known = one.known
    if known is not None and known.lease_fd < 0 and one.lease.held():
        known.lease_fd, one.owner, known.again = one.event.fd, True, False
        known.starting += 1
        known.used_mono = known.checked_mono = now_mono
    else:
        one.known = None  # it has a lease of its own


def _owns(one: _Held) -> bool:
    return one.owner
