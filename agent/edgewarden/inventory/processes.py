"""Processes that came and went, by comparing two looks at /proc.

Decides which process is new, which is gone, and which has become another one. Leaves to others the
kernel's own process events (gate hands them over through ``hint``), what a start means for the
allowlist, and every rule about processes (watch/, told through ``watch``).

A full look at 500 processes costs 2.2 ms of CPU, and twelve with psutil (research §2.7). So a
sweep lists /proc, where a process can have begun or ended since (births.py), and looks only at what
is new, plus a rotating share of the old ones: a number can be used again, and a process can become
another program by exec, another user, or somebody's puppet (ptrace).

Rules, in order:

1. A process is its number and its start time: same number, other start time = one ended, another
   began.
2. The first sweep is the baseline: it is counted in one event, not told as launches.
3. Launches and ends of one sweep share events of at most ``PER_EVENT`` processes; beyond
   ``PER_SWEEP`` the last event says how many more there were, exactly.
4. ``hint(pid)`` looks at once, so that a program that ends before the next sweep is seen. Its
   launch is told by that sweep. More than ``HINTS_PER_SWEEP`` hints only mark the table for a full
   look, as ``resync()`` does after lost events.
5. Text from a process (name, command line, paths) is bounded, and is data: it is never split, run
   or formatted. What lies in a process's own memory is asked for with patience (patient.py): who
   does not answer is told without it.

    sweep = ProcessSweep(ProcessSettings(sweep_s=2.0), sink, clock, watcher.see)
    sweep.look()                      # the baseline
    sweep.hint(4711)                  # gate saw an exec
    sweep.look()                      # one PROCESS_ACTIVITY event: launch
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from edgewarden.inventory.births import Births
from edgewarden.inventory.patient import PATIENCE_S, Patient
from edgewarden.inventory.procfiles import (
    CGROUP_BYTES,
    DELETED,
    MAX_COMMAND_BYTES,
    STAT_BYTES,
    STATUS_BYTES,
    link,
    loose_folder,
    parse_capabilities,
    parse_stat,
    parse_status,
    parse_unit,
    read,
    text,
    user_of,
)
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, FactSink, Sleep
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.look import Looked
from edgewarden.wire.processes import UNKNOWN, Delta, Process

LAUNCH, TERMINATE, OTHER = 1, 2, 99
"""OCSF process_activity."""

MAX_KNOWN = 16_384
"""About 300 bytes each: 5 MB at worst. Debian's default limit for one user is half of this."""
RECHECK_PER_SWEEP = 16
RECHECK_WITHIN_S = 60.0
"""Every process is looked at again within a minute, 16 at least in a sweep: 15 us each. Where the
kernel tells of execs, root starts and tracers, this finds nothing, and the minute is enough."""
HINTS_PER_SWEEP = 256
HINTS_WAIT_S = 0.5
"""Then hints wait for no more answers before the next sweep: who answers slowly, and is started
over and over, would hold the loop."""
MOST_OF_ONE = MAX_KNOWN // 2
"""Of the table, for one ordinary user."""
PER_EVENT, PER_SWEEP = 32, 256


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Attributes:
    sweep_s: seconds between two sweeps.
    proc: where procfs hangs.
    patience_s: how long a process may take to show its command line.
    """

    sweep_s: float = 2.0
    proc: str = "/proc"
    patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What status shows.

    Attributes:
        known: processes in the table.
        sweeps, launches, ends: since start.
        unwatched: processes beyond the table's bound, at the last sweep.
        hidden_programs: processes whose program only root may know, at their first look.
        unanswering: processes that do not show their command line.
        limited: why not every process can be seen, "" when it can.
    """

    known: int
    sweeps: int
    launches: int
    ends: int
    unwatched: int
    hidden_programs: int
    unanswering: int
    limited: str


class ProcessSweep:
    """The table of processes. Every method on the loop's thread.

    Args:
        settings: how often, and where procfs hangs.
        sink: takes the facts.
        clock: stamps them.
        watch: told of every look, after its facts.
        seen_by_root: asked before each look for what somebody with more rights has seen since.
        told: whether the kernel's own events come in (``hint``).
    """

    def __init__(
        self,
        settings: ProcessSettings,
        sink: FactSink,
        clock: Clock,
        watch: Callable[[Delta], None] = lambda _: None,
        seen_by_root: Callable[[], Iterable[Looked]] = tuple,
        sleep: Sleep = asyncio.sleep,
        told: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sleep = sleep
        self._told = told
        self._births = Births(settings.proc, settings.sweep_s)
        self._settings = settings
        self._sink = sink
        self._clock = clock
        self._watch = watch
        self._seen_by_root = seen_by_root
        self._known: dict[int, Process] = {}
        self._users: dict[int, str] = {}
        self._held: Counter[str] = Counter()
        self._round: list[int] = []
        self._began: dict[tuple[int, int], Process] = {}
        self._changed: list[tuple[Process, Process]] = []
        self._ended: list[Process] = []
        self._asked: list[Process] = []
        self._slow = Patient(self._in_memory, settings.patience_s)
        self._silent_before: set[str] = set()
        self._hints, self._unwatched, self._full = 0, 0, False
        self._counts = {"sweeps": 0, "launches": 0, "ends": 0}
        self._limited = ""

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self.look()
            await self._sleep(self._settings.sweep_s)

    def close(self) -> None:
        """End the thread that asks for command lines."""
        self._slow.close()
        self._births.close()

    def snapshot(self) -> ProcessState:
        """Counts for status."""
        return ProcessState(
            known=len(self._known),
            unwatched=self._unwatched,
            hidden_programs=sum(not p.exe and bool(p.command) for p in self._known.values()),
            unanswering=len(self._slow.stuck),
            limited=self._limited,
            **self._counts,
        )

    def hint(self, pid: int) -> None:
        """Something happened to ``pid`` (fork, exec): look at it now."""
        self._hints += 1
        if self._hints > HINTS_PER_SWEEP:
            self._full = True
            return
        self._look_again(pid, closely=True)
        if self._slow.waited_s < HINTS_WAIT_S:
            self._ask()

    def resync(self) -> None:
        """Events were lost: the next sweep looks at every process."""
        self._full = True

    def learn(self, more: Iterable[Looked]) -> None:
        """Take over what somebody with more rights has seen of the same processes."""
        for seen in more:
            known = self._known.get(seen.pid)
            if known is not None and known.start_ticks == seen.start_ticks:
                now = replace(
                    known, exe=seen.exe, loose_folder=seen.loose_folder, preload=seen.preload,
                    descriptors=seen.descriptors, sockets=seen.sockets,
                )  # fmt: skip
                self._change(known, now)

    def look(self) -> None:
        """One sweep: compare, tell."""
        baseline = self._counts["sweeps"] == 0
        self._counts["sweeps"] += 1
        due = list(self._due_again())
        if (present := self._births.present(whatever=self._full)) is not None:
            self._limited = "" if 1 in present else "procfs hides other users' processes (hidepid)"
            self._unwatched = 0
            for pid in self._known.keys() - present:
                self._end(pid)
            for pid in present - self._known.keys():
                self._begin(pid)
        for pid in due:
            self._look_again(pid)
        self._ask()
        if self._silent_before or self._slow.stuck:
            self._see_silence()
        self._hints, self._full, self._slow.waited_s = 0, False, 0.0
        self.learn(self._seen_by_root())
        self._tell(baseline)

    def _due_again(self) -> Iterable[int]:
        if self._full:
            return list(self._known)
        self._round = self._round or list(reversed(self._known))  # who began since waits for this
        share = math.ceil(len(self._known) * self._settings.sweep_s / RECHECK_WITHIN_S)
        share = share if self._told() else max(RECHECK_PER_SWEEP, share)
        due, self._round = self._round[:share], self._round[share:]
        return due

    def _look_again(self, pid: int, *, closely: bool = False) -> None:
        """See whether a known number is still the same process running the same program."""
        known = self._known.get(pid)
        if known is None:
            self._begin(pid)
            return
        folder = f"{self._settings.proc}/{pid}"
        seen = parse_stat(read(folder, "stat", STAT_BYTES))
        if seen is None:
            self._end(pid)
        elif seen[2] != known.start_ticks:
            self._end(pid)
            self._begin(pid)
        elif closely or seen[0] != known.comm or link(folder, "exe") not in ("", known.exe):
            self._compare(known, self._seen(pid, *seen))
        else:
            tracer, uid, euid = parse_status(read(folder, "status", STATUS_BYTES))
            now = (seen[1], tracer, uid, euid)
            if now != (known.ppid, known.tracer_pid, known.uid, known.euid):
                after = replace(known, ppid=seen[1], tracer_pid=tracer, uid=uid, euid=euid)
                self._change(known, after)

    def _compare(self, known: Process, now: Process) -> None:
        """The same process with another name, or after an exec: is it another program?"""
        name = str(now.pid)
        answer = self._slow.ask([name]).get(name)
        command = known.command if answer is None else text(answer[0])
        # A new name (prctl) or a replaced file is no launch; the program may be known from learn().
        if command == known.command and now.exe in ("", known.exe, known.exe + DELETED):
            tracer, uid, euid = now.tracer_pid, now.uid, now.euid
            same = replace(known, comm=now.comm, ppid=now.ppid, exe=now.exe or known.exe)
            self._change(known, replace(same, tracer_pid=tracer, uid=uid, euid=euid))
            return
        self._known[now.pid] = now
        self._changed.append((known, now))
        self._launch(now)

    def _begin(self, pid: int) -> None:
        if len(self._known) >= MAX_KNOWN and pid not in self._known:
            self._unwatched += 1
            return
        seen = parse_stat(read(f"{self._settings.proc}/{pid}", "stat", STAT_BYTES))
        if seen is None:
            return
        process = self._seen(pid, *seen)
        user = user_of(process.uid, "")
        if user and self._held[user] >= MOST_OF_ONE:
            self._unwatched += 1
            return
        self._known[pid] = process
        self._users[pid] = user
        self._held[user] += 1
        self._launch(process)

    def _launch(self, process: Process) -> None:
        self._counts["launches"] += 1
        self._began[process.key] = process
        self._asked.append(process)

    def _change(self, before: Process, after: Process) -> None:
        if after != before and UNKNOWN not in (after.uid, after.euid):
            self._known[after.pid] = after
            if before.key in self._began:
                self._began[before.key] = after
            else:
                self._changed.append((before, after))

    def _end(self, pid: int) -> None:
        process = self._known.pop(pid)
        user = self._users.pop(pid)
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]
        self._counts["ends"] += 1
        self._ended.append(process)

    def _seen(self, pid: int, comm: str, ppid: int, start_ticks: int) -> Process:
        """What the kernel says of a process; nothing that may have to wait."""
        folder = f"{self._settings.proc}/{pid}"
        status = read(folder, "status", STATUS_BYTES)
        tracer, uid, euid = parse_status(status)
        descriptors = UNKNOWN
        with contextlib.suppress(OSError):
            descriptors = os.stat(f"{folder}/fd").st_size or UNKNOWN  # 0 before 6.2
        return Process(
            pid=pid,
            start_ticks=start_ticks,
            comm=comm,
            ppid=ppid,
            uid=uid,
            euid=euid,
            tracer_pid=tracer,
            capabilities=parse_capabilities(status),
            exe=link(folder, "exe"),
            unit=parse_unit(read(folder, "cgroup", CGROUP_BYTES)),
            descriptors=descriptors,
        )

    def _in_memory(self, name: str) -> tuple[bytes, str]:
        """In the patient thread: the command line, and where the program lies."""
        folder = f"{self._settings.proc}/{name}"
        command = read(folder, "cmdline", MAX_COMMAND_BYTES)
        path = link(folder, "exe") or text(command.partition(b"\0")[0])
        return command, loose_folder(path) if path.startswith("/") else ""

    def _ask(self) -> None:
        """Complete what is new by what may have to be waited for."""
        asked, self._asked = self._asked, []
        if not asked:
            return
        users = {str(process.pid): process.uid for process in asked}
        answers = self._slow.ask(list(users), lambda name: user_of(users[name], name))
        for process in asked:
            command, folder = answers.get(str(process.pid), (b"", ""))
            full = replace(process, command=text(command), loose_folder=folder)
            self._began[process.key] = full
            if process.pid in self._known and self._known[process.pid].key == process.key:
                self._known[process.pid] = full

    def _see_silence(self) -> None:
        """Who has not answered since the last sweep does not; who answered late is asked again. A
        machine that swaps may keep anybody waiting for a moment: that is no finding."""
        stuck = set(self._slow.stuck)
        back = self._slow.ask(sorted(self._silent_before - stuck))
        for name in self._silent_before:
            known = self._known.get(int(name))
            if known is None:
                continue
            if name in stuck:
                self._change(known, replace(known, blocked=True))
            elif (answer := back.get(name)) is not None:
                told = replace(known, command=text(answer[0]), blocked=False)
                self._change(known, replace(told, loose_folder=answer[1]))
        self._silent_before = set(self._slow.stuck)

    def _tell(self, baseline: bool) -> None:
        now_ns = self._clock.mono_ns()
        began, ended = tuple(self._began.values()), tuple(self._ended)
        changed = tuple((was, self._began.get(now.key, now)) for was, now in self._changed)
        self._began, self._changed, self._ended = {}, [], []
        if baseline:
            self._counts["launches"] = 0  # they were there before us
            self._emit(now_ns, OTHER, {"baseline": len(self._known), "limited": self._limited})
        else:
            self._tell_all(now_ns, LAUNCH, began)
        self._tell_all(now_ns, TERMINATE, ended)
        self._watch(Delta(now_ns, baseline, began, changed, ended, self._known))

    def _tell_all(self, now_ns: int, activity: int, processes: Iterable[Process]) -> None:
        every = list(processes)
        told = every[:PER_SWEEP]
        for start in range(0, len(told), PER_EVENT):
            batch: list[Plain] = [p.as_map() for p in told[start : start + PER_EVENT]]
            detail: dict[str, Plain] = {"processes": batch}
            if start + PER_EVENT >= len(told) and len(every) > PER_SWEEP:
                detail["more"] = len(every) - PER_SWEEP
            self._emit(now_ns, activity, detail)

    def _emit(self, now_ns: int, activity: int, detail: dict[str, Plain]) -> None:
        self._sink(Event(OCSF.PROCESS_ACTIVITY, activity, Severity.INFORMATIONAL, now_ns, detail))
