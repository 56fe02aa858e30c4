"""Processor time, memory and disk as /proc and statvfs give them.

Texts to figures, and no state but the last look at processor time. Leaves to host.py when to look.
Source: proc(5), stat and meminfo. Read here and not by a
library: three files, and 750 kB of link's memory.

    Processors().used("cpu  100 0 50 850 0 0 0 0 0 0")     # 0.0: nothing to compare with yet
    memory("MemTotal: 8 kB\\nMemAvailable: 2 kB\\n")        # (2048, 0.75)
"""

from __future__ import annotations

import os

_USER, _NICE, _IDLE, _IOWAIT, _GUEST, _GUEST_NICE = 0, 1, 3, 4, 8, 9
"""Fields of the first line of /proc/stat; guests' time is in user and nice, too."""
_KIB = 1024


TEXT_BYTES = 4096
"""What is wanted of a file of /proc stands in its first lines; one of sysfs is a word or two."""


def text_of(path: str) -> str:
    """The beginning of a file of the kernel's; raises OSError, ValueError.

    No Path and no layers of a file object: link asks for some each step, and they were most of it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, TEXT_BYTES).decode()
    finally:
        os.close(fd)


class Processors:
    """Share of the processors' time that was used between two looks."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def used(self, stat: str) -> float:
        """0 to 1 since the look before; 0 at the first one.

        Args:
            stat: /proc/stat.

        Raises:
            ValueError: it begins otherwise.
        """
        name, *words = (stat or "-").partition("\n")[0].split()
        if name != "cpu" or len(words) <= _IOWAIT:
            raise ValueError("the kernel does not tell the processors' time")
        ticks = [int(word) for word in words]
        whole = sum(ticks) - sum(ticks[_GUEST : _GUEST_NICE + 1])
        now = whole, whole - ticks[_IDLE] - ticks[_IOWAIT]
        before, self._last = self._last or now, now
        passed, busy = now[0] - before[0], now[1] - before[1]
        return min(1.0, max(0.0, busy / passed)) if passed > 0 else 0.0


def memory(meminfo: str) -> tuple[int, float]:
    """Bytes available, and the share of all that is not.

    Args:
        meminfo: /proc/meminfo.

    Raises:
        ValueError: the kernel does not tell one of them.
    """
    found = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(rest.split()[0]) * _KIB
    if len(found) != 2 or not found["MemTotal"]:
        raise ValueError("the kernel does not tell the memory that is available")
    return found["MemAvailable"], 1 - found["MemAvailable"] / found["MemTotal"]


def stalled(pressure: str) -> float:
    """Percent of the last ten seconds in which some program waited for what the file is about.

    Args:
        pressure: /proc/pressure/memory (Documentation/accounting/psi.rst).

    Raises:
        ValueError: it has no such line.
    """
    for line in pressure.splitlines():
        kind, _, figures = line.partition(" ")
        if kind == "some" and figures.startswith("avg10="):
            return float(figures.partition("=")[2].partition(" ")[0])
    raise ValueError("the kernel does not tell how long programs waited")


def disk(path: str) -> tuple[int, float]:
    """Bytes free for whoever is not root, and the share used of what such may use, as df(1) says
    it; raises OSError."""
    seen = os.statvfs(path)
    used, free = seen.f_blocks - seen.f_bfree, seen.f_bavail
    return free * seen.f_frsize, used / (used + free) if used + free else 0.0
