"""This process and its peers, as the kernel knows them: memory locks, parents, pidfds, credentials.

What this decides: nothing; it names kernel calls that the standard library lacks. What it leaves to
others: whether a refusal matters (gate and guard treat memory locks and priority as best effort).

    lock_memory()
    peer = peer_of(connection)      # Peer(pid, uid)
    loader_waits(pid, proc_data, proc_names)
"""

from __future__ import annotations

import errno
import os
import struct
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from edgewarden.errors import HardwareFault
from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.libc import check, libc, refused
from edgewarden.kernel.signals import pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# <asm-generic/mman.h>, <linux/prctl.h>
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
PR_SET_PDEATHSIG = 1

# <linux/pidfd.h>, kernel 6.13: _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes, its first version.
PIDFD_GET_INFO = 0xC040FF0B
PIDFD_INFO_PID, PIDFD_INFO_CREDS, PIDFD_INFO_CGROUPID = 1, 2, 4
_INFO = struct.Struct("=QQIIII32x")
"""struct pidfd_info: mask, cgroupid, pid, tgid, ppid, ruid, and what we do not ask."""
_INFO_ALL = PIDFD_INFO_PID | PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID
_INFO_REQUEST = _INFO.pack(_INFO_ALL, 0, 0, 0, 0, 0)
_INFO_BUFFER = bytearray(_INFO_REQUEST)
"""One for all: there is one thread."""
_INFO_ADDRESS = ctypes.addressof(ctypes.c_char.from_buffer(_INFO_BUFFER))
_ioctl = libc.ioctl
"""Not fcntl.ioctl: of each call of that Python tells the audit hook that gate has (gate/doors.py),
with cold caches 8 us at p10 of somebody's exec."""
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_ioctl_at_once = ctypes.PyDLL(None).ioctl
"""For ``ids_of``: it does not give way to other threads, keeps no errno, and its arguments are made
once, so that none is converted (but the descriptor, an int as C has it): 2 us at p10, not 12."""
_GET_INFO, _INTO_BUFFER = ctypes.c_ulong(PIDFD_GET_INFO), ctypes.c_void_p(_INFO_ADDRESS)

# <malloc.h>
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
MMAP_THRESHOLD_BYTES = 128 << 10
"""The C library's own at the start; said, it stays."""
# <linux/auxvec.h>
AT_NULL, AT_BASE, AT_SYSINFO_EHDR = 0, 7, 33
AT_KEYS = 256
"""Above every key there is: a pair that begins with more is one of a 32-bit process."""
LOADER_BYTES = 256 << 10
"""From AT_BASE on: the code of glibc's loader ends at 152 kB (2.36, x86-64). What is mapped later
lies below it, or with the old layout (ulimit -s unlimited) above: a larger bound would take libc
for the loader there."""
VDSO_BYTES = 16 << 10
THREADS_AT_MOST = 256
"""Looked at, 5 us each."""

_UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""


class Peer:
    """Who connected, as the kernel recorded it at connect()."""

    __slots__ = ("pid", "uid")

    def __init__(self, pid: int, uid: int) -> None:
        self.pid = pid
        self.uid = uid


def peer_of(connection: socket) -> Peer:
    """SO_PEERCRED of an AF_UNIX connection.

    Raises:
        HardwareFault: the socket has no peer.
    """
    try:
        data = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size)
    except OSError as fault:
        raise refused("getsockopt(SO_PEERCRED)", fault.errno or 0) from fault
    pid, uid, _ = _UCRED.unpack(data)
    return Peer(pid, uid)


def thrifty_heap() -> None:
    """Large blocks go back to the kernel as soon as they are freed, and threads share one heap; to
    be called before there is a second.

    The C library would else remember that a large block was freed (a table of a megabyte that was
    read) and take the next ones from its heap, where they leave holes that locked memory keeps.
    """
    if hasattr(libc, "mallopt"):  # another C library goes on as it is
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def lock_memory() -> None:
    """Keep every page this process touches in memory, now and later; what the heap has free goes
    back first.

    MCL_ONFAULT: pages are locked when they are first touched. Without it the files of the
    interpreter and of libc become resident in whole.

    Raises:
        HardwareFault: ENOMEM or EPERM beyond RLIMIT_MEMLOCK without CAP_IPC_LOCK.
    """
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    check(libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT), "mlockall")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (PR_SET_PDEATHSIG)."""
    done = libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0)
    check(done, "prctl(PR_SET_PDEATHSIG)")


def open_pidfd(pid: int) -> int:
    """A descriptor of the process ``pid`` that no reuse of the number can redirect.

    Raises:
        HardwareFault: ESRCH when it is gone, ENOSYS before Linux 5.3.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as fault:
        raise refused("pidfd_open", fault.errno or 0, pid=pid) from fault


def signal_pidfd(pidfd: int, signal_number: int) -> bool:
    """Send a signal (0 only asks); False when the process is gone."""
    try:
        pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        return False
    return True


class ProcessInfo:
    """A process, as its pidfd tells: nothing is opened, and no reused number can mislead."""

    __slots__ = ("cgroup_id", "parent_pid", "uid")

    def __init__(self, uid: int, cgroup_id: int, parent_pid: int) -> None:
        self.uid = uid
        self.cgroup_id = cgroup_id
        self.parent_pid = parent_pid


def process_info(pidfd: int) -> ProcessInfo | None:
    """Real uid, cgroup and parent; None where the kernel (before 6.13) cannot say.

    Raises:
        ProcessLookupError: the process has ended.
    """
    _INFO_BUFFER[:] = _INFO_REQUEST
    if _ioctl(pidfd, PIDFD_GET_INFO, _INFO_ADDRESS) < 0:
        if ctypes.get_errno() == errno.ESRCH:
            raise ProcessLookupError(errno.ESRCH, "it has ended")
        return None  # ENOTTY, EINVAL: an older kernel; EBADF: no pidfd came with the event
    mask, cgroup_id, _, _, parent_pid, uid = _INFO.unpack_from(_INFO_BUFFER)
    _INFO_BUFFER[:] = _INFO_REQUEST
    if mask & _INFO_ALL != _INFO_ALL:
        return None
    return ProcessInfo(uid, cgroup_id, parent_pid)


def ids_of(pidfd: int) -> tuple[int, int] | None:
    """Real uid and cgroup, in as few steps as there are; ``process_info`` asks with care.

    The buffer keeps what the kernel said last: that names the same fields as the request.

    Returns:
        None where the kernel does not say both, or the process has ended.
    """
    if _ioctl_at_once(pidfd, _GET_INFO, _INTO_BUFFER) == 0:
        mask, cgroup_id, _, _, _, uid = _INFO.unpack_from(_INFO_BUFFER)
        if mask == _INFO_ALL:
            return uid, cgroup_id
    _INFO_BUFFER[:] = _INFO_REQUEST
    return None


def accept_connection(listener: socket) -> tuple[socket, Peer] | None:
    """The next connection of a non-blocking AF_UNIX listener and who made it; None: there is none.

    ``_socket.socket`` has accept() only as the private half that ``socket.socket`` builds on.
    """
    half: Callable[[], tuple[int, object]] = getattr(listener, "_accept")  # noqa: B009
    try:
        fd, _ = half()
    except OSError:  # BlockingIOError, or the client has already given up
        return None
    client = socket(fileno=fd)
    client.setblocking(False)
    try:
        return client, peer_of(client)
    except HardwareFault:
        client.close()
        return None


def loader_waits(
    pid: int, data: Callable[[str], bytes], names: Callable[[str], Sequence[str]]
) -> bool:
    """Whether it may be the dynamic loader of a process that waits in a system call.

    The loader makes its calls itself, so a thread that waits for a verdict of ours in one of them
    has its program counter there (proc(5), /proc/PID/task/TID/syscall). Neither that file nor auxv
    takes the lock of the process's memory, which a hung filesystem can hold.

    Args:
        data: name below /proc -> its bytes, b"" when it is gone.
        names: directory below /proc -> its names, () when it is gone.

    Returns:
        True also where it cannot be told. False for a program without a loader.
    """
    words = _auxv_of(data(f"{pid}/auxv"))
    base, vdso = words.get(AT_BASE, -1), words.get(AT_SYSINFO_EHDR, 0)
    threads = names(f"{pid}/task") if base > 0 else ()
    if base == 0:
        return False
    if not 0 < len(threads) <= THREADS_AT_MOST:
        return True
    told = False
    for thread in threads:
        fields = data(f"{pid}/task/{thread}/syscall").split()
        if len(fields) < 3:
            continue  # it runs: not the one that waits
        told = True
        counter = int(fields[-1], 16)
        if 0 <= counter - base < LOADER_BYTES or 0 <= counter - vdso < VDSO_BYTES:
            return True  # the vdso makes the calls of 32-bit x86, whoever wants them
    return not told


def _auxv_of(data: bytes) -> dict[int, int]:
    pair = struct.Struct("=QQ")
    if len(data) >= pair.size and pair.unpack_from(data)[0] >= AT_KEYS:
        pair = struct.Struct("=II")
    found: dict[int, int] = {}
    for at in range(0, len(data) - pair.size + 1, pair.size):
        key, value = pair.unpack_from(data, at)
        if key == AT_NULL:
            return found
        found[key] = value
    return {}
