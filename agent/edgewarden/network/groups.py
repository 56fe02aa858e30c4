"""Managed units as the kernel knows them: control groups, which systemd makes anew at every start.

A rule holds a group's number, not its name, so a unit that starts again is nobody's until the
kernel has been told. inotify says that a folder was made; systemd makes it before it starts the
program, which takes some milliseconds to be loaded. Nothing is opened: groups are looked at with
stat.

    groups = Groups()
    for unit, element in groups.fresh(table.units): ...; groups.known(unit)
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault
from edgewarden.kernel.libc import check, libc

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


class Groups:
    """See the module.

    Attributes:
        fd: readable when something was made.
    """

    __slots__ = ("_known", "fd")

    def __init__(self) -> None:
        """Raises HardwareFault where the kernel has no inotify."""
        self._known: dict[str, int] = {}
        self.fd = check(libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1")

    def made(self) -> bool:
        """Take what inotify said; whether there was something."""
        news = False
        while True:
            try:
                news = bool(os.read(self.fd, READ_BYTES)) or news
            except OSError:
                return news

    def all_of(self, units: Iterable[Unit]) -> list[Element]:
        """The groups that are there, for a table that is made anew."""
        self._known.clear()
        found = []
        for unit, element in self.fresh(units):
            self.known(unit)
            found.append(element)
        return found

    def fresh(self, units: Iterable[Unit]) -> list[tuple[Unit, Element]]:
        """Groups that the kernel has not been told of; folders they may appear in are watched."""
        prefix = prefix_of_cgroups()
        if prefix is None:
            return []
        found = []
        for unit in units:
            self._watch_above(prefix, unit.path)
            inode = _inode(prefix, unit.path)
            if inode and inode != self._known.get(unit.path):
                found.append((unit, (unit.level, f"{prefix}{unit.path}", unit.chain)))
        return found

    def known(self, unit: Unit) -> None:
        """The kernel has been told."""
        self._known[unit.path] = _inode(prefix_of_cgroups() or "", unit.path)

    def _watch_above(self, prefix: str, path: str) -> None:
        parts = path.split("/")
        for i in range(len(parts)):
            above = os.fsencode(f"{CGROUP_ROOT}/{prefix}{'/'.join(parts[:i])}")
            try:
                mask = IN_CREATE | IN_MOVED_TO | IN_ONLYDIR
                check(libc.inotify_add_watch(self.fd, above, mask), "inotify_add_watch")
            except HardwareFault:
                break


def _inode(prefix: str, path: str) -> int:
    try:
        return os.stat(f"{CGROUP_ROOT}/{prefix}{path}").st_ino
    except OSError:
        return 0


def prefix_of_cgroups() -> str | None:
    """Where cgroup2 lies below CGROUP_ROOT: "" or "unified/"; None when it is not there."""
    for prefix in ("", HYBRID):
        if os.path.exists(f"{CGROUP_ROOT}/{prefix}cgroup.controllers"):
            return prefix
    return None
