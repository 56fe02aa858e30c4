"""The disk as a technician meets it: the files people write, and how full the filesystem is.

``Disk`` is the real ``settings.files.Files``. Symbolic links are followed: the folders belong to
root. Reading is bounded, and only regular files are read: a FIFO in conf.d must not stop a start.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.plain import dataclass

_NEXT = "check the path and its permissions (`namei -l PATH`)"


class Disk:
    """Files on the disk. Blocks; any thread; nothing to close."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, none if it does not exist.

        Raises:
            HardwareFault: EW-SET-011, with the kernel's reason.
        """
        try:
            return [item.name for item in Path(folder).iterdir()]
        except FileNotFoundError:
            return []
        except OSError as fault:
            raise _unreadable(fault) from fault

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """At most ``max_bytes`` + 1 bytes of a regular file.

        Raises:
            HardwareFault: EW-SET-011, with the kernel's reason.
        """
        try:
            # O_NONBLOCK: opening a FIFO for reading waits for a writer otherwise (fifo(7)).
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    text = "cannot be read: not a regular file"
                    raise HardwareFault(text, code="EW-SET-011", next_step=_NEXT)
                return file.read(max_bytes + 1)
        except OSError as fault:
            raise _unreadable(fault) from fault


@dataclass(frozen=True, slots=True)
class Room:
    """How full the filesystem of a folder is, and what the folder itself is.

    Attributes:
        exists: the folder is there and is a folder.
        writable_by_others: others than its owner may write into it.
        free_bytes: what an unprivileged process may still write.
        free_inodes: likewise; filesystems without a fixed number of inodes say 0 of 0.
        total_inodes: 0 where the filesystem has no fixed number.
        read_only: the filesystem is mounted read-only.
    """

    exists: bool
    writable_by_others: bool = False
    free_bytes: int = 0
    free_inodes: int = 0
    total_inodes: int = 0
    read_only: bool = False


def filesystem_bytes(folder: str) -> int | None:
    """How large the filesystem of a folder is, or the one it would be made on; None where the
    kernel does not say. Blocks; any thread.
    """
    for path in (folder, os.path.dirname(folder)):
        with contextlib.suppress(OSError):
            found = os.statvfs(path)
            return found.f_blocks * found.f_frsize or None
    return None


def room(folder: str) -> Room:
    """Look at a folder and its filesystem; a missing folder is an answer, not an error.

    Raises:
        HardwareFault: EW-HOST-002, the folder cannot be looked at.
    """
    try:
        mode, filesystem = os.stat(folder).st_mode, os.statvfs(folder)
    except (FileNotFoundError, NotADirectoryError):
        return Room(exists=False)
    except OSError as fault:
        text = f"{folder} cannot be looked at: {fault.strerror}"
        raise HardwareFault(text, code="EW-HOST-002", next_step=_NEXT) from fault
    return Room(
        exists=stat.S_ISDIR(mode),
        writable_by_others=bool(mode & stat.S_IWOTH),
        free_bytes=filesystem.f_bavail * filesystem.f_frsize,
        free_inodes=filesystem.f_favail,
        total_inodes=filesystem.f_files,
        read_only=bool(filesystem.f_flag & os.ST_RDONLY),
    )


def _unreadable(fault: OSError) -> HardwareFault:
    text = f"cannot be read: {fault.strerror}"
    return HardwareFault(text, code="EW-SET-011", next_step=_NEXT)
