"""Which degraded mode link is in: the overload ladder, by measured pressure. Pure.

Decides the mode and says why. Leaves to shedding.py what a mode does to a fact, and to daemon/ how
pressure is measured. The modes, each with all that the ones before it do:

    normal       every fact by itself
    coalescing   readings of a channel become one each 10 s, with count, least, mean and greatest
    sampling     of each kind of routine fact (starts, connections) one in 10 s; the others counted
    essential    readings one a minute; routine facts and plugs counted only

Rules, in order:

1. Two looks in a row that ask for a higher mode raise it by one step. Never more than one a look:
   each step is a fact with its own reason.
2. A mode is left, by one step, when nothing has asked for it for ``calm_s``; what asks to stay is
   less than what asks to enter (``Limit.keeps``), so that no value at a limit moves anything.
3. Who rises again within MAX_CALM_S of a fall waits twice as long before the next one, up to
   MAX_CALM_S; that long in normal, and it begins with ``calm_s`` again. So whatever the pressure
   does, steps come ever more rarely, and without pressure normal is back in 3 * MAX_CALM_S.

    ladder = Ladder(calm_s=30)
    ladder.look(now_ns, {"queue": 0.8})   # None: one look is chance
    ladder.look(now_ns, {"queue": 0.8})   # Step(normal, coalescing, "the queue to the ...")
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from edgewarden.plain import dataclass
from edgewarden.wire.facts import OCSF, Event, Plain, Severity

RISE_LOOKS = 2
MAX_CALM_S = 600.0
"""A step each ten minutes is what a person can follow, and 150 small records a day."""
NEVER = float("inf")
CODE = "EW-AGT-012"
STATUS = 99
"""OCSF activity "other": neither a start nor a stop."""
SHEDS = (
    "nothing",
    "readings of a channel are one each 10 s",
    "readings of a channel are one each 10 s; of routine facts one of a kind each 10 s",
    "readings of a channel are one a minute; routine facts and plugs are only counted",
)
"""By mode, for people."""
_NS = 1_000_000_000


class Mode(IntEnum):
    """See the module; more is worse."""

    NORMAL = 0
    COALESCING = 1
    SAMPLING = 2
    ESSENTIAL = 3

    @property
    def label(self) -> str:
        """As it stands in facts, status and commands."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Limit:
    """From where on a measure asks for coalescing, sampling, essential.

    Attributes:
        enters: the least value that asks for each mode.
        keeps: share of it that still asks to stay.
        text: the reason, with the value.
        next_step: what a person does about it.
    """

    enters: tuple[float, float, float]
    keeps: float
    text: str
    next_step: str

    def asks(self, value: float, share: float = 1.0) -> Mode:
        """The highest mode that this value asks for."""
        if value < self.enters[0] * share:  # nearly always, and each look asks eight times twice
            return Mode.NORMAL
        return Mode(sum(value >= limit * share for limit in self.enters))


_DISK = "run `edgewarden doctor disk`"
_HOST = "run `edgewarden doctor host`"
LIMITS: Mapping[str, Limit] = {
    # A commit on a worn card takes up to a second; half a minute is a hang (daemon/link.py).
    "stalled_s": Limit((3, 8, 20), 0.5, "the disk has not answered for {:.0f} s", _DISK),
    # Tried again each second: ten failures are no chance.
    "refused_s": Limit((2, 10, 30), 0.5, "the disk has refused for {:.0f} s", _DISK),
    # Of what waits in memory for the storage, fullest class; the longest batch is a quarter of it.
    "queue": Limit((0.5, 0.7, 0.85), 0.6, "the queue to the storage is {:.0%} full", _DISK),
    # Bulk ends at its quota by eviction: one entry for many readings is better than none. Keeps:
    # an eviction frees an eighth, and must not end what keeps the next one away.
    "spool_bulk": Limit(
        (0.9, NEVER, NEVER), 0.8, "bulk has used {:.0%} of its quota in the spool",
        "run `edgewarden doctor network`",
    ),
    # Beyond their quota these go on in what bulk holds, and are refused when that is gone.
    "spool_audit": Limit(
        (1, 1.5, 2), 0.9, "audit has used {:.0%} of its quota in the spool",
        "run `edgewarden doctor network`",
    ),
    "spool_alarm": Limit(
        (1, 1.5, 2), 0.9, "alarms have used {:.0%} of their quota in the spool",
        "run `edgewarden doctor network`",
    ),
    # link looks each two seconds (daemon/steps.STEP_S).
    "loop_s": Limit((1, 3, 10), 0.5, "link comes {:.1f} s late to its own work", _HOST),
    # Share of ten seconds in which something waited for memory; systemd-oomd kills at 60
    # (oomd.conf(5), DefaultMemoryPressureLimit=).
    "memory_stall": Limit(
        (20, 40, 60), 0.5, "programs waited for memory {:.0f} % of the time", _HOST
    ),
}  # fmt: skip
"""By measure; the kernel's own words for the last: /proc/pressure/memory, some avg10."""


@dataclass(frozen=True, slots=True)
class Step:
    """The ladder moved by one.

    Attributes:
        began_ns: when normal was left.
        measure: a key of LIMITS, "" for a step down.
    """

    previous: Mode
    mode: Mode
    reason: str
    measure: str
    began_ns: int


class Ladder:
    """The mode and its history; time comes in as a value.

    Args:
        calm_s: see rule 2.

    Attributes:
        mode: now.
        reason, measure: of the last step up; "" in normal.
        began_ns: since when it is not normal; None in normal.
        steps: up and down, since the start.
    """

    def __init__(self, calm_s: float) -> None:
        self._first_calm_ns = round(calm_s * _NS)
        self._calm_ns = self._first_calm_ns
        self.mode = Mode.NORMAL
        self.reason = ""
        self.measure = ""
        self.began_ns: int | None = None
        self.steps = 0
        self._asked: list[Mode] = []
        self._kept_ns = 0
        self._fell_ns: int | None = None

    def look(self, now_ns: int, pressure: Mapping[str, float]) -> Step | None:
        """One look; what this machine cannot measure is not in ``pressure``."""
        wanted, measure = Mode.NORMAL, ""
        kept = Mode.NORMAL
        for name, value in pressure.items():
            limit = LIMITS[name]
            if (asks := limit.asks(value)) > wanted:
                wanted, measure = asks, name
            kept = max(kept, limit.asks(value, limit.keeps))
        self._asked = [*self._asked, wanted][-RISE_LOOKS:]
        if kept >= self.mode:
            self._kept_ns = now_ns
        if len(self._asked) == RISE_LOOKS and min(self._asked) > self.mode:
            return self._rise(now_ns, measure, pressure[measure])
        if self.mode is Mode.NORMAL:
            self._forget(now_ns)
        elif now_ns - self._kept_ns >= self._calm_ns:
            return self._fall(now_ns)
        return None

    def _rise(self, now_ns: int, measure: str, value: float) -> Step:
        if self._fell_ns is not None and now_ns - self._fell_ns < MAX_CALM_S * _NS:
            self._calm_ns = min(2 * self._calm_ns, round(MAX_CALM_S * _NS))
        self._fell_ns = None
        if self.began_ns is None:
            self.began_ns = now_ns
        previous, self.mode = self.mode, Mode(self.mode + 1)
        self.measure, self.reason = measure, LIMITS[measure].text.format(value)
        self._kept_ns = now_ns
        self.steps += 1
        return Step(previous, self.mode, self.reason, measure, self.began_ns)

    def _fall(self, now_ns: int) -> Step:
        assert self.began_ns is not None  # the mode is not normal
        previous, self.mode = self.mode, Mode(self.mode - 1)
        reason = (
            f"nothing has asked for {previous.label} for {(now_ns - self._kept_ns) / _NS:.0f} s"
        )
        step = Step(previous, self.mode, reason, "", self.began_ns)
        self._fell_ns = self._kept_ns = now_ns
        self.steps += 1
        if self.mode is Mode.NORMAL:
            self.began_ns, self.reason, self.measure = None, "", ""
        return step

    def _forget(self, now_ns: int) -> None:
        """Rule 3: long enough in normal."""
        if self._fell_ns is not None and now_ns - self._fell_ns >= MAX_CALM_S * _NS:
            self._fell_ns, self._calm_ns = None, self._first_calm_ns


def told(step: Step, shed: Mapping[str, int], now_ns: int) -> Event:
    """The fact that a step is: the reporter's own health, so never shed itself.

    Args:
        shed: what was shed since normal was left, by name; exact.
    """
    rises = step.mode > step.previous
    severity = Severity.MEDIUM if rises else Severity.INFORMATIONAL
    if rises and step.mode is Mode.ESSENTIAL:
        severity = Severity.HIGH
    counts: dict[str, Plain] = {**shed}
    detail: dict[str, Plain] = {
        "what": f"overload, {step.mode.label}",
        "why": step.reason,
        "mode": step.mode.label,
        "previous": step.previous.label,
        "measure": step.measure,
        "since_mono_ns": step.began_ns,
        "sheds": SHEDS[step.mode],
        "shed": counts,
    }
    return Event(OCSF.HEALTH, STATUS, severity, now_ns, detail, CODE)
