"""What the privileged look has left, read by link.

Decides whether the file is believed: root's alone, whole (sealed), and new since the last time.
Leaves to others what it says.

    looks = Looks("/run/edgewarden/look")
    looks.fresh()        # (Looked(...), ...) once for each look, else ()
    looks.age_s(now_ns)  # None while there was none
"""

from __future__ import annotations

import os
import stat

from edgewarden.errors import WireRefusal
from edgewarden.wire.look import MAX_LOOK_BYTES, Look, Looked, load

LATE_S = 180.0
"""Three looks missed."""


class Looks:
    """One thread.

    Args:
        path: of the file.
        owner_uid: whose it must be.

    Attributes:
        last: the look that was read last.
        fault: why the file was not believed, "" when it was or there is none.
    """

    def __init__(self, path: str, owner_uid: int = 0) -> None:
        self._path = path
        self._owner_uid = owner_uid
        self._seen: tuple[int, int] = (0, 0)
        self.last: Look | None = None
        self.fault = ""

    def fresh(self) -> tuple[Looked, ...]:
        """What a look said that was not read before, () when there is none."""
        try:
            status = os.lstat(self._path)
            if (status.st_ino, status.st_mtime_ns) == self._seen:  # nearly always
                return ()
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ()
        try:
            status = os.fstat(fd)
            seen = status.st_ino, status.st_mtime_ns
            if seen == self._seen:
                return ()
            self._seen = seen
            if not self._believed(status):
                return ()
            data = os.read(fd, MAX_LOOK_BYTES + 1)
            self.last, self.fault = load(data), ""
        except (OSError, WireRefusal) as fault:
            self.fault = str(fault)
            return ()
        finally:
            os.close(fd)
        return self.last.processes

    def _believed(self, status: os.stat_result) -> bool:
        others = stat.S_IWGRP | stat.S_IWOTH
        if not stat.S_ISREG(status.st_mode) or status.st_mode & others:
            self.fault = "not a file that its owner alone may write"
        elif status.st_uid != self._owner_uid:
            self.fault = f"of uid {status.st_uid}, not {self._owner_uid}"
        else:
            return True
        return False

    def age_s(self, now_ns: int) -> float | None:
        """Seconds since the last look began."""
        return None if self.last is None else max(0.0, (now_ns - self.last.boot_ns) / 1e9)

    def owner_of(self, inode: int) -> int | None:
        """Whose process held a socket at the last look."""
        if self.last is not None:
            for one in self.last.processes:
                if inode in one.inodes:
                    return one.pid
        return None
