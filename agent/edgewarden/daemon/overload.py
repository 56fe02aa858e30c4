"""The overload ladder of this gateway: pressure measured, facts let through or not, steps told.

Decides nothing: judge/overload.py has the modes, judge/shedding.py what each does to a fact. Here
is what they are measured by, each regular look, without a wake-up of its own:

    stalled_s      since when the storage thread is at one round of work
    refused_s      since when its disk refuses
    queue          how full its queue in memory is
    spool_CLASS    how much of its quota a class has used
    loop_s         how late this look comes
    memory_stall   /proc/pressure/memory; not measured where the kernel has none

A fact that is passed on goes where it went before; what was shed is counted in the next batch
(``shed_NAME``), in each step's event and in status.

    overload = Overload(settings, cap, storage, clock, step_s)
    overload.reading(r)
    overload.look()          # each STEP_S
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgewarden.judge.overload import LIMITS, SHEDS, Ladder, Mode, Step, told
from edgewarden.judge.shedding import Shedder
from edgewarden.judge.triage import classify
from edgewarden.ports import ClassState, Clock
from edgewarden.record.quota import Cap, Quotas
from edgewarden.sense.proc_stat import stalled, text_of
from edgewarden.settings.schema import Settings
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.record import RecordClass

TELL_AGAIN_S = 600
"""Between two facts about a mode that lasts: its counts so far."""
_PRESSURE = "/proc/pressure/memory"
_NS = 1_000_000_000


class Storage(Protocol):
    """What of record.storage.StorageThread is measured and fed; nothing here blocks."""

    def submit_reading(self, reading: Reading) -> None:
        """For the next batch."""

    def submit_readings(self, readings: Sequence[Reading]) -> None:
        """The same for several."""

    def submit_event(self, event: Event, record_class: RecordClass) -> None:
        """Alarm and audit at once."""

    def count(self, name: str, amount: int = 1) -> None:
        """For the next batch."""

    def state(self) -> dict[int, ClassState]:
        """Counters per class."""

    def fault(self) -> Exception | None:
        """What the disk refused last."""

    def busy_since_ns(self) -> int | None:
        """Since when one round of work takes."""

    def fill(self) -> float:
        """How full its queue is."""


class Overload:
    """Every method on the loop's thread; nothing blocks.

    Args:
        cap: of the spool (daemon/storage.py).
        step_s: between two looks, as asked for.
        pressure: where the kernel tells of memory.
    """

    def __init__(
        self,
        settings: Settings,
        cap: Cap,
        storage: Storage,
        clock: Clock,
        step_s: float,
        pressure: str | Path = _PRESSURE,
    ) -> None:
        kept = settings.spool
        quotas = Quotas(kept.alarm_percent, kept.audit_percent, kept.free_percent)
        self._quotas = {  # what is in memory alone has none
            int(c): (f"spool_{c.label}", quotas.quota_bytes(cap.size_bytes, c)) for c in RecordClass
        }
        self._storage = storage
        self._clock = clock
        self._step_ns = round(step_s * _NS)
        self._pressure = str(pressure)
        self._ladder = Ladder(settings.overload.calm_s)
        self._shedder = Shedder()
        self._before = self._counted = self._shedder.counts()
        self._looked_ns: int | None = None
        self._refused_ns: int | None = None
        self._told_ns = 0

    def reading(self, reading: Reading) -> None:
        """Take one reading of a sensor; in normal it costs nothing to speak of."""
        if not self._shedder.mode:
            self._storage.submit_reading(reading)
            return
        for one in self._shedder.reading(reading):
            self._storage.submit_reading(one)

    def readings(self, readings: Sequence[Reading]) -> None:
        """Take those of one read."""
        if not self._shedder.mode:
            self._storage.submit_readings(readings)
            return
        for reading in readings:
            self.reading(reading)

    def event(self, event: Event, record_class: RecordClass) -> None:
        """Take one event."""
        if self._shedder.event(event, record_class):
            self._storage.submit_event(event, record_class)

    def look(self) -> None:
        """Measure, move by a step where it is due, pass on what a window gave."""
        now_ns = self._clock.mono_ns()
        step = self._ladder.look(now_ns, self.measured(now_ns))
        if step is not None:
            self._move(step, now_ns)
        self._pass_on(self._shedder.due(now_ns))
        mode = self._ladder.mode
        if mode is not Mode.NORMAL and now_ns - self._told_ns >= TELL_AGAIN_S * _NS:
            assert self._ladder.began_ns is not None  # the mode is not normal
            still = Step(mode, mode, self._ladder.reason, "", self._ladder.began_ns)
            self._tell(still, now_ns)

    def finish(self) -> None:
        """Before the storage ends: what waits in a window, and the counts of a mode that lasts."""
        now_ns = self._clock.mono_ns()
        self._pass_on(self._shedder.close(now_ns))
        began_ns, mode = self._ladder.began_ns, self._ladder.mode
        if began_ns is not None:
            self._tell(Step(mode, mode, "link ends", "", began_ns), now_ns)

    def measured(self, now_ns: int) -> dict[str, float]:
        """What presses now, by the names of judge/overload.LIMITS."""
        storage, looked_ns = self._storage, self._looked_ns
        self._looked_ns = now_ns
        if storage.fault() is None:
            self._refused_ns = None
        elif self._refused_ns is None:
            self._refused_ns = now_ns
        busy_ns = storage.busy_since_ns()
        found = {
            "stalled_s": 0.0 if busy_ns is None else (now_ns - busy_ns) / _NS,
            "refused_s": 0.0 if self._refused_ns is None else (now_ns - self._refused_ns) / _NS,
            "queue": storage.fill(),
            "loop_s": 0.0
            if looked_ns is None
            else max(0.0, (now_ns - looked_ns - self._step_ns) / _NS),
        }
        for c, state in storage.state().items():
            if c in self._quotas:
                name, quota_bytes = self._quotas[c]
                found[name] = state.bytes / quota_bytes
        # A kernel without it, or with psi=0: the other measures stand.
        with contextlib.suppress(OSError, ValueError):
            found["memory_stall"] = stalled(text_of(self._pressure))
        return found

    def state(self) -> dict[str, object]:
        """What status says."""
        ladder = self._ladder
        since_ns = ladder.began_ns
        now_ns = self._clock.mono_ns()
        return {
            "mode": ladder.mode.label,
            "level": int(ladder.mode),
            "since_s": None if since_ns is None else round((now_ns - since_ns) / _NS, 1),
            "why": ladder.reason,
            "next": LIMITS[ladder.measure].next_step if ladder.measure else "",
            "sheds": SHEDS[ladder.mode],
            "steps": ladder.steps,
            "shed": self._shedder.counts(),
        }

    def _move(self, step: Step, now_ns: int) -> None:
        self._pass_on(self._shedder.close(now_ns))
        if step.previous is Mode.NORMAL:
            self._before = self._shedder.counts()
        self._shedder.mode = step.mode
        self._tell(step, now_ns)

    def _tell(self, step: Step, now_ns: int) -> None:
        self._told_ns = now_ns
        shed = _more(self._shedder.counts(), self._before)
        event = told(step, shed, now_ns)
        self._storage.submit_event(event, classify(event))

    def _pass_on(self, readings: list[Reading]) -> None:
        for reading in readings:
            self._storage.submit_reading(reading)
        counts = self._shedder.counts()
        if counts == self._counted:
            return
        for name, amount in _more(counts, self._counted).items():
            if amount and name.endswith("_shed"):
                self._storage.count(f"shed_{name.removesuffix('_shed')}", amount)
        self._counted = counts


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: amount - before[name] for name, amount in now.items()}
