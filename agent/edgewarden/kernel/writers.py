"""Which files have been open for writing: a fanotify group that nobody waits for.

What this decides: what ``heard`` may leave out: nothing that was closed before a read lease could
be taken. What it leaves to others: leases (kernel/lease.py), what follows (exec/digest.py).

    writers = Writers()
    writers.mark(dir_fd)
    writers.heard()          # [handle, ...] as handle_of(fd) gives it; None: of too many
"""

from __future__ import annotations

import os
import struct

from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.fanotify import (
    FAN_CLASS_NOTIF,
    FAN_CLOEXEC,
    FAN_MARK_ADD,
    FAN_MARK_FILESYSTEM,
    FAN_NONBLOCK,
    FAN_Q_OVERFLOW,
    FANOTIFY_METADATA_VERSION,
    INFO,
    METADATA,
    READ_BYTES,
    fanotify_init,
    fanotify_mark,
)
from edgewarden.kernel.libc import check, libc

# <linux/fanotify.h>, <linux/fcntl.h>, spelled as there.
FAN_CLOSE_WRITE = 0x00000008
FAN_REPORT_FID = 0x00000200
FAN_EVENT_INFO_TYPE_FID = 1
AT_EMPTY_PATH = 0x1000
MAX_HANDLE_SZ = 128
# <asm-generic/ioctls.h>: bytes that are there to be read, of a fanotify group too.
FIONREAD = 0x541B

_HANDLE = struct.Struct("=Ii")
"""struct file_handle: handle_bytes, handle_type; the handle follows."""
_FSID_BYTES = 8

_ioctl_at_once = ctypes.PyDLL(None).ioctl
"""As in kernel/process.py: arguments made once, nobody given way to."""
_QUEUED = ctypes.c_int()
_FIONREAD, _INTO_QUEUED = ctypes.c_ulong(FIONREAD), ctypes.c_void_p(ctypes.addressof(_QUEUED))
_name_to_handle_at = libc.name_to_handle_at
_name_to_handle_at.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
]  # fmt: skip


class Writers:
    """Which files have been open for writing, on the filesystems that are marked.

    A content can be changed without a trace in ctime (EXT4_IOC_MOVE_EXT exchanges the blocks of two
    files), but only through a descriptor that is open for writing, or a mapping of one. When the
    last of them goes the kernel tells this group first and then lets a read lease be taken, so
    whoever holds one and reads here afterwards has heard of every change before it.
    """

    __slots__ = ("_fd_argument", "fd")

    def __init__(self) -> None:
        """Raises HardwareFault: the kernel has no such group (before 5.1)."""
        flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_NOTIF | FAN_REPORT_FID
        self.fd = check(fanotify_init(flags, os.O_RDONLY), "fanotify_init(FAN_REPORT_FID)")
        self._fd_argument = ctypes.c_int(self.fd)

    def mark(self, dir_fd: int) -> None:
        """Watch the filesystem of a directory.

        Raises:
            HardwareFault: it gives no file handles, or the kernel refuses.
        """
        flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
        done = fanotify_mark(self.fd, flags, FAN_CLOSE_WRITE, dir_fd, b".")
        check(done, "fanotify_mark(FAN_CLOSE_WRITE)")

    def heard(self) -> list[bytes] | None:
        """Handles, as ``handle_of`` gives them, of what was open for writing since the last call;
        None: of more files than the kernel remembers, or it cannot be told. Never waits."""
        found: list[bytes] = []
        if _ioctl_at_once(self._fd_argument, _FIONREAD, _INTO_QUEUED) == 0 and not _QUEUED.value:
            return found  # nearly always, and for each opening in strict mode: no exception is made
        while True:
            try:
                data = os.read(self.fd, READ_BYTES)
            except BlockingIOError:
                return found
            except OSError:
                return None
            handles = _handles_in(data)
            if handles is None:
                return None
            found += handles

    def close(self) -> None:
        """Close the group; twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._fd_argument = ctypes.c_int(-1)


def handle_of(fd: int) -> bytes:
    """What names the inode of an open file in the events of ``Writers``; b"" where its filesystem
    gives no handles."""
    buffer = ctypes.create_string_buffer(_HANDLE.size + MAX_HANDLE_SZ)
    _HANDLE.pack_into(buffer, 0, MAX_HANDLE_SZ, 0)
    mount = ctypes.c_int()
    if _name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH) != 0:
        return b""
    return buffer.raw[: _HANDLE.size + _HANDLE.unpack_from(buffer)[0]]


def _handles_in(data: bytes) -> list[bytes] | None:
    found = []
    at = 0
    while at < len(data):
        event_len, vers, _, metadata_len, mask, _, _ = METADATA.unpack_from(data, at)
        if vers != FANOTIFY_METADATA_VERSION or metadata_len != METADATA.size:
            return None
        info_at = at + METADATA.size
        at += event_len
        handle_at = info_at + INFO.size + _FSID_BYTES
        if mask & FAN_Q_OVERFLOW or handle_at + _HANDLE.size > at or at > len(data):
            return None
        if INFO.unpack_from(data, info_at)[0] != FAN_EVENT_INFO_TYPE_FID:
            return None
        handle_bytes, _ = _HANDLE.unpack_from(data, handle_at)
        end = handle_at + _HANDLE.size + handle_bytes
        if not handle_bytes or end > at:
            return None
        found.append(data[handle_at:end])
    return found
