"""What happens to names in a folder, as the kernel tells it (inotify(7)).

What this decides: how a folder is watched and an event is read. What it leaves to others: what a
name means. The descriptor is non-blocking, close-on-exec, and the caller's to close.

    fd = inotify.open_folder("/dev/serial")     # readable when a name came or went
    for event in inotify.events(fd): ...
"""

from __future__ import annotations

import os
import struct

from edgewarden.kernel.libc import check, libc
from edgewarden.plain import dataclass

# <linux/inotify.h>, <linux/fcntl.h>
IN_ATTRIB, IN_MOVED_TO, IN_CREATE = 0x4, 0x80, 0x100
IN_IGNORED, IN_ONLYDIR = 0x8000, 0x01000000
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
READ_BYTES = 16 * (_EVENT.size + 256)
"""At least one event with the longest name (NAME_MAX and its zero)."""


@dataclass(frozen=True, slots=True)
class FolderEvent:
    """One thing that happened.

    Attributes:
        mask: IN_CREATE, IN_MOVED_TO, IN_ATTRIB; IN_IGNORED when the folder itself is gone.
        name: the name in the folder, "" for the folder.
    """

    mask: int
    name: str


def open_folder(path: str) -> int:
    """Watch the names of one folder; returns the descriptor.

    Raises:
        HardwareFault: no such folder, not allowed, or no more watches.
    """
    fd = check(libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1")
    try:
        mask = IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR
        check(libc.inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch")
    except BaseException:
        os.close(fd)
        raise
    return fd


def events(fd: int) -> list[FolderEvent]:
    """Return what happened since the last call; [] for nothing."""
    try:
        data = os.read(fd, READ_BYTES)
    except BlockingIOError:
        return []
    out, at = [], 0
    while at < len(data):
        _, mask, _, size = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        name = data[at : at + size].split(b"\0", 1)[0]
        out.append(FolderEvent(mask, os.fsdecode(name)))
        at += size
    return out
