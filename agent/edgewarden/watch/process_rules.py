"""Rules about single processes: where a program runs from, as whom, under whose eyes, with what.

Facts in (wire/processes.py), findings out; no clock, no state but what the caller hands in. A rule
sees each process when it begins and when it changes, so a finding comes once.

In order:

1. From memory alone (memfd): EW-HOST-009, HIGH.
2. From a temporary place or below a folder that everybody can write: EW-HOST-008, MEDIUM, the
   folder named. So is an interpreter whose script lies there.
3. File deleted while it runs: EW-HOST-009, LOW.
4. An interpreter with a script, or the loader with a program, from outside the system's folders:
   EW-PROC-005 (row A7: without strict mode it runs, and is told).
5. Root (effective), while its parent is somebody else: EW-PROC-001, HIGH; LOW where the kernel
   vouches for a program that is expected to (``may_elevate``).
   Likewise a process of an ordinary user with capabilities that its parent, of an ordinary user
   too, does not have (a file with capabilities): MEDIUM, or LOW.
6. Traced: EW-PROC-002.
7. Foreign code loaded by the environment: EW-PROC-003, HIGH where it lies in a loose place.
8. More sockets than ``most_sockets``: EW-PROC-006; where they cannot be counted, open files stand
   in for them.
9. Its memory does not answer: EW-PROC-011.

What is not visible is no finding: inventory/watcher.py says in status what is not visible and why.

    judge_delta(delta, rules)      # [Event, ...]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgewarden.plain import dataclass
from edgewarden.watch.command_lines import (
    DELETED,
    in_system,
    is_loader,
    is_temporary,
    script_of,
)
from edgewarden.watch.findings import finding
from edgewarden.wire.facts import Event, Plain, Severity
from edgewarden.wire.processes import UNKNOWN, Process

MEMORY_FILE = "/memfd:"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings and the other processes say.

    Attributes:
        may_elevate: programs that are expected to start as root for somebody else, as paths.
        most_sockets: per process.
        kernel_events: gate tells root starts and ptrace itself, from the kernel's own events.
    """

    may_elevate: frozenset[str] = frozenset()
    most_sockets: int = 1024
    kernel_events: bool = False


def judge_new(
    process: Process, parent: Process | None, rules: Rules, now_ns: int, *, baseline: bool
) -> Iterator[Event]:
    """What is to be said of a process that began or became another program."""
    yield from _origin(process, now_ns, baseline)
    yield from _preload(process, now_ns)
    if process.euid == 0 and not baseline and not rules.kernel_events:
        other = parent is not None and 0 not in (parent.uid, parent.euid)
        if other and parent is not None and UNKNOWN not in (parent.uid, parent.euid):
            yield from elevated(process, parent.uid, rules, now_ns, parent)
    if not baseline and parent is not None:
        yield from _capable(process, parent, rules, now_ns)
    if process.tracer_pid and not rules.kernel_events:
        yield _traced(process, None, now_ns)
    if process.blocked:
        yield _silent(process, now_ns)
    yield from _crowded(process, rules, now_ns)


def judge_change(
    before: Process, after: Process, rules: Rules, now_ns: int, present: Mapping[int, Process]
) -> Iterator[Event]:
    """What is to be said of a process that is the same and different."""
    same_file = before.exe in ("", after.exe, after.exe.removesuffix(DELETED))
    same_program = same_file and before.command in ("", after.command)
    if same_program and origin(after) != origin(before):  # more is known of it than before
        yield from _origin(after, now_ns, baseline=False)
    if after.preload and after.preload != before.preload:
        yield from _preload(after, now_ns)
    if after.euid == 0 and before.euid > 0 and not rules.kernel_events:
        yield from elevated(after, before.uid, rules, now_ns, present.get(after.ppid))
    if after.tracer_pid and after.tracer_pid != before.tracer_pid and not rules.kernel_events:
        yield _traced(after, present.get(after.tracer_pid), now_ns)
    if after.blocked and not before.blocked:
        yield _silent(after, now_ns)
    if _crowd(after) > rules.most_sockets >= _crowd(before):
        yield from _crowded(after, rules, now_ns)


def elevated(
    process: Process, uid: int, rules: Rules, now_ns: int, parent: Process | None = None
) -> Iterator[Event]:
    """The finding about a process that is root now and whose starter, ``uid``, is not."""
    # Only the kernel's word: what a process calls itself vouches for nothing.
    severity = Severity.LOW if process.exe in rules.may_elevate else Severity.HIGH
    evidence: dict[str, Plain] = {"from_uid": uid}
    if parent is not None:
        evidence["parent"] = parent.as_map()
    if not process.exe:
        evidence["program"] = "not visible to link; as the process names itself"
    yield finding(now_ns, "EW-PROC-001", "program became root", severity, process, evidence)


def _capable(process: Process, parent: Process, rules: Rules, now_ns: int) -> Iterator[Event]:
    """A program whose file gives it capabilities; the kernel has no event for that."""
    gained = process.capabilities & ~parent.capabilities
    if not gained or min(process.uid, process.euid, parent.uid, parent.euid) <= 0:
        return  # root, or users that are not known
    severity = Severity.LOW if process.exe in rules.may_elevate else Severity.MEDIUM
    evidence: dict[str, Plain] = {"gained": f"{gained:#x}", "parent": parent.as_map()}
    title = "program gained capabilities"
    yield finding(now_ns, "EW-PROC-001", title, severity, process, evidence)


def _origin(process: Process, now_ns: int, baseline: bool) -> Iterator[Event]:
    found = origin(process)
    if found is not None:
        title, code, severity, evidence = found
        yield finding(now_ns, code, title, severity, process, evidence | {"baseline": baseline})


def origin(process: Process) -> tuple[str, str, Severity, dict[str, Plain]] | None:
    """Title, code, severity and evidence where a program runs from where none should, else None."""
    exe, arguments = process.exe, process.arguments
    if exe.startswith(MEMORY_FILE):
        return "program runs from memory alone", "EW-HOST-009", Severity.HIGH, {}
    program = exe or (arguments[0] if arguments else "")
    script = script_of(program, arguments)
    loose = process.loose_folder
    for path in (program, script):
        folder = is_temporary(path) or (loose if path == program else "")
        if folder:
            title = "program runs from a folder everybody can write"
            return title, "EW-HOST-008", Severity.MEDIUM, {"folder": folder, "path": path}
    if exe.endswith(DELETED):
        return "running program's file was deleted", "EW-HOST-009", Severity.LOW, {}
    if script and not in_system(script):
        if is_loader(program):
            title, severity = (
                "program started by the loader, from outside packages",
                Severity.MEDIUM,
            )
        else:
            title, severity = "script runs from outside packages", Severity.LOW
        return title, "EW-PROC-005", severity, {"script": script}
    if script and is_loader(program):
        title = "program started by the loader instead of by itself"
        return title, "EW-PROC-005", Severity.LOW, {"script": script}
    return None


def _preload(process: Process, now_ns: int) -> Iterator[Event]:
    if not process.preload:
        return
    paths = [p for line in process.preload for p in _paths(line.partition("=")[2])]
    loose = [p for p in paths if is_temporary(p) or not p.startswith("/")]
    severity = Severity.HIGH if loose else Severity.MEDIUM
    variables: list[Plain] = [*process.preload]
    title = "program loads foreign code by its environment"
    yield finding(now_ns, "EW-PROC-003", title, severity, process, {"environment": variables})


def _paths(value: str) -> list[str]:
    """The parts of LD_PRELOAD (colon or space) and LD_LIBRARY_PATH (colon); ld.so(8)."""
    return [part for part in value.replace(" ", ":").replace(";", ":").split(":") if part]


def _traced(process: Process, tracer: Process | None, now_ns: int) -> Event:
    evidence: dict[str, Plain] = {"tracer_pid": process.tracer_pid}
    if tracer is not None:
        evidence["tracer"] = tracer.as_map()
    title = "process is traced by another"
    return finding(now_ns, "EW-PROC-002", title, Severity.MEDIUM, process, evidence)


def _silent(process: Process, now_ns: int) -> Event:
    title = "process does not show its command line"
    return finding(now_ns, "EW-PROC-011", title, Severity.MEDIUM, process)


def _crowd(process: Process) -> int:
    return process.descriptors if process.sockets == UNKNOWN else process.sockets


def _crowded(process: Process, rules: Rules, now_ns: int) -> Iterator[Event]:
    count = _crowd(process)
    if count <= rules.most_sockets:
        return
    what = "open files" if process.sockets == UNKNOWN else "sockets"
    title = f"process holds more than {rules.most_sockets} {what}"
    evidence: dict[str, Plain] = {"count": count, "of": what}
    yield finding(now_ns, "EW-PROC-006", title, Severity.MEDIUM, process, evidence)
