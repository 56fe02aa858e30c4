"""What is armed at each moment: which marks exist, and why not more.

What this decides, in order:

1. The mode comes from gate/modes.py, which knows who chose it and how long it stays.
2. enforce is armed only if the canary proved T3 or T2 on this boot, guard is there (or away for
   less than GUARD_GRACE_S), and every configured filesystem may be marked so (exec/marks.py). T3
   marks; T2 has programs stopped at their start (gate/stopping.py). Where one of these is missing:
   notify marks, an alarm that names it, ``armed`` false in status. The mode stays enforce, and is
   armed as soon as the obstacle goes away.
3. The filesystem that holds ``/`` is where people log in and repair. There enforce also needs a
   table with a critical set, and observe must have covered enough (lockout/coverage.py), unless it
   is a trial, or was accepted for good before.
4. Notify marks refused as well: the proc connector, where programs are looked at after their start.
   Neither: ``none``, said as loudly.
5. Marks that hold are replaced in their own group: closing it allows whatever waits. Otherwise a
   new group is marked before the old one is closed.

What it leaves to others: verdicts (exec/responder.py), the loop and its descriptors (gate.py).

    arming = Arming(...); arming.settle("observe"); arming.apply("enforce", 0)
"""

from __future__ import annotations

import time

from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.exec.marks import Armed, arm, holds_root, unwatched
from edgewarden.exec.opened import Opened
from edgewarden.gate.kept import Kept
from edgewarden.wire.local_messages import AreaStats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.responder import ExecGate
    from edgewarden.gate.doors import Doors
    from edgewarden.gate.policy import Policy
    from edgewarden.gate.sockets import GuardLine
    from edgewarden.gate.stopping import Stopping
    from edgewarden.kernel.mounts import Mounts
    from edgewarden.lockout.coverage import Coverage

GUARD_GRACE_S = 3.0
"""How long permission marks stay without a guard: longer than its restart, shorter than somebody's
patience with a stalled gate."""
ENFORCING = {False: "fanotify-permission", True: "bpf-stop"}
KEEP_S = 30.0
"""How old what the next gate knows may be, when this one is killed; 150 kB in memory."""
RETRY_S = 5.0
"""For what is refused and may pass: descriptors, memory, a filesystem that comes late."""


class Arming:
    """See the module.

    Args:
        alarm: (code, severity, text).
        watch, forget: tell the loop of a new group's descriptor, and of its end.
        fallback: what still sees execs without fanotify: proc-connector or none.
        arm: as exec/marks.py's.

    Attributes:
        mode: of MODES, to be brought about.
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
        stopping: Stopping,
        coverage: Coverage,
        alarm: Callable[[str, int, str], None],
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        fallback: Callable[[], str],
        arm: Callable[..., Armed] = arm,
    ) -> None:
        self._marks = arm
        self._doors = doors
        self._mounts = mounts
        self._policy = policy
        self._responder = responder
        self._guard = guard
        self._stopping = stopping
        self._coverage = coverage
        self._on_trial = False
        self._alarm = alarm
        self._watch = watch
        self._forget = forget
        self._fallback = fallback
        self.mode = "learn"
        responder.digests.images = policy.images
        self._opened = responder.opened = Opened(
            responder.digests, lambda digest: policy.table.class_of(digest),
            lambda pid: doors.program_status(pid), lambda name: doors.proc_link(name),
            lambda path, inode: doors.is_below(policy.config.data, path, inode),
            lambda pid: doors.loads(pid),
        )  # fmt: skip
        self.armed: Armed | None = None
        self.source = "none"
        self._guard_seen_mono = time.monotonic() - GUARD_GRACE_S
        self._said: dict[str, str] = {}
        self._kept = Kept(doors, mounts, responder.digests)
        self._kept_due_mono = time.monotonic() + KEEP_S
        self._kept.recall(policy.config.filesystems)
        self._waiting_for = ""
        self._retry_mono: float | None = None

    @property
    def permission(self) -> bool:
        """Whether execs wait for us now."""
        return self.armed is not None and self.armed.group.permission

    def settle(self, mode: str) -> None:
        """As near to ``mode`` as is possible; what is missing becomes an alarm."""
        self.mode = mode
        self._on_trial = False
        self.renew()

    def look(self) -> None:
        """On a timer: has an obstacle come or gone, is another try due?"""
        self._responder.digests.catch_up()  # the kernel remembers 16384 files that were written
        self._stopping.look(armed=self.source == "bpf-stop")
        self._coverage.look(self.mode, sees=self.armed is not None)
        waits = self.mode == "enforce" and not self._responds
        if time.monotonic() >= self._kept_due_mono:
            self._kept_due_mono = time.monotonic() + KEEP_S
            self._kept.save(self._policy.config.filesystems)
        obstacle_moved = waits and self._obstacle() != self._waiting_for
        again = self._retry_mono is not None and time.monotonic() >= self._retry_mono
        if obstacle_moved or again:
            self.renew()

    def _obstacle(self) -> str:
        """Why enforce cannot be armed now, or ""."""
        proved = self._policy.proved
        if proved not in ("T3", "T2"):
            return f"this kernel was not proved to deny an exec: {self._policy.tier.reason}"
        if proved == "T2" and self._stopping.why_not:
            return f"programs cannot be stopped here: {self._stopping.why_not}"
        now = time.monotonic()
        if self._guard.present:
            self._guard_seen_mono = now
        elif now - self._guard_seen_mono >= GUARD_GRACE_S:
            return "guard is not connected"
        return ""

    def _against_root(self) -> OperatorFault | None:
        """Why the filesystem that holds ``/`` may not be enforced on now, or None."""
        if not self._policy.table.critical:
            return OperatorFault(
                "the policy names no critical set, and enforcing on the filesystem that holds / "
                "could lock you out",
                code="EW-EXEC-031",
                next_step="run `edgewarden policy learn`, then `edgewarden policy compile`",
                name="holds_root",
            )
        missing = self._coverage.missing(self._policy.config.observe_h)
        if not missing or self._on_trial or self._coverage.granted:
            return None
        return OperatorFault(
            f"the filesystem that holds / was not observed for long enough: {missing}",
            code="EW-EXEC-031",
            next_step="leave it in observe, or try it for a time: `policy enforce --confirm 10m`",
            name="not_covered",
        )

    @property
    def _responds(self) -> bool:
        """Whether all that enforce can mean here is to kill after the start, and that is wanted."""
        return self._policy.config.kill_after_start and self._policy.proved not in ("T3", "T2")

    def _check_responding(self) -> None:
        """Raises OperatorFault: not on the filesystem that holds ``/``, no more than marks."""
        against_root = self._against_root()
        if against_root and holds_root(self._policy.config.filesystems, self._mounts):
            raise against_root

    def renew(self) -> None:
        """Bring the marks in line with the mode. What is impossible becomes an alarm."""
        self._retry_mono = None
        responds = False
        if self.mode == "enforce" and self._responds:
            try:
                self._check_responding()
                responds = True
                self._say_once("EW-EXEC-064", 3, "what is not allowed is killed after its start")
            except EdgewardenError as fault:
                self._say_once("EW-EXEC-008", 5, f"nothing is killed either: {fault.text}")
        elif self.mode == "enforce":
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
        self._responder.kills = responds
        self._say_once("EW-EXEC-009", 3, less)

    def _say_once(self, code: str, severity: int, text: str) -> None:
        """An alarm when it is another than the last of its code; "" ends the matter."""
        if text and self._said.get(code) != text:
            self._alarm(code, severity, text)
        self._said[code] = text

    def _arm(self, *, enforce: bool) -> None:
        against_root = self._against_root() if enforce else None
        stop = enforce and self._policy.proved == "T2"
        before = self.armed if enforce and self.source == ENFORCING[False] else None
        if stop:
            # First: there is one set of BPF programs, and two groups cannot share it.
            self.disarm()
            new = self._stopping.arm(self._policy.config.filesystems, against_root)
            self._responder.digests.watched_by(new.writers)
        else:
            new = self._marks(
                self._policy.config.filesystems,
                enforce=enforce,
                mounts=self._mounts,
                opener=self._doors.open,
                against_root=against_root,
                strict=self._policy.config.strict,
                before=before,
            )
            if new.opens:
                self._spare_own_files(new)
            self._responder.digests.watched_by(new.writers)  # both groups hear it at this moment
            if before is None:
                self._close()
        self.armed = new
        self._doors.permission_marks = enforce and not stop
        self.source = ENFORCING[stop] if enforce else "fanotify-notify"
        self._responder.reports.tier = self._policy.tier.tier
        self._responder.digests.cacheable = new.cacheable
        self._responder.strict = new.opens
        self._look_elsewhere(new)
        self._responder.spares.begin(new.group, permitted=enforce and not (stop or new.opens))
        self._watch(new.group.fd)
        for _, fault in new.refused:
            self._alarm("EW-EXEC-010", 3, f"not watched: {fault.text}")

    def _look_elsewhere(self, armed: Armed) -> None:
        try:
            self._opened.elsewhere = unwatched(armed, self._mounts)
        except EdgewardenError:
            self._opened.elsewhere = frozenset()  # then what is not known counts as interpreter

    def _spare_own_files(self, new: Armed) -> None:
        """gate reads and writes in state/policy and run, root's alone; it would wait for itself."""
        try:
            for fd in (self._doors.policy_fd, self._doors.run_fd):
                new.group.spare_openings_in(fd)
        except EdgewardenError:
            new.close()
            raise

    def unhindered(self, action: Callable[[], None]) -> None:
        """Do something that opens files or makes the kernel start programs: no exec may wait for
        gate meanwhile, and what starts in that moment is not judged, as in a restart of gate.

        Raises:
            EdgewardenError: as the action does; marks are there again all the same.
        """
        if self.source not in ENFORCING.values():
            action()
            return
        self.disarm()
        began_mono = time.monotonic()
        try:
            action()
        finally:
            self.renew()
            lasted_ms = (time.monotonic() - began_mono) * 1000
            text = f"programs were not judged for {lasted_ms:.0f} ms: something had to be loaded"
            self._alarm("EW-EXEC-068", 3, text)

    def stop(self) -> None:
        """``disarm``, and keep for the next gate what is known of contents."""
        self._responder.digests.catch_up()
        self._close()
        self._kept.save(self._policy.config.filesystems)

    def disarm(self) -> None:
        """Take every mark away and allow whoever waits; twice is harmless."""
        self._responder.digests.watched_by(None)
        self._close()

    def _close(self) -> None:
        if self.armed is not None:
            self._forget(self.armed.group.fd)
            self.armed.close()
        self.armed = None
        self._responder.finish()
        self._responder.kills = False
        self._responder.mode = self.mode
        self._doors.permission_marks = False

    def on_mounts(self) -> None:
        """The mount table changed: are the configured paths still on what is marked?"""
        self._stopping.on_mounts()
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
        else:
            try:
                self.armed.mark_again(self._doors.open, self._mounts)
            except EdgewardenError as fault:
                self._alarm("EW-EXEC-019", 4, f"marks renewed: {fault.text}")
                self.renew()
        if self.armed is not None:
            self._look_elsewhere(self.armed)
        # Another filesystem under the same number may hold another content under the same times.
        self._responder.digests.forget()

    def apply(self, mode: str, trial_s: int) -> str:
        """A person's word; refused as a whole when enforce cannot be armed now.

        Args:
            mode: of MODES.
            trial_s: marks end with gate, so no kernel need forget them; but what may be tried may
                not yet be kept.

        Returns:
            What a trial has not yet behind it.

        Raises:
            OperatorFault: field name ``not_possible``, ``holds_root``, ``not_covered``, or as in
                exec/marks.py.
            HardwareFault: the kernel refuses.
        """
        before = self.mode, self._on_trial
        self.mode, self._on_trial = mode, trial_s > 0
        if mode == "enforce" and self._responds:
            try:
                self._check_responding()
            except EdgewardenError:
                self.mode, self._on_trial = before
                raise
            self._said.clear()
            self.renew()
            return "tier T0: what is not allowed is killed after its start, not prevented"
        if mode == "enforce":
            try:
                obstacle = self._obstacle()
                if obstacle:
                    raise OperatorFault(obstacle, code="EW-EXEC-008", name="not_possible")
                self._arm(enforce=True)
            except EdgewardenError:
                self.mode, self._on_trial = before
                raise
            self._waiting_for = ""
            self._retry_mono = None
            self._said.clear()
        else:
            self.renew()
        at_stake = mode == "enforce" and holds_root(self._policy.config.filesystems, self._mounts)
        missing = self._coverage.missing(self._policy.config.observe_h) if at_stake else ""
        if not trial_s:
            self._coverage.grant(at_stake)
        return f"on trial only: {missing}" if trial_s and missing else ""

    def stats(self) -> AreaStats:
        """Mode, trial and ceiling are gate/modes.py's to fill in; the rest is in GateStats too."""
        counters, table = self._responder.counters, self._policy.table
        why_not = self._waiting_for
        if self.mode == "observe" and holds_root(self._policy.config.filesystems, self._mounts):
            missing = self._coverage.missing(self._policy.config.observe_h)
            why_not = missing and f"enforce would not be kept yet: {missing}"
        return AreaStats(
            "exec", self.mode, self.permission, 0, table.count, table.generation, counters.allowed,
            counters.denied, counters.would_deny, counters.unreported, why_not, "",
        )  # fmt: skip
