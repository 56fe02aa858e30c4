"""A process whose command line and environment are memory that nobody fills in.

Its argument and environment pages are answered for by a userfaultfd of its own, and it does not
answer. Prints "silent" when it is so. Needs no privilege but a userfaultfd that serves the kernel's
own faults.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import sys
from pathlib import Path

USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00  # <linux/userfaultfd.h>
UFFD_API, MODE_MISSING = 0xAA, 1
PR_SET_MM, PR_SET_MM_MAP = 35, 14  # <linux/prctl.h>
MM_MAP = struct.Struct("12QIi")
"""struct prctl_mm_map: code, data, brk, stack, arguments, environment (start and end of each),
auxv, its size, descriptor of the program."""


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("QQQQ", address, mmap.PAGESIZE, MODE_MISSING, 0))
    stat = Path("/proc/self/stat").read_text()
    fields = [0, 0, *stat.rpartition(")")[2].split()]
    code = int(fields[25]), int(fields[26])
    stack, data, brk = int(fields[27]), (int(fields[44]), int(fields[45])), int(fields[46])
    libc.sbrk.restype = ctypes.c_void_p
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    here, end = address, address + 64
    described = MM_MAP.pack(
        *code, *data, brk, libc.sbrk(0) or brk, stack, here, end, here, end, 0, 0, -1
    )
    if libc.prctl(PR_SET_MM, PR_SET_MM_MAP, described, ctypes.c_ulong(len(described)), 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MM_MAP")
    print("silent", flush=True)
    sys.stdin.read()
    os._exit(0)  # no tidying up that touches the page


if __name__ == "__main__":
    main()
