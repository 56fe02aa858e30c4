"""Run a program on a kernel that lacks part of fanotify, by a seccomp filter: ``masked.py WHAT
COMMAND...``

    no-permission   fanotify_mark with a permission bit: EINVAL (stock Raspberry Pi OS)
    no-content      fanotify_init with a content class: EINVAL
    no-fanotify     fanotify_init: ENOSYS
    no-pidfd-info   ioctl PIDFD_GET_INFO: ENOTTY (before 6.13)
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
INIT, MARK = {"x86_64": (300, 301), "aarch64": (262, 263)}[platform.machine()]
NR, ARGUMENTS = 0, 16  # offsets in struct seccomp_data
IOCTL = {"x86_64": 16, "aarch64": 29}[platform.machine()]
PIDFD_GET_INFO = 0xC040FF0B
FAN_CLASS_CONTENT, FAN_OPEN_EXEC_PERM = 0x4, 0x40000

Step = tuple[int, int, int, int]


def refuse(number: int, argument: int, bit: int, error: int) -> list[Step]:
    """Answer ``error`` to syscall ``number`` when ``bit`` of an argument is set (0: always)."""
    test: list[Step] = []
    if bit:
        test = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), (ANY_BIT, 0, 1, bit)]
    return [
        (LOAD, 0, 0, NR),
        (EQUAL, 0, len(test) + 1, number),
        *test,
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]


FILTERS = {
    "no-permission": refuse(MARK, 2, FAN_OPEN_EXEC_PERM, errno.EINVAL),
    "no-content": refuse(INIT, 0, FAN_CLASS_CONTENT, errno.EINVAL),
    "no-fanotify": refuse(INIT, 0, 0, errno.ENOSYS),
    "no-pidfd-info": [
        (LOAD, 0, 0, NR),
        (EQUAL, 0, 3, IOCTL),
        (LOAD, 0, 0, ARGUMENTS + 8),
        (EQUAL, 0, 1, PIDFD_GET_INFO),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.ENOTTY),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ],
}


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install(steps: list[Step]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    install(FILTERS[sys.argv[1]])
    os.execv(sys.argv[2], sys.argv[2:])
