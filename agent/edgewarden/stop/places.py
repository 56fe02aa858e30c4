"""Where a stopped program lies: on a watched filesystem, on one that is not, or on one that nobody
here knows.

What this decides, in order:

1. The mount is in this process's own table (the host's): ``JUDGE`` when its superblock is watched
   or when it is an overlay with a layer on a watched one, else ``SPARE``.
2. Not there: another mount namespace (a service's, a container's), whose own table names the
   superblock. One that the host knows is treated as the host treats it.
3. A superblock the host does not know, or a mount that is in no table (a memfd): ``JUDGE``. What
   fanotify marks cannot reach, a fresh tmpfs in a namespace of somebody's own, is reached here.
   Except when its type is none that can be read without waiting for somebody else
   (exec/marks.py, WATCHABLE): ``REFUSE``.

Nothing but /proc is read, and no attribute of the file: asking a FUSE server for one would wait for
it.

    Places(mounts, proc_text, {"8:1"}, WATCHABLE).look(pid, fd_opened_with_O_PATH) == JUDGE
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.mounts import parse_mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.mounts import Filesystem, Mounts

SPARE, JUDGE, REFUSE = 0, 1, 2
_LAYERS = ("lowerdir", "upperdir", "datadir")


class Places:
    """See the module.

    Args:
        mounts: looks at paths (an overlay's layers).
        proc_text: name below /proc -> its whole content, "" when it is gone.
        watched: superblocks (``Filesystem.device``) that are watched.
        watchable: types of filesystems that can be read without waiting for somebody else.
    """

    __slots__ = ("_host", "_mounts", "_proc_text", "_supers", "_watchable", "_watched")

    def __init__(
        self,
        mounts: Mounts,
        proc_text: Callable[[str], str],
        watched: set[str],
        watchable: frozenset[str],
    ) -> None:
        self._mounts = mounts
        self._proc_text = proc_text
        self._watched = watched
        self._watchable = watchable
        self._host: dict[str, str] = {}
        self._supers: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """The mount table changed."""
        found = table_of(self._proc_text("self/mountinfo"))
        self._host = {number: where.device for number, where in found.items()}
        self._supers = {where.device: self._judged(where) for where in found.values()}

    def look(self, pid: int, fd: int) -> int:
        """SPARE, JUDGE or REFUSE for the program ``fd`` (O_PATH) of process ``pid``."""
        number = mount_of(self._proc_text(f"self/fdinfo/{fd}"))
        device = self._host.get(number)
        if device is not None:
            return self._supers[device]
        foreign = table_of(self._proc_text(f"{pid}/mountinfo")).get(number)
        if foreign is None:
            return JUDGE
        if foreign.device in self._supers:
            return self._supers[foreign.device]
        return JUDGE if foreign.kind in self._watchable else REFUSE

    def _judged(self, where: Filesystem) -> int:
        if where.device in self._watched:
            return JUDGE
        if where.kind != "overlay":
            return SPARE
        for option in where.options:
            key, _, value = option.partition("=")
            for layer in value.split(":") if key.rstrip("+") in _LAYERS else ():
                try:
                    if self._mounts.at(layer).device in self._watched:
                        return JUDGE
                except EdgewardenError:
                    continue  # a layer out of sight is on nothing that is watched from here
        return SPARE


def table_of(mountinfo: str) -> dict[str, Filesystem]:
    """Mount id -> filesystem."""
    return dict(found for line in mountinfo.splitlines() if (found := parse_mountinfo(line)))


def mount_of(fdinfo: str) -> str:
    """The mount id in a descriptor's fdinfo, "" when it does not say."""
    for line in fdinfo.splitlines():
        if line.startswith("mnt_id:"):
            return line[7:].strip()
    return ""
