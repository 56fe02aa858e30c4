"""The proc connector inside gate: read ten times a second, however much happens.

What this decides: when the socket is read. A wake-up for every fork, exec and exit would cost gate
more than all verdicts together (measured: 315 us of CPU for two starts, of them 130 here), so the
first event only starts a clock and the rest waits in the kernel for GATHER_S. Except where the proc
connector is all that sees execs: there every moment counts, and each program is looked at at once.

What it leaves to others: what events mean (kernel/netlink.py), marks (arming.py).
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault
from edgewarden.gate.sockets import batch_of
from edgewarden.kernel.netlink import (
    GATHER_S,
    PROC_EVENT_EXEC,
    PROC_EVENT_PTRACE,
    PROC_EVENT_UID,
    RESYNC,
    Gatherer,
    ProcConnector,
    open_proc_connector,
)
from edgewarden.wire.local import ProcessAlert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.responder import ExecGate
    from edgewarden.gate.doors import Doors
    from edgewarden.gate.policy import Policy
    from edgewarden.kernel.netlink import ProcEvent
    from edgewarden.wire.local import ProcBatch


class Processes:
    """See the module.

    Args:
        watch, forget: tell the loop of the socket.
        alarm: (code, severity, text).
        boot_minus_mono_ns: CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
        only_eyes: whether nothing else sees execs now.
        tell: takes a ProcessAlert.

    Attributes:
        due_mono: when ``tick`` has something to do, None while nothing happened.
    """

    def __init__(
        self,
        *,
        doors: Doors,
        policy: Policy,
        responder: ExecGate,
        watch: Callable[[int, Callable[[int], None]], None],
        forget: Callable[[int], None],
        alarm: Callable[[str, int, str], None],
        boot_minus_mono_ns: Callable[[], int],
        only_eyes: Callable[[], bool],
        tell: Callable[[ProcessAlert], None],
    ) -> None:
        self._doors = doors
        self._policy = policy
        self._responder = responder
        self._watch = watch
        self._forget = forget
        self._alarm = alarm
        self._boot_minus_mono_ns = boot_minus_mono_ns
        self._only_eyes = only_eyes
        self._tell = tell
        self._connector: ProcConnector | None = None
        self._sleeping = False
        self._later: list[ProcEvent] = []
        self.gathered = Gatherer()
        self.due_mono: float | None = None
        try:
            self._connector = open_proc_connector()
            watch(self._connector.fileno(), self._on_readable)
        except HardwareFault as fault:
            alarm("EW-EXEC-020", 2, f"no proc connector: {fault.text}")

    @property
    def source(self) -> str:
        """What of SOURCES is left without fanotify."""
        return "none" if self._connector is None else "proc-connector"

    def _on_readable(self, _: int) -> None:
        if self._connector is None:
            return
        if self._only_eyes():
            self.due_mono = 0.0
        elif not self._sleeping:
            self._sleeping = True
            self._forget(self._connector.fileno())
            self.due_mono = None  # set by tick, which knows the time

    @property
    def has_news(self) -> bool:
        """Whether ``tick`` may have something to do."""
        return self._sleeping or self.due_mono is not None

    def tick(self, now_mono: float) -> ProcBatch | None:
        """Read when it is time to; returns the fact, if there is one to tell."""
        if self._connector is None:
            return None
        if self._sleeping and self.due_mono is None:
            self.due_mono = now_mono + GATHER_S
        if self.due_mono is None or now_mono < self.due_mono:
            return None
        self.due_mono = None
        try:
            events = [*self._later, *self._connector.read()]
        except HardwareFault as fault:
            self._close(fault)
            return None
        self._later = []
        if self._sleeping:
            self._sleeping = False
            self._watch(self._connector.fileno(), self._on_readable)
        self.gathered.take(events)
        self._tell_alerts(events)
        if self._later:
            self.due_mono = now_mono + GATHER_S
        if self._only_eyes():
            for event in events:
                if event.kind == PROC_EVENT_EXEC:
                    self._look_after_start(event.pid)
        seen = self.gathered.give()
        return None if seen is None else batch_of(seen, self._boot_minus_mono_ns())

    def _tell_alerts(self, events: list[ProcEvent]) -> None:
        """Who became root, and who was taken hold of; each told, however much else happens. Only
        links of /proc are read: they come from the kernel's own structures, never from the
        process's memory, which can be made to wait for ever.

        Who has become another program since he became root is told without one: the link says what
        he is now, and an expected program makes the finding a low one."""
        shift_ns = self._boot_minus_mono_ns()
        alerts = [
            (e, self._doors.proc_link(f"{e.pid}/exe"))
            for e in events
            if e.kind in (PROC_EVENT_UID, PROC_EVENT_PTRACE)
        ]
        if alerts and self._connector is not None:
            try:
                self._later = self._connector.read()  # up to the moment the links were read
            except HardwareFault as fault:
                self._close(fault)
        for e, program in alerts:
            traced = e.kind == PROC_EVENT_PTRACE
            self._tell(
                ProcessAlert(
                    "traced" if traced else "root",
                    e.pid,
                    self._doors.owner_of(e.pid) if traced else e.other,
                    program if traced or self._is_that(e, events) else b"",
                    e.other if traced else 0,
                    self._doors.proc_link(f"{e.other}/exe") if traced else b"",
                    max(0, e.mono_ns + shift_ns),
                )
            )

    def _is_that(self, rise: ProcEvent, events: list[ProcEvent]) -> bool:
        """Whether nothing but the exec that made him root can have followed on it."""
        since = 0
        for e in (*events, *self._later):
            if e.kind == RESYNC:
                return False
            own = e.kind == PROC_EVENT_EXEC and e.pid == rise.pid
            since += own and e.mono_ns >= rise.mono_ns
        return since <= 1

    def _close(self, fault: HardwareFault) -> None:
        if self._connector is not None:
            self._forget(self._connector.fileno())
            self._connector.close()
        self._connector = None
        self._alarm("EW-EXEC-020", 3, f"the proc connector failed: {fault.text}")

    def _look_after_start(self, pid: int) -> None:
        """Judge the program of a process that already runs, if it is of a watched filesystem."""
        try:
            fd = self._doors.open_program(pid)
        except OSError:
            return  # it has ended already: what this tier cannot see
        try:
            if os.fstat(fd).st_dev in self._policy.devices():
                self._responder.inspect(fd, pid)
        finally:
            os.close(fd)
