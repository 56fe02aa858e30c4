"""fanotify for exec events: one group, filesystem marks, events read strictly, answers.

What this decides: which marks can exist at all. ``Group.mark`` takes the mask but no mark type: it
always says ``FAN_MARK_FILESYSTEM``, because a mount mark is walked around by any user with
``unshare -rm``, a bind mount or an overlay. What it leaves to others: verdicts and which filesystem
may be marked (act/).

Rules, in order:

1. A notify group (``FAN_CLASS_NOTIF``) cannot hold permission marks: the kernel itself refuses
   them. That is why learn and observe use one, and cannot delay an exec even if this program is
   wrong.
2. A content group never loses an event: ``FAN_UNLIMITED_QUEUE`` (an overflow would mean "allow").
3. An event that does not fit the ABI we know (version 3, 24 bytes) is a HardwareFault; nothing of
   it is used.
4. The last descriptor of the group closed = every waiting exec allowed, every mark gone
   (fanotify(7)).
5. A group may have a bell: a file in memory. Who writes to it wakes whoever sleeps in ``read``
   (gate/waiting.py); what it rings is never given out by ``read``.

    group = open_group(permission=True)
    group.mark("/mnt/x", FAN_OPEN_EXEC_PERM)
    for event in group.read():
        group.answer(event.fd, allow=True)
        event.close()
"""

from __future__ import annotations

import errno
import os
import struct

from edgewarden.errors import HardwareFault
from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.libc import check, libc, refused
from edgewarden.kernel.process import signal_pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# <linux/fanotify.h>, spelled as there.
FAN_MODIFY = 0x00000002
FAN_OPEN_EXEC = 0x00001000
FAN_Q_OVERFLOW = 0x00004000
FAN_OPEN_PERM = 0x00010000
FAN_OPEN_EXEC_PERM = 0x00040000
FAN_CLOEXEC = 0x00000001
FAN_NONBLOCK = 0x00000002
FAN_CLASS_NOTIF = 0x00000000
FAN_CLASS_CONTENT = 0x00000004
FAN_UNLIMITED_QUEUE = 0x00000010
FAN_UNLIMITED_MARKS = 0x00000020
FAN_REPORT_PIDFD = 0x00000080
FAN_EVENT_ON_CHILD = 0x08000000
FAN_MARK_ADD = 0x00000001
FAN_MARK_REMOVE = 0x00000002
FAN_MARK_IGNORED_SURV_MODIFY = 0x00000040
FAN_MARK_FILESYSTEM = 0x00000100
FAN_MARK_IGNORE = 0x00000400  # since Linux 6.0
FANOTIFY_METADATA_VERSION = 3
FAN_EVENT_INFO_TYPE_PIDFD = 4
FAN_ALLOW = 0x01
FAN_DENY = 0x02
FAN_NOFD = -1
FAN_NOPIDFD = -1
FAN_EPIDFD = -2
# <linux/fcntl.h>
AT_FDCWD = -100

METADATA = struct.Struct("=IBBHQii")
"""struct fanotify_event_metadata: event_len, vers, reserved, metadata_len, mask, fd, pid."""
INFO = struct.Struct("=BBH")
"""struct fanotify_event_info_header: info_type, pad, len."""
_PIDFD = struct.Struct("=i")
_RESPONSE = struct.Struct("=iI")
"""struct fanotify_response: fd, response."""
pack_answer = _RESPONSE.pack

USUAL = struct.Struct("=16xii4xi")
"""A whole event with its pidfd record, as nearly every read gives exactly one: fd, pid, pidfd.
Nothing is made of the rest: it is ``usual_head`` and, at USUAL_RECORD_AT, USUAL_RECORD, or no such
event."""
USUAL_RECORD_AT = METADATA.size
USUAL_RECORD = INFO.pack(FAN_EVENT_INFO_TYPE_PIDFD, 0, INFO.size + _PIDFD.size)

FEW_BYTES = 8 * USUAL.size
"""A read of so much takes no large block from malloc, to be cut down to the one event that there
usually is: 4 us, p10."""

UNTOLD = -3
"""Ours: the kernel sent no pidfd record."""
EVENTS_PER_READ = 64
"""Each event of a read costs one or two descriptors until it is answered; an unbounded read can use
up RLIMIT_NOFILE (inspektor-gadget#5730)."""
OURS_ALONE = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF, errno.EFAULT, errno.EINVAL)
)
"""What read(2) fails of because of us or the kernel. Anything else is about the file of one event,
which could not be opened for us: a socket (ENXIO), a write lease (EWOULDBLOCK), a key that is not
there (ENOKEY). The kernel has denied that one by then; it is no reason to let go of the others."""
READ_BYTES = EVENTS_PER_READ * (METADATA.size + INFO.size + _PIDFD.size)

fanotify_init = libc.fanotify_init
fanotify_init.argtypes = [ctypes.c_uint, ctypes.c_uint]
fanotify_mark = libc.fanotify_mark
fanotify_mark.argtypes = [
    ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p,
]  # fmt: skip


def usual_head(mask: int) -> bytes:
    """What a usual event of this mask begins with."""
    head = (USUAL.size, FANOTIFY_METADATA_VERSION, 0, METADATA.size, mask, FAN_NOFD, 0)
    return METADATA.pack(*head)[:16]


class ExecEvent:
    """One exec seen by the kernel.

    Attributes:
        mask: the FAN_ bits.
        fd: the very file being executed, open for reading, or FAN_NOFD after an overflow.
        pid: the process calling execve, 0 when it is outside our pid namespace.
        pidfd: its pidfd, or FAN_NOPIDFD (it is gone), FAN_EPIDFD, UNTOLD (an old kernel).
    """

    __slots__ = ("fd", "mask", "pid", "pidfd")

    def __init__(self, mask: int, fd: int, pid: int, pidfd: int) -> None:
        self.mask = mask
        self.fd = fd
        self.pid = pid
        self.pidfd = pidfd

    @property
    def wants_answer(self) -> bool:
        """Whether a process stands still until ``Group.answer``."""
        return bool(self.mask & (FAN_OPEN_EXEC_PERM | FAN_OPEN_PERM))

    @property
    def is_opening(self) -> bool:
        """Whether a file is opened, not executed; an exec is announced as both, in turn."""
        return bool(self.mask & FAN_OPEN_PERM)

    def is_alive(self) -> bool:
        """Whether ``pid`` still names the process that caused the event; True when unknown."""
        if self.pidfd < 0:
            return self.pidfd != FAN_NOPIDFD  # it had ended when the kernel made the event
        return signal_pidfd(self.pidfd, 0)

    def close(self) -> None:
        """Close what came with the event; twice is harmless."""
        for fd in (self.fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.fd, self.pidfd = FAN_NOFD, UNTOLD


class Group:
    """A fanotify group; see the module for what its class can hold.

    Does not block (FAN_NONBLOCK). One thread. ``close`` allows what waits and removes all marks.
    """

    __slots__ = ("fd", "permission", "pidfds")

    in_passing = True
    """Whether ``fd`` speaks as fanotify(7) says: exec/quick.py reads and writes it itself."""

    def __init__(self, fd: int, permission: bool, pidfds: bool) -> None:
        self.fd = fd
        self.permission = permission
        self.pidfds = pidfds

    def mark(self, path: str, mask: int, *, dir_fd: int = AT_FDCWD) -> None:
        """Watch the whole filesystem that ``path`` (looked up from ``dir_fd``) lies on.

        Raises:
            HardwareFault: EINVAL where the kernel has no permission events or the group is a notify
                group, EPERM without CAP_SYS_ADMIN, ENOENT, ENOSYS.
        """
        flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
        done = fanotify_mark(self.fd, flags, mask, dir_fd, os.fsencode(path))
        check(done, "fanotify_mark", path=path, mask=mask)

    def unmark(self, mask: int, *, dir_fd: int) -> None:
        """Take ``mask`` out of a mark; where there is none that is no fault."""
        flags = FAN_MARK_REMOVE | FAN_MARK_FILESYSTEM
        if fanotify_mark(self.fd, flags, mask, dir_fd, b".") < 0:
            check(0 if ctypes.get_errno() == errno.ENOENT else -1, "fanotify_mark(remove)")

    def spare_openings_in(self, dir_fd: int) -> None:
        """No event for what is opened directly in a directory; starts there are events all the
        same.

        Raises:
            HardwareFault: EINVAL before Linux 6.0.
        """
        flags = FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY
        mask = FAN_OPEN_PERM | FAN_EVENT_ON_CHILD
        check(fanotify_mark(self.fd, flags, mask, dir_fd, b"."), "fanotify_mark(ignore)")

    def mark_file(self, fd: int, *, remove: bool = False) -> None:
        """The file of ``fd``, by whatever name: no start of it is asked for (permission group; the
        first write(2) ends that), or each is told (notify group). Raises as ``mark``."""
        mask, flags = FAN_OPEN_EXEC, FAN_MARK_REMOVE if remove else FAN_MARK_ADD
        if self.permission:
            mask, flags = FAN_OPEN_EXEC_PERM, flags | FAN_MARK_IGNORE
        done = fanotify_mark(self.fd, flags, mask, fd, None)
        if not (remove and done < 0 and ctypes.get_errno() == errno.ENOENT):
            check(done, "fanotify_mark(file)")

    def hang_bell(self, fd: int) -> None:
        """What is written to the file of ``fd`` from now on is an event of mask FAN_MODIFY, alone.

        Raises:
            HardwareFault: as ``mark``.
        """
        check(fanotify_mark(self.fd, FAN_MARK_ADD, FAN_MODIFY, fd, None), "fanotify_mark(bell)")

    def read(self) -> list[ExecEvent]:
        """The next events, at most EVENTS_PER_READ; empty when there is none.

        Raises:
            HardwareFault: the kernel refuses (EMFILE, ...) or speaks another ABI.
        """
        found = []
        for event in parse_events(self.read_bytes()):
            if event.mask == FAN_MODIFY:
                event.close()
            else:
                found.append(event)
        return found

    def read_bytes(self) -> bytes:
        """As ``read``, for ``parse_events``; raises as it does."""
        try:
            return os.read(self.fd, READ_BYTES)
        except OSError as fault:
            return unread(fault)

    def answer(self, fd: int, *, allow: bool) -> bool:
        """Let the exec of the event with ``fd`` go on or fail with EPERM.

        Returns:
            False when nobody waits any more (the process was killed).

        Raises:
            HardwareFault: the kernel does not take the answer.
        """
        try:
            os.write(self.fd, pack_answer(fd, FAN_ALLOW if allow else FAN_DENY))
        except OSError as fault:
            if fault.errno == errno.ENOENT:
                return False
            raise answer_refused(fault) from fault
        return True

    def close(self) -> None:
        """Close the group; twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def unread(fault: OSError) -> bytes:
    """What a read that failed has read: nothing, where it failed of one event's file.

    Raises:
        HardwareFault: it failed of us or of the kernel.
    """
    if fault.errno not in OURS_ALONE:
        return b""
    raise refused("read(fanotify)", fault.errno or 0) from fault


def answer_refused(fault: OSError) -> HardwareFault:
    """The kernel did not take an answer."""
    return refused("write(fanotify)", fault.errno or 0)


def open_group(*, permission: bool) -> Group:
    """A new group without marks.

    Args:
        permission: a content group, whose marks may make an exec wait; False is a notify group.

    Raises:
        HardwareFault: ENOSYS or EINVAL where the kernel has none, EPERM without CAP_SYS_ADMIN.
    """
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS
    flags |= FAN_CLASS_CONTENT if permission else FAN_CLASS_NOTIF
    # O_NONBLOCK: the kernel opens the file of an event while we read. Whoever owns it may hold a
    # write lease on it, and read() would wait up to 45 s (fs.lease-break-time) for him to let go.
    # So his own exec is denied, and he alone waits for it.
    event_flags = os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE | os.O_NONBLOCK
    fd = fanotify_init(flags | FAN_REPORT_PIDFD, event_flags)
    if fd >= 0:
        return Group(fd, permission, pidfds=True)
    # FAN_REPORT_PIDFD is younger (5.15) than the rest: one more try without it.
    fd = check(fanotify_init(flags, event_flags), "fanotify_init", permission=permission)
    return Group(fd, permission, pidfds=False)


def parse_events(data: bytes) -> Iterator[ExecEvent]:
    """Read what the kernel wrote, refusing everything that is not the ABI above.

    Raises:
        HardwareFault: another version, or lengths that do not add up.
    """
    at = 0
    while at < len(data):
        if len(data) - at < METADATA.size:
            raise _abi(f"{len(data) - at} bytes left over")
        event_len, vers, _, metadata_len, mask, fd, pid = METADATA.unpack_from(data, at)
        if vers != FANOTIFY_METADATA_VERSION or metadata_len != METADATA.size:
            raise _abi(f"version {vers}, metadata of {metadata_len} bytes")
        if not METADATA.size <= event_len <= len(data) - at:
            raise _abi(f"event of {event_len} bytes in {len(data) - at}")
        end = at + event_len
        pidfd = _pidfd_of(data, at + METADATA.size, end)
        yield ExecEvent(mask, fd, pid, pidfd)
        at = end


def _pidfd_of(data: bytes, at: int, end: int) -> int:
    found = UNTOLD
    while at < end:
        if end - at < INFO.size:
            raise _abi("information record cut short")
        kind, _, length = INFO.unpack_from(data, at)
        if not INFO.size <= length <= end - at:
            raise _abi(f"information record of {length} bytes")
        if kind == FAN_EVENT_INFO_TYPE_PIDFD:
            if length != INFO.size + _PIDFD.size:
                raise _abi(f"pidfd record of {length} bytes")
            (found,) = _PIDFD.unpack_from(data, at + INFO.size)
        at += length
    return found


def _abi(text: str) -> HardwareFault:
    return HardwareFault(
        f"fanotify speaks another ABI: {text}",
        code="EW-EXEC-006",
        next_step="report this kernel's version; exec control is off on it",
    )
