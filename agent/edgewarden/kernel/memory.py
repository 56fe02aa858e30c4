"""What a long-lived process keeps of the memory that only its start needed.

What this decides: how memory goes back to the kernel without a byte being lost. What it leaves to
others: when (daemon/tidy.py), and who had better not: gate and guard keep every page of a file they
touched, since a page that has to be read again may lie on a filesystem they answer for (of their
heap, kernel/process.py gives back what is free).

1. The C library's free pages are returned (malloc_trim).
2. Pages of mapped files that this process never wrote are unmapped; what is still used comes back
   from the page cache within seconds. Two crypto libraries' initialisation alone touches some
   10 MB, of which a signature each second needs a third (measured).
3. The interpreter's own stores are emptied. It keeps up to 2,000 freed tuples of each length, and
   the name that was asked for last in each of 4,096 places: they fill for as long as a process
   lives (0.25 and 0.1 MB in ten minutes, measured), and only a collection of everything empties
   the first. What the start made is taken out of that collection: 0.2 ms in place of 17.

    one_arena()       # before the first thread
    settle()          # when the start is over: all three
    tidy()            # now and then: 1 and 3
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.libc import libc

# <malloc.h>, <asm-generic/mman-common.h>
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
MADV_DONTNEED = 4

MAPPED_BYTES = 64 * 1024
"""From here on an allocation is a mapping of its own, gone with its end. Where it is not set, the
C library raises the bound to the largest mapping that was freed (1 MB here): a record of 200 kB
then lies in the heap, which grows by it and keeps it."""


def one_arena() -> None:
    """Have all threads allocate from one heap, and nothing large; before the first thread starts.

    Two threads that take turns gain nothing from a second heap and pay a megabyte for it. A C
    library without mallopt goes on as it is.
    """
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def settle() -> int:
    """As ``tidy`` and ``give_back``; what there is now is not looked at for cycles any more."""
    tidy()
    gc.freeze()
    return give_back()


def tidy() -> None:
    """Empty what the interpreter keeps for later, and return free pages: under a millisecond."""
    gc.collect()
    _forget_names()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _forget_names() -> None:
    """The cache of attributes by type holds each name that was asked for, however it was made."""
    forget = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    forget()


def give_back(smaps: Path = Path("/proc/self/smaps")) -> int:
    """Return memory to the kernel; returns the bytes of file pages unmapped, at most.

    Never touches a mapping that is writable or holds a page of ours (``Anonymous``): the linker's
    relocations live in such pages, and for them DONTNEED would mean lost.
    """
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    given = 0
    for start, length in clean_files(smaps.read_text()):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_DONTNEED) == 0:
            given += length
    return given


def clean_files(smaps: str) -> list[tuple[int, int]]:
    """(start, length) of each private, unwritable mapping of a file without a page of ours."""
    found: list[tuple[int, int]] = []
    mapping: tuple[int, int] | None = None
    for line in smaps.splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):  # a mapping's head: range, permissions, ..., inode, path
            start, _, end = fields[0].partition("-")
            is_file = len(fields) > 5 and fields[4] != "0" and fields[1] in ("r-xp", "r--p")
            mapping = (int(start, 16), int(end, 16) - int(start, 16)) if is_file else None
        elif fields[0] == "Anonymous:" and mapping is not None and fields[1] == "0":
            found.append(mapping)
    return found
