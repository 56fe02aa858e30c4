"""Who is not denied although no rule allows him: the critical set, whatever its content is now.

What this decides, for a program that would be denied, in order (the first that holds decides):

1. Its content is one that the table knows: the rules have spoken about it, there is no excuse.
   (Content of the critical set never comes here: judge/exec_table.py allows it first.)
2. ``provisional``: packages are changing, and this is one of their programs (lockout/packages.py).
3. ``critical``: it is the very file that a path of the table's critical set leads to now, and only
   root could have changed it. Somebody replaced init, login, sshd or dpkg without telling us: an
   upgrade without our hook, a repair by hand, an attack. It is allowed, so that nobody is locked
   out, and it is an alarm.
4. Otherwise: no excuse.

"The very file" is device and inode, never the name that came with the event: in a mount namespace
of his own a user gives any file any name. The name only saves work: a program that is called like
none of the critical set costs one readlink, so that a flood of denials stays cheap.

Nothing here can wait. It is a stat in gate's own mount namespace, which opens nothing, and a path
below a mount that is not a local filesystem (exec/marks.py, WATCHABLE) is not looked at.

    excuses = Excuses(policy, doors, mounts, alarm, coverage.hit, packages)
    excuses.excuse(judged)       # "provisional", "critical" or ""
"""

from __future__ import annotations

import os
from stat import S_ISREG

from edgewarden.exec.marks import WATCHABLE
from edgewarden.lockout.near import is_near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.exec.judged import Judged
    from edgewarden.judge.exec_table import Table
    from edgewarden.kernel.mounts import Mounts
    from edgewarden.lockout.packages import Packages

    class Policy(Protocol):
        """What is in use now."""

        table: Table

    class Doors(Protocol):
        """How gate looks (gate/doors.py)."""

        def proc_link(self, name: str) -> bytes:
            """What a link below /proc says; b"" when it is gone."""

        def status_at(self, path: bytes) -> os.stat_result | None:
            """What a path leads to now."""


CRITICAL_PATH = "critical(path)"
"""Stands where a rule's name stands; the table's own content is allowed by ``critical``."""
PACKAGES = "packages"
EXCUSABLE = frozenset(("unlisted", "ruled_out", "too_large", "crowded_out"))
"""Of REASONS. ``being_written`` is not among them: the kernel would refuse it as well."""
OTHERS_MAY_WRITE = 0o022


class Excuses:
    """See the module.

    Args:
        alarm: (code, severity, text).
        told: is told the path of each critical program with other content.
    """

    def __init__(
        self,
        policy: Policy,
        doors: Doors,
        mounts: Mounts,
        alarm: Callable[[str, int, str], None],
        told: Callable[[str], None],
        packages: Packages,
    ) -> None:
        self._policy = policy
        self._doors = doors
        self._mounts = mounts
        self._alarm = alarm
        self._told = told
        self._packages = packages
        self._table: Table | None = None
        self._paths: dict[bytes, list[bytes]] = {}
        self._slow: frozenset[bytes] = frozenset()
        self.on_mounts()

    def on_mounts(self) -> None:
        """The mount table changed: which mount points may a stat not go through?"""
        self._slow = frozenset(
            point for point, kind in self._mounts.points().items() if kind not in WATCHABLE
        )

    def excuse(self, one: Judged) -> str:
        """The reason why ``one`` is let through after all, of REASONS; "" for none."""
        table = self._policy.table
        if table is not self._table:
            self._take(table)
        if one.reason not in EXCUSABLE or (one.digest and table.knows(one.digest)):
            return ""
        path = self._doors.proc_link(f"self/fd/{one.event.fd}")
        if self._packages.changing and self._is_packaged(one, path):
            return "provisional"
        candidates = self._paths.get(path.rpartition(b"/")[2])
        if not candidates:
            return ""
        if one.reason == "crowded_out" and one.uid != 0:
            return ""  # it was not hashed; who floods the queue gets no shell unseen by doing so
        status = os.fstat(one.event.fd)
        if not _is_roots(status):
            return ""
        for candidate in candidates:
            if self._leads_to(candidate, status):
                one.rule = CRITICAL_PATH
                self._say(candidate, one.digest)
                return "critical"
        return ""

    def _is_packaged(self, one: Judged, path: bytes) -> bool:
        event = one.event
        status = os.fstat(event.fd)
        if not self._packages.provisional(status, path, event.pid, self._slow):
            return False
        one.rule = PACKAGES
        text = f"{path.decode('utf-8', 'backslashreplace')}: {one.digest.hex() or 'not hashed'}"
        self._alarm("EW-EXEC-034", 1, f"let through while packages are changing: {text}")
        return True

    def _take(self, table: Table) -> None:
        self._table = table
        self._paths = {}
        for path in table.critical:
            self._paths.setdefault(path.rpartition(b"/")[2], []).append(path)

    def _leads_to(self, path: bytes, status: os.stat_result) -> bool:
        """Whether ``path`` leads to that file now."""
        if not is_near(path, self._slow):
            return False
        found = self._doors.status_at(path)
        return found is not None and os.path.samestat(found, status)

    def _say(self, path: bytes, digest: bytes) -> None:
        text = path.decode("utf-8", "backslashreplace")
        content = f"sha256 {digest.hex()}" if digest else "not hashed"
        self._alarm("EW-EXEC-030", 4, f"critical program with other content: {text}: {content}")
        self._told(text)


def _is_roots(status: os.stat_result) -> bool:
    """A regular file that root alone may change."""
    mode = status.st_mode
    return S_ISREG(mode) and status.st_uid == 0 and not mode & OTHERS_MAY_WRITE
