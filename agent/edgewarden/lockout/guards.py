"""The guards against locking people out, as gate holds them: one for each thing that can go wrong.

What this decides: only who is asked what, and when. What each guard decides is in its own file:
excuses.py (the critical set), packages.py (an upgrade under way), coverage.py (what observe has
seen), boots.py (boots that never became healthy; the kill switch).

    guards = Guards(policy, doors, mounts, alarm, clocks)
    for why, firm in guards.begin(): modes.hold_down(area, why, firm=firm)     # before arming
"""

from __future__ import annotations

from edgewarden.errors import OperatorFault
from edgewarden.lockout.boots import BootGuard, kill_switch
from edgewarden.lockout.coverage import coverage_of
from edgewarden.lockout.excuses import Excuses
from edgewarden.lockout.packages import LONGEST_S, Packages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.kernel.mounts import Mounts
    from edgewarden.lockout import coverage, excuses

    class Doors(coverage.Doors, excuses.Doors, Protocol):
        """How gate looks (gate/doors.py)."""

        def proc_text(self, name: str) -> str:
            """The first bytes of a file below /proc; "" when it is gone."""

        def unit_of(self, pid: int) -> str:
            """The login scope or unit that a process runs in."""


class Clocks:
    """CLOCK_MONOTONIC and CLOCK_BOOTTIME in seconds, CLOCK_REALTIME in nanoseconds."""

    __slots__ = ("boot_s", "mono_s", "wall_ns")

    def __init__(
        self, mono_s: Callable[[], float], boot_s: float, wall_ns: Callable[[], int]
    ) -> None:
        self.mono_s = mono_s
        self.boot_s = boot_s
        self.wall_ns = wall_ns


class Guards:
    """See the module.

    Args:
        alarm: (code, severity, text).
    """

    def __init__(
        self,
        policy: coverage.Policy,
        doors: Doors,
        mounts: Mounts,
        alarm: Callable[[str, int, str], None],
        clocks: Clocks,
    ) -> None:
        self._policy = policy
        self._doors = doors
        self._alarm = alarm
        mono_s = clocks.mono_s
        self.coverage = coverage_of(policy, doors, boot_s=clocks.boot_s, mono_s=mono_s)
        self.packages = Packages(
            doors.status_at, doors.unit_of, mono_s, clocks.wall_ns,
            files=policy, boot_id=doors.boot_id(),
        )  # fmt: skip
        self.boots = BootGuard(policy, doors.boot_id(), mono_s)
        self.excuses = Excuses(policy, doors, mounts, alarm, self.coverage.hit, self.packages)

    def begin(self) -> list[tuple[str, bool]]:
        """At gate's start, before anything is armed: what holds every area down, and how firmly."""
        if why_not := self.boots.begin():
            self._alarm("EW-EXEC-032", 3, f"boots are not counted: {why_not}")
        found = []
        if self.boots.holds:
            found.append((f"{self.boots.unhealthy} boots in a row did not become healthy", False))
        switch = kill_switch(self._doors.proc_text("cmdline"), self._doors.status_at, self._alarm)
        if switch:
            found.append((switch, True))
        return found

    def look(self, *, link: bool, trips: int) -> None:
        """On a timer."""
        self.packages.look()
        if self.boots.look(link=link, trips=trips):
            self.coverage.healthy()

    def on_reload(self, *, same_rules: bool) -> None:
        """A table was loaded.

        Args:
            same_rules: it was compiled from the rules of the last one (daemon/policy.py).
        """
        keep = same_rules and self.packages.changing
        self.coverage.begin(self._policy.table.generation, keep=keep)

    def hear(self, verb: str, for_s: int, unit: str) -> str:
        """``healthy`` and ``packages``, from root; returns what was done, in words.

        Raises:
            OperatorFault: field name ``unknown``.
        """
        if verb == "healthy":
            self.boots.became_healthy()
            self.coverage.healthy()
            return "this boot is healthy"
        if verb != "packages":
            raise OperatorFault(f"no guard knows {verb!r}", name="unknown")
        if not for_s:
            self.packages.end()
            return "packages are no longer changing"
        self.packages.begin(for_s, unit)
        return f"packages are changing, for {min(for_s, LONGEST_S)} s at the most"
