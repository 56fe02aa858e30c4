"""What is armed at each moment: which marks exist, and why not more.

What this decides, in order:

1. The mode is what a person last said on this host, else the settings' (policy.py).
2. TRIPS_LIMIT kills by guard within its window: observe instead of enforce, and an alarm.
3. enforce is armed only if the canary proved T3 on this boot, guard is there (or away for less
   than GUARD_GRACE_S), and every configured filesystem may be marked so (exec/marks.py). Where
   one of these is missing: notify marks, an alarm that names it, ``armed`` false in status. The
   mode stays enforce, and is armed as soon as the obstacle goes away.
4. Notify marks refused as well: the proc connector, where programs are looked at after their start.
   Neither: ``none``, said as loudly.
5. A mode asked for with a time limit is a trial: it is not kept over a restart, and the mode before
   it comes back by itself, with an alarm, unless somebody says ``confirm`` in time. Who has locked
   himself out has only to wait.
6. A new group is marked before the old one is closed, and closing allows whatever waits.

What it leaves to others: verdicts (exec/responder.py), the loop and its descriptors (gate.py).

    arming = Arming(...); arming.start(); arming.set_mode("enforce")
"""

from __future__ import annotations

import time

from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.exec.marks import Armed, arm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.responder import ExecGate
    from edgewarden.gate.doors import Doors
    from edgewarden.gate.policy import Policy
    from edgewarden.gate.sockets import GuardLine
    from edgewarden.kernel.mounts import Mounts

GUARD_GRACE_S = 3.0
"""How long permission marks stay without a guard: longer than its restart, shorter than somebody's
patience with a stalled gate."""
TRIPS_LIMIT = 3
RETRY_S = 5.0
"""For what is refused and may pass: descriptors, memory, a filesystem that comes late."""


class Arming:
    """See the module.

    Args:
        alarm: (code, severity, text).
        watch, forget: tell the loop of a new group's descriptor, and of its end.
        fallback: what still sees execs without fanotify: proc-connector or none.

    Attributes:
        mode: of MODES, as asked for.
        armed: the group and its marks, or None.
        source: of SOURCES, what sees execs now.
    """

    def __init__(
        self,
        *,
        doors: Doors,
        mounts: Mounts,
        policy: Policy,
        responder: ExecGate,
        guard: GuardLine,
        alarm: Callable[[str, int, str], None],
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        fallback: Callable[[], str],
    ) -> None:
        self._doors = doors
        self._mounts = mounts
        self._policy = policy
        self._responder = responder
        self._guard = guard
        self._alarm = alarm
        self._watch = watch
        self._forget = forget
        self._fallback = fallback
        self.mode = policy.asked_mode
        self.armed: Armed | None = None
        self.source = "none"
        self._guard_seen_mono = 0.0
        self._said: dict[str, str] = {}
        self._waiting_for = ""
        self._retry_mono: float | None = None
        self._trial: tuple[str, float] | None = None

    @property
    def permission(self) -> bool:
        """Whether execs wait for us now."""
        return self.armed is not None and self.armed.group.permission

    def start(self) -> None:
        """Arm for the first time, after guard had its say."""
        self._guard_seen_mono = time.monotonic() - GUARD_GRACE_S
        if self.mode == "enforce" and self._guard.trips >= TRIPS_LIMIT:
            self.mode = "observe"
            text = f"gate was killed {self._guard.trips} times: observe until told otherwise"
            self._alarm("EW-EXEC-004", 5, text)
        self.renew()

    def look(self) -> None:
        """On a timer: is a trial over, has an obstacle come or gone, is another try due?"""
        if self._trial is not None and time.monotonic() >= self._trial[1]:
            before = self._trial[0]
            self._alarm("EW-EXEC-025", 3, f"{self.mode} was not confirmed in time: {before} again")
            self._trial = None
            self.mode = before  # what the mode file has said all along
            self.renew()
        obstacle_moved = self.mode == "enforce" and self._obstacle() != self._waiting_for
        again = self._retry_mono is not None and time.monotonic() >= self._retry_mono
        if obstacle_moved or again:
            self.renew()

    def _obstacle(self) -> str:
        """Why enforce cannot be armed now, or ""."""
        if self._policy.tier.tier != "T3":
            return f"this kernel was not proved to deny an exec: {self._policy.tier.reason}"
        now = time.monotonic()
        if self._guard.present:
            self._guard_seen_mono = now
        elif now - self._guard_seen_mono >= GUARD_GRACE_S:
            return "guard is not connected"
        return ""

    def renew(self) -> None:
        """Bring the marks in line with the mode. What is impossible becomes an alarm."""
        self._retry_mono = None
        if self.mode == "enforce":
            why_not = self._waiting_for = self._obstacle()
            if not why_not:
                try:
                    self._arm(enforce=True)
                except EdgewardenError as fault:
                    why_not = fault.text
                    self._retry_mono = time.monotonic() + RETRY_S
            self._say_once("EW-EXEC-008", 5, why_not and f"enforce is not armed: {why_not}")
            if not why_not:
                return
        try:
            self._arm(enforce=False)
            less = ""
        except EdgewardenError as fault:
            self.disarm()
            self.source = self._fallback()
            self._retry_mono = time.monotonic() + RETRY_S
            less = f"execs are seen by {self.source} only: {fault.text}"
        self._say_once("EW-EXEC-009", 3, less)

    def _say_once(self, code: str, severity: int, text: str) -> None:
        """An alarm when it is another than the last of its code; "" ends the matter."""
        if text and self._said.get(code) != text:
            self._alarm(code, severity, text)
        self._said[code] = text

    def _arm(self, *, enforce: bool) -> None:
        new = arm(
            self._policy.config.filesystems,
            enforce=enforce,
            mounts=self._mounts,
            opener=self._doors.open,
        )
        self.disarm()
        self.armed = new
        self._doors.permission_marks = enforce
        self.source = "fanotify-permission" if enforce else "fanotify-notify"
        self._responder.digests.cacheable = new.cacheable
        self._watch(new.group.fd)
        for _, fault in new.refused:
            self._alarm("EW-EXEC-010", 3, f"not watched: {fault.text}")

    def disarm(self) -> None:
        """Take every mark away and allow whoever waits; twice is harmless."""
        if self.armed is not None:
            self._forget(self.armed.group.fd)
            self.armed.close()
        self.armed = None
        self._responder.finish()
        self._responder.mode = self.mode
        self._doors.permission_marks = False

    def on_mounts(self) -> None:
        """The mount table changed: are the configured paths still on what is marked?"""
        now = set()
        for path in self._policy.config.filesystems:
            try:
                now.add(self._mounts.at(path).device)
            except EdgewardenError:
                continue
        if self.armed is None or now != self.armed.superblocks:
            text = "a watched filesystem was mounted or unmounted; marks renewed"
            self._alarm("EW-EXEC-019", 3, text)
            self.renew()

    def confirm(self) -> str:
        """A person still gets in: the mode on trial stays.

        Raises:
            OperatorFault: field name ``nothing_to_confirm``.
        """
        if self._trial is None:
            text = "no mode is on trial; it was confirmed before, or went back by itself"
            raise OperatorFault(text, code="EW-EXEC-025", name="nothing_to_confirm")
        self._trial = None
        return f"{self.mode}; {self._policy.keep_mode(self.mode, self._mounts, self.armed)}"

    def set_mode(self, mode: str, confirm_s: int = 0) -> str:
        """A person's word; refused as a whole when enforce cannot be armed now.

        Args:
            mode: of MODES.
            confirm_s: not 0: on trial for so many seconds.

        Returns:
            What was done, in words.

        Raises:
            OperatorFault: field name ``not_possible``, or as in exec/marks.py.
            HardwareFault: the kernel refuses.
        """
        before = self.mode
        self.mode = mode
        if mode == "enforce":
            try:
                obstacle = self._obstacle()
                if obstacle:
                    raise OperatorFault(obstacle, code="EW-EXEC-008", name="not_possible")
                self._arm(enforce=True)
            except EdgewardenError:
                self.mode = before
                raise
            self._waiting_for = ""
            self._retry_mono = None
            self._said.clear()
        else:
            self.renew()
        if confirm_s:
            back = self._trial[0] if self._trial is not None else before
            self._trial = (back, time.monotonic() + confirm_s)
            return f"{mode}; {back} again in {confirm_s} s unless confirmed"
        self._trial = None
        return f"{mode}; {self._policy.keep_mode(mode, self._mounts, self.armed)}"
