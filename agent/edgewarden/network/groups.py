"""Managed units as the kernel knows them: control groups, which systemd makes anew at every start.

A rule holds a group's number, not its name, so a unit that starts again is nobody's until the
kernel has been told. inotify says that a folder was made; systemd makes it before it starts the
program, which takes some milliseconds to be loaded. Nothing is opened: groups are looked at with
stat.

    groups = Groups()
    for group in groups.fresh(table.units): ...; groups.told(group)
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault
from edgewarden.kernel.libc import check, libc
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgewarden.wire.network_table import Unit

# <linux/inotify.h>
IN_CREATE, IN_MOVED_TO = 0x100, 0x80
IN_ONLYDIR = 0x01000000
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
READ_BYTES = 16384

CGROUP_ROOT = "/sys/fs/cgroup"
"""libnftables resolves control groups below it, whatever is mounted there."""
HYBRID = "unified/"
"""Where systemd's hybrid layout puts cgroup2."""
Element = tuple[int, str, str]


class Group(Frozen):
    """A managed unit's control group that is there.

    Attributes:
        path, inode: of the group, as it was when it was looked at.
        element: (level, path as nft finds it, chain).
    """

    __slots__ = ("element", "inode", "path")
    path: str
    inode: int
    element: Element


class Groups:
    """See the module.

    Attributes:
        fd: readable when something was made.
    """

    __slots__ = ("_known", "_root", "fd")

    def __init__(self, root: str = CGROUP_ROOT) -> None:
        """Raises HardwareFault where the kernel has no inotify."""
        self._known: dict[str, int] = {}
        self._root = root
        self.fd = check(libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1")

    def made(self) -> bool:
        """Take what inotify said; whether there was something."""
        news = False
        while True:
            try:
                news = bool(os.read(self.fd, READ_BYTES)) or news
            except OSError:
                return news

    def now(self, units: Iterable[Unit]) -> list[Group]:
        """The groups that are there; folders they may appear in are watched."""
        prefix = prefix_of_cgroups(self._root)
        if prefix is None:
            return []
        found = []
        for unit in units:
            self._watch_above(prefix, unit.path)
            inode = self._inode(prefix, unit.path)
            if inode:
                element = unit.level, f"{prefix}{unit.path}", unit.chain
                found.append(Group(unit.path, inode, element))
        return found

    def fresh(self, units: Iterable[Unit]) -> list[Group]:
        """Those of them that the kernel has not been told of."""
        return [group for group in self.now(units) if group.inode != self._known.get(group.path)]

    def told(self, group: Group) -> None:
        """The kernel has been told: of this group, if it is still the one that was looked at."""
        self._known.pop(group.path, None)
        if self._inode(prefix_of_cgroups(self._root) or "", group.path) == group.inode:
            self._known[group.path] = group.inode

    def told_all(self, groups: Iterable[Group]) -> None:
        """The kernel has a new table with these groups and no others."""
        self._known.clear()
        for group in groups:
            self.told(group)

    def _watch_above(self, prefix: str, path: str) -> None:
        parts = path.split("/")
        for i in range(len(parts)):
            above = os.fsencode(f"{self._root}/{prefix}{'/'.join(parts[:i])}")
            try:
                mask = IN_CREATE | IN_MOVED_TO | IN_ONLYDIR
                check(libc.inotify_add_watch(self.fd, above, mask), "inotify_add_watch")
            except HardwareFault:
                break

    def _inode(self, prefix: str, path: str) -> int:
        try:
            return os.stat(f"{self._root}/{prefix}{path}").st_ino
        except OSError:
            return 0


def prefix_of_cgroups(root: str = CGROUP_ROOT) -> str | None:
    """Where cgroup2 lies below the root: "" or "unified/"; None when it is not there."""
    for prefix in ("", HYBRID):
        if os.path.exists(f"{root}/{prefix}cgroup.controllers"):
            return prefix
    return None
