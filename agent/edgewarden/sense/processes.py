"""Processes that came and went, by comparing two looks at /proc.

Decides which process is new, which is gone, and two thin rules about where a program runs from.
Leaves to others the kernel's own process events (gate hands them over through ``hint``) and what a
start means for the allowlist (judge/).

A full look at 500 processes costs 2.2 ms of CPU, and twelve with psutil (research §2.7). So a
sweep lists /proc, which is cheap, and looks only at what is new, plus a rotating share of the old
ones: a process number can be used again, and a process can become another program by exec.

Rules, in order:

1. A process is its number and its start time: same number, other start time = one ended, another
   began.
2. The first sweep is the baseline: it is counted in one event, not told as launches, but the rules
   see it.
3. Launches and ends of one sweep share events of at most ``PER_EVENT`` processes; what exceeds
   ``PER_SWEEP`` is counted.
4. ``hint(pid)`` looks at once, so that a program that ends before the next sweep is seen. Its
   launch is told by that sweep. More than ``HINTS_PER_SWEEP`` hints only mark the table for a full
   look, as ``resync()`` does after lost events.
5. Text from a process (name, command line, paths) is bounded, and is data: it is never split, run
   or formatted.

    sweep = ProcessSweep(ProcessSettings(sweep_s=2.0), sink, clock)
    sweep.look()                      # the baseline
    sweep.hint(4711)                  # gate saw an exec
    sweep.look()                      # one PROCESS_ACTIVITY event: launch
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from edgewarden.ports import Clock, FactSink
from edgewarden.wire.facts import OCSF, Event, Plain, Severity

LAUNCH, TERMINATE, OTHER = 1, 2, 99
"""OCSF process_activity."""
CREATE = 1
"""OCSF detection_finding."""

MAX_KNOWN = 16_384
"""About 250 bytes each: 4 MB at the very worst. Debian's default limit for one user is half of
this."""
RECHECK_PER_SWEEP = 48
"""At 500 processes and a sweep every 2 s every process is looked at again within 21 s."""
HINTS_PER_SWEEP = 256
PER_EVENT = 32
PER_SWEEP = 256
FINDINGS_PER_SWEEP = 16
MAX_COMMAND_BYTES = 256
MAX_PATH_BYTES = 512
STAT_BYTES = 1024
"""/proc/N/stat is at most about 350 bytes."""
STATUS_BYTES = 1024
"""Uid is in the ninth line of /proc/N/status, within its first 300 bytes."""

WRITABLE_BY_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108  # what is looked for, not used
INTERPRETERS = ("sh", "bash", "dash", "python", "perl", "ruby", "node", "lua", "php")
DELETED = " (deleted)"
"""What the kernel appends to /proc/N/exe of an unlinked file (fs/d_path.c)."""
MEMORY_FILE = "/memfd:"


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Attributes:
    sweep_s: seconds between two sweeps.
    proc: where procfs hangs.
    """

    sweep_s: float = 2.0
    proc: str = "/proc"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What status shows.

    Attributes:
        known: processes in the table.
        sweeps, launches, ends, findings: since start.
        unwatched: processes beyond the table's bound, at the last sweep.
        limited: why not every process can be seen, "" when it can.
    """

    known: int
    sweeps: int
    launches: int
    ends: int
    findings: int
    unwatched: int
    limited: str


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    start_ticks: int
    comm: str
    ppid: int
    uid: int
    command: str
    exe: str

    def as_map(self) -> dict[str, Plain]:
        """The OCSF process object."""
        out: dict[str, Plain] = {
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "name": self.comm,
            "parent_pid": self.ppid,
            "uid": self.uid,
        }
        if self.command:
            out["cmd_line"] = self.command.replace("\0", " ")
        if self.exe:
            out["path"] = self.exe
        return out


class ProcessSweep:
    """The table of processes. Every method on the loop's thread.

    Args:
        settings: how often, and where procfs hangs.
        sink: takes the facts.
        clock: stamps them.
    """

    def __init__(self, settings: ProcessSettings, sink: FactSink, clock: Clock) -> None:
        self._settings = settings
        self._sink = sink
        self._clock = clock
        self._known: dict[str, _Process] = {}
        self._round: list[str] = []
        self._launched: list[_Process] = []
        self._ended: list[_Process] = []
        self._suspects: list[tuple[str, str, Severity, _Process]] = []
        self._hints = 0
        self._full = False
        self._unwatched = 0
        self._counts = {"sweeps": 0, "launches": 0, "ends": 0, "findings": 0}
        self._limited = ""

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._settings.sweep_s)

    def snapshot(self) -> ProcessState:
        """Counts for status."""
        return ProcessState(
            known=len(self._known), unwatched=self._unwatched, limited=self._limited, **self._counts
        )

    def hint(self, pid: int) -> None:
        """Something happened to ``pid`` (fork, exec): look at it now."""
        self._hints += 1
        if self._hints > HINTS_PER_SWEEP:
            self._full = True
            return
        self._look_again(str(pid))

    def resync(self) -> None:
        """Events were lost: the next sweep looks at every process."""
        self._full = True

    def look(self) -> None:
        """One sweep: compare, tell."""
        baseline = self._counts["sweeps"] == 0
        self._counts["sweeps"] += 1
        with os.scandir(self._settings.proc) as entries:
            present = {entry.name for entry in entries if entry.name.isdecimal()}
        self._limited = "" if "1" in present else "procfs hides other users' processes (hidepid)"
        self._unwatched = 0
        for name in self._known.keys() - present:
            self._end(name)
        for name in present - self._known.keys():
            self._begin(name)
        for name in self._due_again():
            self._look_again(name)
        self._hints, self._full = 0, False
        self._tell(baseline)

    def _due_again(self) -> Iterable[str]:
        if self._full:
            return list(self._known)
        if not self._round:
            self._round = list(self._known)
        due, self._round = self._round[:RECHECK_PER_SWEEP], self._round[RECHECK_PER_SWEEP:]
        return due

    def _look_again(self, name: str) -> None:
        """See whether a known number is still the same process running the same program."""
        known = self._known.get(name)
        if known is None:
            self._begin(name)
            return
        seen = self._stat(name)
        if seen is None:
            self._end(name)
        elif seen[2] != known.start_ticks:
            self._end(name)
            self._begin(name)
        elif seen[0] != known.comm:
            now = self._read(name, *seen)
            self._known[name] = now
            # Programs rename themselves (prctl PR_SET_NAME); only another program is a launch.
            if (now.exe, now.command) != (known.exe, known.command):
                self._launch(now)

    def _begin(self, name: str) -> None:
        if len(self._known) >= MAX_KNOWN and name not in self._known:
            self._unwatched += 1
            return
        seen = self._stat(name)
        if seen is None:
            return
        process = self._read(name, *seen)
        self._known[name] = process
        self._launch(process)

    def _launch(self, process: _Process) -> None:
        self._counts["launches"] += 1
        if len(self._launched) < PER_SWEEP + 1:
            self._launched.append(process)
        suspicion = suspicious(process.exe, process.command)
        if suspicion is not None and len(self._suspects) < FINDINGS_PER_SWEEP:
            self._suspects.append((*suspicion, process))

    def _end(self, name: str) -> None:
        process = self._known.pop(name)
        self._counts["ends"] += 1
        if len(self._ended) < PER_SWEEP + 1:
            self._ended.append(process)

    def _stat(self, name: str) -> tuple[str, int, int] | None:
        """comm, parent and start time, or None when the process is gone."""
        data = self._file(name, "stat", STAT_BYTES)
        return parse_stat(data)

    def _read(self, name: str, comm: str, ppid: int, start_ticks: int) -> _Process:
        exe = b""
        with contextlib.suppress(OSError):  # kernel threads have none; others' need privilege
            exe = os.readlink(os.fsencode(f"{self._settings.proc}/{name}/exe"))
        return _Process(
            pid=int(name),
            start_ticks=start_ticks,
            comm=comm,
            ppid=ppid,
            uid=parse_uid(self._file(name, "status", STATUS_BYTES)),
            command=_text(self._file(name, "cmdline", MAX_COMMAND_BYTES)),
            exe=_text(exe[:MAX_PATH_BYTES]),
        )

    def _file(self, name: str, file: str, count: int) -> bytes:
        try:
            fd = os.open(f"{self._settings.proc}/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(fd, count)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _tell(self, baseline: bool) -> None:
        now_ns = self._clock.now().boot_ns
        if baseline:
            self._counts["launches"] = 0  # they were there before us
            self._emit(now_ns, OTHER, {"baseline": len(self._known), "limited": self._limited})
        else:
            self._tell_all(now_ns, LAUNCH, self._launched)
        self._tell_all(now_ns, TERMINATE, self._ended)
        for title, code, severity, process in self._suspects:
            self._counts["findings"] += 1
            detail: dict[str, Plain] = {
                "finding_info": {"title": title, "uid": f"{process.pid}.{process.start_ticks}"},
                "process": process.as_map(),
                "baseline": baseline,
            }
            self._sink(Event(OCSF.DETECTION_FINDING, CREATE, severity, now_ns, detail, code))
        self._launched, self._ended, self._suspects = [], [], []

    def _tell_all(self, now_ns: int, activity: int, processes: list[_Process]) -> None:
        told = processes[:PER_SWEEP]
        for start in range(0, len(told), PER_EVENT):
            batch: list[Plain] = [p.as_map() for p in told[start : start + PER_EVENT]]
            detail: dict[str, Plain] = {"processes": batch}
            if start + PER_EVENT >= len(told) and len(processes) > PER_SWEEP:
                detail["more"] = True
            self._emit(now_ns, activity, detail)

    def _emit(self, now_ns: int, activity: int, detail: dict[str, Plain]) -> None:
        self._sink(Event(OCSF.PROCESS_ACTIVITY, activity, Severity.INFORMATIONAL, now_ns, detail))


def parse_stat(data: bytes) -> tuple[str, int, int] | None:
    """Return comm, parent and start time (clock ticks after boot) of a /proc/N/stat line, else
    None.

    comm may hold spaces, parentheses and newlines: it ends at the LAST ``)`` (proc(5)).
    """
    head, closed, tail = data.rpartition(b")")
    _, opened, comm = head.partition(b"(")
    fields = tail.split()
    if not closed or not opened or len(fields) < 20:
        return None
    try:
        return _text(comm), int(fields[1]), int(fields[19])
    except ValueError:
        return None


def parse_uid(data: bytes) -> int:
    """Return the real user of /proc/N/status, -1 when it cannot be told.

    Not the owner of /proc/N: that reads root for every process that is not dumpable (proc(5)).
    """
    _, found, rest = data.partition(b"\nUid:\t")
    first = rest.split(b"\t", 1)[0]
    return int(first) if found and first.isdigit() else -1


def suspicious(exe: str, command: str) -> tuple[str, str, Severity] | None:
    """Return title, code and severity when a program runs from where none should, else None.

    Args:
        exe: target of /proc/N/exe, "" when it cannot be read.
        command: the command line, NUL between its arguments.
    """
    if exe.startswith(MEMORY_FILE):
        return "program runs from memory alone", "EW-HOST-009", Severity.HIGH
    arguments = command.split("\0")
    program = exe or arguments[0]
    candidates = [program]
    if (
        os.path.basename(program.removesuffix(DELETED)).rstrip("0123456789.") in INTERPRETERS
        and len(arguments) > 1
    ):
        candidates.append(arguments[1])
    if any(path.startswith(WRITABLE_BY_ALL) for path in candidates):
        return "program runs from a folder everybody can write", "EW-HOST-008", Severity.MEDIUM
    if exe.endswith(DELETED):
        return "running program's file was deleted", "EW-HOST-009", Severity.LOW
    return None


def _text(data: bytes) -> str:
    """Bytes of a process as text: what is not UTF-8 is shown escaped, never raised."""
    return data.rstrip(b"\0").decode("utf-8", "backslashreplace")
