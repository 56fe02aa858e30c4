"""adjtimex(2), read only: does the kernel say that somebody disciplines its clock, and how far off
it may be.

Constants spelt as in <sys/timex.h>. The call changes nothing (``modes`` is 0) and needs no
privilege.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from edgewarden.kernel import ffi as ctypes

STA_UNSYNC = 0x0040
TIME_ERROR = 5


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


class Discipline(NamedTuple):
    """What the kernel says of its wall clock: synchronised or not, and the largest error in ms."""

    synchronised: bool
    max_error_ms: int


_libc = ctypes.CDLL(None, use_errno=True)
_libc.adjtimex.argtypes = (ctypes.c_void_p,)
_libc.adjtimex.restype = ctypes.c_int


def discipline() -> Discipline:
    """Ask the kernel; raises OSError only where a sandbox forbids the call."""
    answer = _Timex(modes=0)
    state = _libc.adjtimex(ctypes.byref(answer))
    if state < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "adjtimex")
    synchronised = state != TIME_ERROR and not answer.status & STA_UNSYNC
    return Discipline(synchronised, answer.maxerror // 1000)
