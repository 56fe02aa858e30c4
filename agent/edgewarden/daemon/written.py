"""How much link has written to disks within the last day: counted, never extrapolated.

A process that writes its first megabyte in its first second does not write 80 GiB a day. So what
status says is what was written, and over how long: since the start, or, once that is longer ago
than a day, within the last day as far back as the last hourly mark.

    written = Written(began_ns)
    written.look(now_ns)            # every now and then; leaves a mark each hour
    written.day(now_ns)             # (bytes, seconds that they were counted over)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

DAY_NS = 86_400 * 10**9
MARK_NS = 3_600 * 10**9
_IO = Path("/proc/self/io")


class Written:
    """One thread.

    Args:
        began_ns: CLOCK_BOOTTIME when the process began.
        ever: bytes it has caused to be written since then.
    """

    def __init__(self, began_ns: int, ever: Callable[[], int] | None = None) -> None:
        self.began_ns = began_ns
        self._ever = ever or _write_bytes
        self._marks = [(began_ns, 0)]

    def look(self, now_ns: int) -> None:
        """Leave a mark when one is due."""
        if now_ns - self._marks[-1][0] >= MARK_NS:
            self._marks.append((now_ns, self._ever()))
        while len(self._marks) > 1 and now_ns - self._marks[0][0] > DAY_NS:
            del self._marks[0]

    def day(self, now_ns: int) -> tuple[int, float]:
        """Bytes, and over how many seconds: a day at most, where somebody looked."""
        self.look(now_ns)
        at_ns, before = self._marks[0]
        return max(0, self._ever() - before), round((now_ns - at_ns) / 1e9, 1)


def _write_bytes() -> int:
    """proc(5), /proc/PID/io; 0 where the kernel does not say."""
    return number_in(_IO, "write_bytes:", 1)


def number_in(path: Path, name: str, unit: int) -> int:
    """The number behind name in a file of /proc, or 0 where the kernel does not say."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * unit
    except OSError:
        return 0
    return 0
