"""Mounts: which filesystem a path lies on, by superblock, and the canary's private tmpfs.

What this decides: identity of a filesystem is the device number of its *superblock* as mountinfo
prints it, not ``st_dev``: btrfs gives every subvolume its own st_dev while a filesystem mark covers
them all, so comparing st_dev would let enforce be armed on the filesystem that holds ``/``. What it
leaves to others: which may be marked.

Paths are looked at through O_PATH descriptors: those raise no fanotify event and are closed before
return. And what the kernel knows of a file without asking the filesystem (``known_status``).

    where = Mounts(proc_fd).at("/mnt/x")     # Filesystem(device="0:53", kind="tmpfs", ...)
"""

from __future__ import annotations

import os
import struct

from edgewarden.errors import OperatorFault
from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.libc import check, libc, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# <linux/mount.h>, <sys/mount.h>, <linux/sched.h>
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_NEWNS = 0x00020000
# <linux/fcntl.h>
AT_FDCWD = -100

SYS_OPENAT2 = 437
"""On every architecture, <asm-generic/unistd.h>; since Linux 5.6."""
# <linux/openat2.h>
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8
_RESOLVE = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_HOW = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
"""struct open_how: flags, mode, resolve."""
MOUNTINFO_BYTES = 4 << 20
"""A host with thousands of containers stays below 1 MiB; more is refused, not read."""

_mount = libc.mount
_mount.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
]  # fmt: skip
_umount2 = libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]

# <linux/stat.h>, <linux/fcntl.h>
STATX_BASIC_STATS = 0x7FF
"""Without STATX_BTIME: FUSE asks its server for that, whatever the flags say."""
STATX_MNT_ID_UNIQUE = 0x4000
AT_STATX_DONT_SYNC = 0x4000
STATX_BYTES = 256
STX_MNT_ID_AT = 144
"""offsetof(struct statx, stx_mnt_id); stx_mask is at 0."""
_OWNER_AT = 20
_OWNER = struct.Struct("=IIH2xQQ")
"""From stx_uid on: uid, gid, mode, ino, size."""
_CHANGED_AT = 96
_CHANGED = struct.Struct("=qI4xqI4x8xII")
"""From stx_ctime on: ctime and mtime (seconds, nanoseconds), rdev (8 bytes), device (major,
minor)."""

_statx = libc.statx
_statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
_SECOND_NS = 1_000_000_000
_buffer = ctypes.create_string_buffer(STATX_BYTES)
"""One for all who come through here, gate's loop: nothing of it is kept between two calls."""


class Filesystem:
    """One mounted filesystem.

    Attributes:
        device: "major:minor" of the superblock.
        kind: type name (``ext4``, ``fuse.sshfs``).
        options: the superblock's options, unparsed pairs.
    """

    __slots__ = ("device", "kind", "options")

    def __init__(self, device: str, kind: str, options: tuple[str, ...]) -> None:
        self.device = device
        self.kind = kind
        self.options = options


class Mounts:
    """Looks at the mount table through a /proc descriptor that was opened before arming."""

    __slots__ = ("_open", "_proc_fd")

    def __init__(self, proc_fd: int, opener: Callable[[int, str, int], int] | None = None) -> None:
        """``opener(dir_fd, name, flags)`` opens below /proc; default os.open."""
        self._proc_fd = proc_fd
        self._open = opener or _plain_open

    def open_table(self) -> int:
        """A descriptor that says, by POLLPRI, that the table has changed (proc(5)): once to it, so
        whoever asks needs one of its own.

        Raises:
            OSError: as open.
        """
        return self._open(self._proc_fd, "self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)

    def at(self, path: str) -> Filesystem:
        """The filesystem that the directory or file ``path`` lies on.

        Raises:
            OperatorFault: no such path.
            HardwareFault: /proc does not say.
        """
        try:
            fd = self._open(AT_FDCWD, path, os.O_PATH | os.O_CLOEXEC)
        except OSError as fault:
            raise OperatorFault(
                f"{path}: {os.strerror(fault.errno or 0)}",
                code="EW-EXEC-010",
                name="absent",
                next_step="mount it, or take it out of [exec] filesystems",
                path=path,
            ) from fault
        try:
            return self.of(fd)
        finally:
            os.close(fd)

    def of(self, fd: int) -> Filesystem:
        """The filesystem of an open descriptor.

        Raises:
            HardwareFault: /proc does not say.
        """
        mount_id = ""
        for line in self._text(f"self/fdinfo/{fd}").splitlines():
            if line.startswith("mnt_id:"):
                mount_id = line[7:].strip()
        for line in self._text("self/mountinfo").splitlines():
            found = parse_mountinfo(line)
            if found is not None and found[0] == mount_id:
                return found[1]
        raise refused("mountinfo", 2, mount_id=mount_id)

    def unique_number(self, path: str) -> int | None:
        """The number of the mount that ``path`` lies on, which no other mount ever gets; None where
        the kernel (before 6.8) or the path has none."""
        buffer = ctypes.create_string_buffer(STATX_BYTES)
        flags = AT_STATX_DONT_SYNC
        if _statx(AT_FDCWD, os.fsencode(path), flags, STATX_MNT_ID_UNIQUE, buffer) != 0:
            return None
        (mask,) = struct.unpack_from("=I", buffer, 0)
        if not mask & STATX_MNT_ID_UNIQUE:
            return None
        (number,) = struct.unpack_from("=Q", buffer, STX_MNT_ID_AT)
        return int(number)

    def points(self) -> dict[bytes, str]:
        """Mount point -> type of the filesystem there, of this process's mount namespace.

        Raises:
            HardwareFault: /proc does not say.
        """
        found = {}
        for line in self._text("self/mountinfo").splitlines():
            parsed = parse_mountinfo(line)
            if parsed is not None:  # of two at one point the later one lies on top
                found[_unescaped(line.split(" ")[4])] = parsed[1].kind
        return found

    def devices(self) -> dict[int, str]:
        """st_dev -> type of each filesystem in this process's mount namespace.

        Raises:
            HardwareFault: /proc does not say.
        """
        found = {}
        for line in self._text("self/mountinfo").splitlines():
            parsed = parse_mountinfo(line)
            if parsed is None:
                continue
            major, _, minor = parsed[1].device.partition(":")
            found[os.makedev(int(major), int(minor))] = parsed[1].kind
            if parsed[1].kind == "btrfs":  # each subvolume has a number of its own
                status = known_status(AT_FDCWD, _unescaped(line.split(" ")[4]))
                if status is not None:
                    found[status.st_dev] = "btrfs"
        return found

    def _text(self, name: str) -> str:
        try:
            fd = self._open(self._proc_fd, name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as fault:
            raise refused(f"open(/proc/{name})", fault.errno or 0) from fault
        try:
            parts = []
            left = MOUNTINFO_BYTES
            while left > 0 and (part := os.read(fd, min(left, 65536))):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(fd)
        return b"".join(parts).decode("utf-8", "surrogateescape")


def _plain_open(dir_fd: int, name: str, flags: int) -> int:
    return os.open(name, flags, dir_fd=None if dir_fd == AT_FDCWD else dir_fd)


def parse_mountinfo(line: str) -> tuple[str, Filesystem] | None:
    """(mount id, filesystem) of one line of mountinfo, proc(5); None when it is not one."""
    before, dash, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not dash or len(left) < 6 or len(right) < 3:
        return None
    return left[0], Filesystem(left[2], right[0], tuple(right[2].split(",")))


def _unescaped(word: str) -> bytes:
    """Octal escapes of mountinfo (``\\040``) as the bytes they stand for."""
    first, *rest = os.fsencode(word).split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def enter_private_mounts() -> None:
    """Give this process its own mount namespace, from which nothing propagates out.

    Raises:
        HardwareFault: EPERM without CAP_SYS_ADMIN.
    """
    check(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    check(_mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount(MS_PRIVATE)")


def mount_tmpfs(where: str, options: str) -> None:
    """Mount a tmpfs at ``where`` (executables allowed, no devices, no setuid)."""
    flags = MS_NOSUID | MS_NODEV
    done = _mount(b"edgewarden", os.fsencode(where), b"tmpfs", flags, options.encode())
    check(done, "mount(tmpfs)", path=where)


def mount_securityfs(where: str) -> None:
    """Mount the kernel's view of its security modules at ``where``.

    Raises:
        HardwareFault: the kernel has none, or refuses.
    """
    flags = MS_NOSUID | MS_NODEV
    done = _mount(b"edgewarden", os.fsencode(where), b"securityfs", flags, None)
    check(done, "mount(securityfs)", path=where)


def unmount(where: str) -> None:
    """Take the mount away, now from the tree and at last use from the kernel (MNT_DETACH)."""
    check(_umount2(os.fsencode(where), MNT_DETACH), "umount2", path=where)


def is_beneath(directory_fd: int, name: bytes, inode: tuple[int, int]) -> bool:
    """Whether ``name`` below an O_PATH descriptor is the file with (st_dev, st_ino).

    openat2(2) with O_PATH: nothing is opened that a mark could see, no symbolic link is followed,
    no mount is crossed, so that no filesystem but the directory's own can make the caller wait.
    """
    fd: int = libc.syscall(
        ctypes.c_long(SYS_OPENAT2), ctypes.c_int(directory_fd), name, _HOW,
        ctypes.c_size_t(len(_HOW)),
    )  # fmt: skip
    if fd < 0:
        return False
    try:
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) == inode
    finally:
        os.close(fd)


class Status:
    """The fields of os.stat_result that name a content and its owner."""

    __slots__ = (
        "st_ctime_ns", "st_dev", "st_gid", "st_ino", "st_mode", "st_mtime_ns", "st_size", "st_uid",
    )  # fmt: skip

    def __init__(self, data: ctypes.Array[ctypes.c_char]) -> None:
        self.st_uid, self.st_gid, self.st_mode, self.st_ino, self.st_size = _OWNER.unpack_from(
            data, _OWNER_AT
        )
        ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor = _CHANGED.unpack_from(data, _CHANGED_AT)
        self.st_ctime_ns: int = ctime_s * _SECOND_NS + ctime_ns
        self.st_mtime_ns: int = mtime_s * _SECOND_NS + mtime_ns
        self.st_dev = os.makedev(major, minor)


def known_status(dir_fd: int, name: bytes) -> Status | None:
    """What is known of the file that ``name`` leads to, from ``dir_fd`` on; None when it leads
    nowhere.

    stat(2) of a file on a FUSE filesystem is a question to a server that any user may run, and
    SIGKILL does not end the wait for its answer. AT_STATX_DONT_SYNC takes what the kernel has in
    memory: of a running program's file device, inode and the times that were last told. It does not
    help where the way to the file waits (NFS and 9p ask at the end of a link of /proc, too).
    """
    if _statx(dir_fd, name, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, _buffer) != 0:
        return None
    return Status(_buffer)
