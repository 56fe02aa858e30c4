"""Tier T2 inside gate: the BPF programs, from their load at gate's start to what they tell.

What this decides: when they can be used at all (settings ask for them, and the kernel took them at
the start: afterwards gate opens no library), and what becomes of what they say beside verdicts. A
user who may start nothing is a denial, ``barred``; so is a program that could not be read,
``out_of_reach``; a stopped program that somebody else let go, and starts that nobody was stopped
for because gate came too late, are alarms.

What it leaves to others: whom to stop and how (stop/aim.py, stop/stopper.py), when (arming.py).

    stopping = Stopping(...); armed = stopping.arm(paths); stopping.look()    # on a timer
"""

from __future__ import annotations

import os

from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.exec.marks import WATCHABLE, Armed, arm_stop
from edgewarden.stop.aim import aim_of
from edgewarden.stop.places import Places
from edgewarden.stop.resume import sweep
from edgewarden.wire.local import Alarm, ExecVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgewarden.exec.judged import Counters
    from edgewarden.gate.doors import Doors
    from edgewarden.gate.policy import Policy
    from edgewarden.kernel.fanotify import Group
    from edgewarden.kernel.mounts import Mounts
    from edgewarden.stop.stopper import StopGroup, Stopper, Told
    from edgewarden.wire.local import AnyMessage

SOURCE = "bpf-stop"
WHOLE = 4 << 20
"""As kernel/mounts.py reads mountinfo."""


class Stopping:
    """See the module.

    Args:
        report: takes a fact.
        counters: of the responder; denials that are none of its own are counted there.
        boot_ns, mono_ns: CLOCK_BOOTTIME and CLOCK_MONOTONIC.

    Attributes:
        why_not: why programs cannot be stopped, "" when they can.
    """

    def __init__(
        self,
        doors: Doors,
        mounts: Mounts,
        policy: Policy,
        report: Callable[[AnyMessage], None],
        counters: Counters,
        *,
        boot_ns: Callable[[], int],
        mono_ns: Callable[[], int],
    ) -> None:
        self._doors = doors
        self._mounts = mounts
        self._policy = policy
        self._report = report
        self._counters = counters
        self._boot_ns = boot_ns
        self._mono_ns = mono_ns
        self._places: Places | None = None
        self._stopper: Stopper | None = None
        self._group: type[StopGroup] | None = None
        self._late = 0
        self.why_not = "[exec] bpf is not set, or gate has not been restarted since"
        if policy.config.stop is not None:
            self._load()

    def _load(self) -> None:
        """At the start only. Whoever an earlier gate has left standing goes on first."""
        # Only here: the library is a megabyte for who did not ask for it.
        from edgewarden.kernel.libbpf import Libbpf
        from edgewarden.stop.stopper import StopGroup, Stopper

        sweep(self._doors.proc_fd)
        self._group = StopGroup
        try:
            self._stopper = Stopper(Libbpf(), mono_ns=self._mono_ns)
            self.why_not = ""
        except HardwareFault as fault:
            self.why_not = fault.text
            if self._policy.tier.tier != "T3":
                self._alarm(fault.code, 4, f"tier T2 was asked for: {fault.text}")

    def _alarm(self, code: str, severity: int, text: str) -> None:
        self._report(Alarm(code, severity, text, self._boot_ns()))

    def arm(self, paths: Sequence[str], against_root: OperatorFault | None) -> Armed:
        """Stop programs from now on; the answer's group has the events.

        Args:
            against_root: as exec/marks.py has it.

        Raises:
            OperatorFault: a path or the cgroup is refused.
            HardwareFault: field ``call`` "bpf" when they were never loaded; or the kernel refuses.
        """
        stopper, group, config = self._stopper, self._group, self._policy.config.stop
        if stopper is None or group is None or config is None:
            raise HardwareFault(self.why_not, code="EW-EXEC-060", call="bpf")

        stopper.aim(aim_of(config, self._text("self/mountinfo")))

        def make(superblocks: set[str]) -> Group:
            self._places = Places(self._mounts, self._text, superblocks, WATCHABLE)
            return group(
                stopper,
                self._places,
                proc_fd=self._doors.proc_fd,
                proc_link=self._doors.proc_link,
                opener=self._doors.open,
                program_of=self._doors.program_of,
                tell=self._tell,
            )

        return arm_stop(
            paths,
            mounts=self._mounts,
            opener=self._doors.open,
            make=make,
            against_root=against_root,
        )

    def on_mounts(self) -> None:
        """The mount table changed."""
        if self._places is not None:
            self._places.refresh()

    def look(self, *, armed: bool) -> None:
        """On a timer: beat, and count what went by unjudged."""
        stopper = self._stopper
        if stopper is None:
            return
        if not armed:
            stopper.let_go()  # stopped in the very moment in which the programs were detached
            return
        stopper.beat()
        stopper.let_overdue_go()
        late = stopper.counters()["stale"]
        if late > self._late:
            text = f"{late - self._late} programs started unjudged: gate came too late"
            self._alarm("EW-EXEC-062", 4, text)
        self._late = late

    def _tell(self, what: str, told: Told, path: bytes) -> None:
        if what == "resumed":
            name = told.name.decode("utf-8", "backslashreplace")
            text = f"{name} ({told.sender}, uid {told.uid}) let process {told.pid} go unjudged"
            self._alarm("EW-EXEC-061", 4, text)
            return
        self._counters.denied += 1
        self._report(
            ExecVerdict(
                "deny", what, "enforce", "T2", b"", "", path or told.name, told.pid, told.uid,
                self._boot_ns(),
            )
        )  # fmt: skip

    def _text(self, name: str) -> str:
        """A file below /proc, whole; "" when it is gone."""
        try:
            fd = self._doors.open(self._doors.proc_fd, name, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, EdgewardenError):
            return ""
        try:
            parts = []
            left = WHOLE
            while left > 0 and (part := os.read(fd, min(left, 65536))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts).decode("utf-8", "surrogateescape")
        except OSError:
            return ""
        finally:
            os.close(fd)
