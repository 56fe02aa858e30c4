"""After gate's death at tier T2: nobody it had stopped stays stopped.

What this decides: who stands still by gate's doing, without a record of gate's that could be lost
with it. The BPF program stops a task before the first instruction of its new image, and nobody else
does: a process is resumed when, in this order,

1. it is stopped (state ``T``; a debugger's is ``t``) and has one thread;
2. its next instruction is the entry of its program's loader, or of the program when that has none.

Somebody who stops a process by hand in just that moment sees it go on; the next SIGSTOP holds.

Who runs it: systemd when gate has ended (ExecStopPost=), the supervisor likewise, and gate itself
before it arms. The BPF programs are detached by then: their descriptors ended with gate. A task
that was told to stop and has not got there yet is caught by another look.

    python3 -I -S .../stop/resume.py
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from select import poll

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.errors import HardwareFault
from edgewarden.kernel.process import open_pidfd, signal_pidfd
from edgewarden.kernel.signals import SIGCONT

LOOKS_MS = (0, 20, 200)
"""Waits before each look; from SIGSTOP to standing still it is one return from execve. The last
only where one before found somebody: gate's next start waits for us."""
# <linux/auxvec.h>
AT_BASE, AT_ENTRY = 7, 9
_ELF_ENTRY = 24
"""Offset of e_entry in both classes of ELF header (elf(5))."""
_STOPPED = b"T"


def sweep(proc_fd: int) -> int:
    """Resume whoever stands at a first instruction; returns how many. ``proc_fd`` is /proc."""
    resumed = 0
    for name in os.listdir(proc_fd):
        if name.isdigit() and stands_at_start(proc_fd, name):
            resume(int(name))
            resumed += 1
    return resumed


def stands_at_start(proc_fd: int, pid: str) -> bool:
    """Whether the process is stopped before its program's first instruction."""
    status = _read(proc_fd, f"{pid}/stat", 1024)
    fields = status[status.rfind(b")") + 2 :].split()
    if len(fields) < 18 or fields[0] != _STOPPED or fields[17] != b"1":
        return False
    where = _read(proc_fd, f"{pid}/syscall", 256).split()
    if len(where) < 3:
        return False
    at = int(where[-1], 16)
    auxv = _read(proc_fd, f"{pid}/auxv", 4096)
    return any(at == _first(proc_fd, pid, auxv, layout) for layout in ("=QQ", "=II"))


def _first(proc_fd: int, pid: str, auxv: bytes, layout: str) -> int:
    """Address of the first instruction, read as a 64-bit or as a 32-bit program's; 0: unknown."""
    pair = struct.Struct(layout)
    whole = auxv[: len(auxv) - len(auxv) % pair.size]
    vector = dict(pair.iter_unpack(whole))
    base = vector.get(AT_BASE, 0)
    if not base:
        return int(vector.get(AT_ENTRY, 0))
    size = pair.size // 2
    entry = _read(proc_fd, f"{pid}/mem", size, base + _ELF_ENTRY)
    if len(entry) != size:
        return 0
    return int(base + int.from_bytes(entry, sys.byteorder))


def _read(proc_fd: int, name: str, size: int, at: int = 0) -> bytes:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, at)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)


def resume(pid: int) -> None:
    """SIGCONT to a process that was stopped; one that has ended is no fault."""
    try:
        pidfd = open_pidfd(pid)
    except HardwareFault as fault:
        if fault.fields.get("errno") != errno.ESRCH:
            _resume_by_number(pid)
        return
    try:
        signal_pidfd(pidfd, SIGCONT)
    finally:
        os.close(pidfd)


def _resume_by_number(pid: int) -> None:
    """No descriptor is left. Should the number be another's by now: one who stands still because a
    person stopped him goes on; nobody else notices."""
    try:
        os.kill(pid, SIGCONT)
    except ProcessLookupError:
        return


def main() -> int:
    """Look LOOKS_MS; says on stderr how many were let go. Always 0: there is nothing to fail."""
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = 0
    for wait_ms in LOOKS_MS:
        if wait_ms == LOOKS_MS[-1] and not found:
            break
        poll().poll(wait_ms)
        found += sweep(proc_fd)
    if found:
        sys.stderr.write(f"edgewarden resume: {found} stopped programs were let go\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
