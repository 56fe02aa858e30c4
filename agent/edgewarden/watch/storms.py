"""Fork and exec storms: one record when it begins, one with exact totals when it is over.

The totals are the kernel's own events (proc connector), added up by gate before anything was
dropped. Where the kernel itself dropped events (39,000 forks a second made it), they are what was
seen; the kernel's counter of forks and threads, read at both ends of a storm, has them all.
What a storm was made of is told by a sample, its size never by one.

Rules, in order:

1. A storm begins when more than ``per_s`` processes were forked or programs started within the last
   second: EW-PROC-010, MEDIUM.
2. It is over when that stayed below half of it for QUIET_S: the same code, closed, with forks,
   execs and exits of the whole storm, the kernel's own count of forks and threads, and its length.
3. Outside of storms, the totals of each PERIOD_S with anything in it are one bulk event.

    storms.take(now_ns, forks, execs, exits); storms.due(now_ns)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgewarden.plain import dataclass
from edgewarden.watch.findings import finding
from edgewarden.wire.facts import OCSF, Event, Plain, Severity

QUIET_S = 5.0
PERIOD_S = 60.0
WINDOW_NS = 10**9
OTHER = 99
"""OCSF process_activity."""


@dataclass(slots=True)
class _Totals:
    """Counts of one span of time."""

    began_ns: int
    forks: int = 0
    execs: int = 0
    exits: int = 0

    def add(self, forks: int, execs: int, exits: int) -> None:
        self.forks += forks
        self.execs += execs
        self.exits += exits

    def as_map(self, now_ns: int) -> dict[str, Plain]:
        return {
            "forks": self.forks,
            "execs": self.execs,
            "exits": self.exits,
            "period_s": round((now_ns - self.began_ns) / 1e9, 1),
        }


class Storms:
    """Totals of process events; time comes in with them.

    Args:
        per_s: starts a second that make a storm.
        forks_ever: the kernel's counter of forks and threads, asked at both ends of a storm.
    """

    def __init__(self, per_s: int, forks_ever: Callable[[], int] = lambda: 0) -> None:
        self._per_s = per_s
        self._forks_ever = forks_ever
        self._forks_before = 0
        self._recent: list[tuple[int, int]] = []
        self._period: _Totals | None = None
        self._storm: _Totals | None = None
        self._loud_ns = 0

    def take(self, now_ns: int, forks: int, execs: int, exits: int) -> Iterator[Event]:
        """Add what happened since the last time."""
        self._recent = [(at, n) for at, n in self._recent if at > now_ns - WINDOW_NS]
        self._recent.append((now_ns, max(forks, execs)))
        rate = sum(n for _, n in self._recent)
        if self._storm is None and rate > self._per_s:
            yield from self._close_period(now_ns)
            self._storm = _Totals(now_ns)
            self._forks_before = self._forks_ever()
            title = "programs start at the rate of a storm"
            evidence: dict[str, Plain] = {"last_second": rate}
            yield finding(now_ns, "EW-PROC-010", title, Severity.MEDIUM, None, evidence)
        if self._storm is not None:
            self._storm.add(forks, execs, exits)
            if rate > self._per_s // 2:
                self._loud_ns = now_ns
            return
        if self._period is None:
            self._period = _Totals(now_ns)
        self._period.add(forks, execs, exits)

    def due(self, now_ns: int, *, all_now: bool = False) -> Iterator[Event]:
        """What is over by now; call it once a second or so."""
        storm, period = self._storm, self._period
        if storm is not None and (all_now or now_ns - self._loud_ns >= QUIET_S * 1e9):
            self._storm = None
            title = "the storm of starting programs is over"
            evidence = storm.as_map(now_ns)
            evidence["by_kernel"] = self._forks_ever() - self._forks_before
            yield finding(
                now_ns, "EW-PROC-010", title, Severity.INFORMATIONAL, None, evidence, over=True
            )
        if period is not None and (all_now or now_ns - period.began_ns >= PERIOD_S * 1e9):
            yield from self._close_period(now_ns)

    def _close_period(self, now_ns: int) -> Iterator[Event]:
        period, self._period = self._period, None
        if period is not None:
            detail: dict[str, Plain] = {"totals": period.as_map(now_ns)}
            yield Event(OCSF.PROCESS_ACTIVITY, OTHER, Severity.INFORMATIONAL, now_ns, detail)
