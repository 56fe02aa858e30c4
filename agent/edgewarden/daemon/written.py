"""How much link has written to disks within the last day, and for whom: counted, never guessed.

A process that writes its first megabyte in its first second does not write 80 GiB a day. So what
status says is what was written, and over how long: since the start, or, once that is longer ago
than a day, within the last day as far back as the last hourly mark. A start counts anew: nothing
of it is on the disk, which would cost what it counts.

Two counts stand beside each other, over the same span. The kernel's is all that link gave to a
disk: records in the log and again in their table, pages around them, cursors, the status file.
The record's own (record/wear.py) says whose facts the stored bytes are. The difference is what
storing them costs, and it is not known where the kernel counts less than the records are long: a
state folder on a tmpfs.

Over the budget is a finding, once a day while it lasts, and stops nothing.

    written = Written(began_ns, collectors=storage.wear, budget_bytes=10**9)
    written.look(now_ns)            # every now and then; leaves a mark each hour; maybe an event
    written.day(now_ns)             # Day(total, by, span_s)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgewarden.judge.doctor import most_first
from edgewarden.plain import dataclass
from edgewarden.wire.facts import OCSF, Event, Plain, Severity

DAY_NS = 86_400 * 10**9
MARK_NS = 3_600 * 10**9
_IO = Path("/proc/self/io")
CHECK_NS = 600 * 10**9
"""Between two looks at the budget: a day does not run over within minutes."""
TOLD_NAMES = 3
"""Collectors that the finding names."""
CODE = "EW-SPL-012"


@dataclass(frozen=True, slots=True)
class Day:
    """What was written within the last day.

    Attributes:
        total: bytes that link gave to disks, as the kernel counts.
        by: collector -> bytes of its records; those that wrote none are left out.
        span_s: seconds that both were counted over, a day at most.
    """

    total: int
    by: Mapping[str, int]
    span_s: float

    @property
    def overhead(self) -> int | None:
        """Bytes that were no record's own; None where the kernel did not count the records."""
        records = sum(self.by.values())
        return self.total - records if self.total > records else None


class Written:
    """One thread.

    Args:
        began_ns: CLOCK_BOOTTIME when the process began.
        ever: bytes it has caused to be written since then.
        collectors: of them by collector, since then.
        budget_bytes: of a day; 0 for none.
    """

    def __init__(
        self,
        began_ns: int,
        ever: Callable[[], int] | None = None,
        collectors: Callable[[], Mapping[str, int]] = dict,
        budget_bytes: int = 0,
    ) -> None:
        self.began_ns = began_ns
        self.budget_bytes = budget_bytes
        self._ever = ever or _write_bytes
        self._collectors = collectors
        self._marks: list[tuple[int, int, Mapping[str, int]]] = [(began_ns, 0, {})]
        self._checked_ns = began_ns
        self._told_ns: int | None = None

    def look(self, now_ns: int) -> Event | None:
        """Leave a mark when one is due; the finding, where the budget was passed just now."""
        self._mark(now_ns)
        if not self.budget_bytes or now_ns - self._checked_ns < CHECK_NS:
            return None
        self._checked_ns = now_ns
        day = self.day(now_ns)
        if day.total <= self.budget_bytes:
            self._told_ns = None
            return None
        if self._told_ns is not None and now_ns - self._told_ns < DAY_NS:
            return None
        self._told_ns = now_ns
        return over_budget(day, self.budget_bytes, now_ns)

    def day(self, now_ns: int) -> Day:
        """What was written, and over how long: a day at most, where somebody looked."""
        self._mark(now_ns)
        at_ns, before, had = self._marks[0]
        by = {name: n - had.get(name, 0) for name, n in self._collectors().items()}
        by = {name: n for name, n in by.items() if n}
        return Day(max(0, self._ever() - before), by, round((now_ns - at_ns) / 1e9, 1))

    def _mark(self, now_ns: int) -> None:
        if now_ns - self._marks[-1][0] >= MARK_NS:
            self._marks.append((now_ns, self._ever(), self._collectors()))
        while len(self._marks) > 1 and now_ns - self._marks[0][0] > DAY_NS:
            del self._marks[0]


def over_budget(day: Day, budget_bytes: int, now_ns: int) -> Event:
    """The finding: how much, of how much, and who wrote most of it."""
    by: dict[str, Plain] = dict(most_first(day.by)[:TOLD_NAMES])
    detail: dict[str, Plain] = {
        "title": "more is written to the flash than [spool] day_budget_bytes",
        "written_bytes": day.total,
        "budget_bytes": budget_bytes,
        "span_s": day.span_s,
        "most": by,
        "overhead_bytes": day.overhead,
    }
    return Event(OCSF.DETECTION_FINDING, 1, Severity.MEDIUM, now_ns, detail, CODE)


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
