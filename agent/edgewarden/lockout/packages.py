"""Packages are changing: what dpkg has just brought runs before the baseline knows it.

dpkg's hook (deploy/deb/dpkg.cfg.d) says when dpkg begins and when the baseline was brought up to
date. In between everybody runs what was unpacked: dpkg its maintainer scripts, cron and people the
new ``ls``. Nothing of that may be denied.

What this decides, for a program that would be denied while packages are changing, in order:

1. It is a regular file of root's that nobody else may write, and so is each folder above it.
2. It was changed (ctime) since the change began: what lay there unlisted before gets no excuse.
   Where the clock is set back meanwhile that is the lowest time it has shown since: what was
   unpacked after the step must not look old, and between step and beginning the two are one.
3. The path that came with it leads to that very file, in gate's own mount namespace, on local
   filesystems: a name from a mount namespace of the user's own counts for nothing.
4. It lies where packages put programs (FOR_ALL, never /usr/local), and then it is everybody's; or
   in dpkg's own folders (FOR_DPKG), and then only for the login or unit that dpkg runs in.

So only root can bring a file in, and root could as well end enforcement. What is left to a user is
to run what a package really brought. It ends with the hook's word, by itself after LONGEST_S, or
with the boot; not with gate, which is a package's program itself and restarted by its postinst.

Each program is an alarm of the lowest severity, so that the record says what ran on trust.

    packages.begin(1800, "session-3.scope"); packages.provisional(status, path, pid); packages.end()
"""

from __future__ import annotations

import os
from stat import S_ISREG

from edgewarden.errors import EdgewardenError
from edgewarden.lockout.near import is_near
from edgewarden.lockout.records import NO_WINDOW, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.lockout.coverage import Files

FILE_NAME = "packages"
LONGEST_S = 1800
"""A distribution upgrade on a slow card; each dpkg that apt starts begins anew."""
FOR_ALL = (b"/usr/", b"/bin/", b"/sbin/", b"/lib/", b"/lib32/", b"/lib64/", b"/etc/", b"/opt/")
NEVER = (b"/usr/local/",)
"""Debian Policy 9.1.2: not for packages."""
FOR_DPKG = (b"/var/lib/dpkg/", b"/var/cache/debconf/")
"""Maintainer scripts, and the config scripts that apt-extracttemplates unpacks."""
OTHERS_MAY_WRITE = 0o022
CTIME_SLACK_NS = 1_000_000_000
"""A filesystem may round its times to seconds."""


class Packages:
    """See the module.

    Args:
        status_at: what a path leads to, None for nowhere; never waits on local filesystems.
        unit_of: pid -> the login scope or unit it runs in, "" when it has none.
        mono_s: CLOCK_MONOTONIC in seconds.
        wall_ns: CLOCK_REALTIME, which ctime is of.
        files: keeps it over a restart of gate.
        boot_id: of this boot.
    """

    def __init__(
        self,
        status_at: Callable[[bytes], os.stat_result | None],
        unit_of: Callable[[int], str],
        mono_s: Callable[[], float],
        wall_ns: Callable[[], int],
        *,
        files: Files,
        boot_id: str,
    ) -> None:
        self._status_at = status_at
        self._unit_of = unit_of
        self._mono_s = mono_s
        self._wall_ns = wall_ns
        self._until_mono: float | None = None
        self._since_ns = 0
        self._looked_mono = mono_s()
        self._unit = ""
        self._files = files
        self._boot_id = boot_id
        self._recall()

    @property
    def changing(self) -> bool:
        """Whether they are, now."""
        if self._until_mono is not None and self._mono_s() >= self._until_mono:
            self._until_mono = None
        return self._until_mono is not None

    def begin(self, for_s: int, unit: str) -> None:
        """dpkg begins; a second one while another works only makes it longer.

        Args:
            for_s: at most so long; more than LONGEST_S is LONGEST_S.
            unit: that dpkg runs in.
        """
        if not self.changing:
            self._since_ns = self._wall_ns() - CTIME_SLACK_NS
            self._looked_mono = self._mono_s()
        self._unit = unit
        self._until_mono = self._mono_s() + min(for_s, LONGEST_S)
        self._keep(Window(self._boot_id, int(self._mono_s()), int(self._until_mono),
                          max(0, self._since_ns), self._unit))  # fmt: skip

    def look(self) -> None:
        """On a timer: has somebody set the clock back? ctime is of that clock."""
        wall_ns, mono_s = self._wall_ns(), self._mono_s()
        if self._until_mono is not None:
            passed_ns = round((mono_s - self._looked_mono) * 1e9)
            self._since_ns = min(self._since_ns, wall_ns - passed_ns - CTIME_SLACK_NS)
        self._looked_mono = mono_s

    def end(self) -> None:
        """The baseline knows what they brought."""
        self._until_mono = None
        self._keep(NO_WINDOW)

    def _keep(self, window: Window) -> None:
        self._files.remember(
            FILE_NAME, window.dump()
        )  # lost with the disk: then only for this gate

    def _recall(self) -> None:
        """Go on with what the gate before was told on this boot."""
        data = self._files.recall(FILE_NAME)
        try:
            kept = NO_WINDOW if data is None else Window.load(data)
        except EdgewardenError:
            return
        if kept.boot_id == self._boot_id and self._mono_s() < kept.until_s:
            self._until_mono, self._unit = float(kept.until_s), kept.unit
            self._since_ns, self._looked_mono = kept.since_ns, float(kept.asked_s)
            self.look()  # the clock may have been set while nobody looked

    def provisional(
        self, status: os.stat_result, path: bytes, pid: int, slow: frozenset[bytes]
    ) -> bool:
        """Whether this program is let through on trust.

        Args:
            status: of the event's file.
            path: as it came with the event.
            pid: who wants to execute it.
            slow: mount points that a stat may not go through.
        """
        if not self.changing:
            return False
        self.look()
        if status.st_ctime_ns < self._since_ns:
            return False
        if not S_ISREG(status.st_mode) or not _is_roots_alone(status):
            return False
        for_all = path.startswith(FOR_ALL) and not path.startswith(NEVER)
        if not for_all and not (path.startswith(FOR_DPKG) and self._is_dpkgs(pid)):
            return False
        if not is_near(path, slow):
            return False
        found = self._status_at(path)
        return found is not None and os.path.samestat(found, status) and self._folders(path)

    def _is_dpkgs(self, pid: int) -> bool:
        return bool(self._unit) and self._unit_of(pid) == self._unit

    def _folders(self, path: bytes) -> bool:
        """Whether every folder above is root's alone."""
        while len(path) > 1:
            path = path.rpartition(b"/")[0] or b"/"
            found = self._status_at(path)
            if found is None or not _is_roots_alone(found):
                return False
        return True


def _is_roots_alone(status: os.stat_result) -> bool:
    return status.st_uid == 0 and not status.st_mode & OTHERS_MAY_WRITE
