"""Processes: identity and bounds on a made-up /proc, the rules on real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.sense import processes
from edgewarden.sense.processes import (
    HINTS_PER_SWEEP,
    LAUNCH,
    OTHER,
    PER_EVENT,
    PER_SWEEP,
    TERMINATE,
    ProcessSettings,
    ProcessSweep,
    parse_stat,
    parse_uid,
    suspicious,
)
from edgewarden.wire.cbor import decode, encode
from edgewarden.wire.facts import OCSF, Event, Severity, event_to_map
from tests.fakes.clock import FakeClock
from tests.waiting import wait_until


class FakeProc:
    """A /proc of files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.start(1, "init")

    def start(
        self,
        pid: int,
        comm: str,
        ticks: int = 100,
        uid: int = 0,
        command: bytes = b"",
        ppid: int = 1,
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", str(ppid), *["0"] * 17, str(ticks), *["0"] * 30]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (folder / "status").write_text(f"Name:\t{comm}\nUmask:\t0022\nUid:\t{uid}\t0\t0\t0\n")
        (folder / "cmdline").write_bytes(command)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


class Sweep:
    """A sweep and its facts."""

    def __init__(self, proc: str) -> None:
        self.facts: list[Event] = []
        self.sweep = ProcessSweep(
            ProcessSettings(proc=proc),
            self.facts.append,  # type: ignore[arg-type]
            FakeClock(),
        )
        self.sweep.look()

    def told(self, activity: int) -> list[tuple[int, str]]:
        """(pid, name) of every launch or end."""
        out = []
        for fact in self.facts:
            if fact.class_uid is OCSF.PROCESS_ACTIVITY and fact.activity_id == activity:
                for process in fact.detail.get("processes", []):  # type: ignore[union-attr]
                    out.append((process["pid"], process["name"]))
        return out

    def findings(self, pid: int) -> list[tuple[str, int]]:
        return [
            (fact.code, fact.severity_id)
            for fact in self.facts
            if fact.class_uid is OCSF.DETECTION_FINDING and fact.detail["process"]["pid"] == pid  # type: ignore[call-overload,index]
        ]


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def test_the_first_sweep_is_a_baseline_and_no_launches(proc: FakeProc) -> None:
    proc.start(7, "sshd")
    under_test = Sweep(str(proc.root))
    assert [f.activity_id for f in under_test.facts] == [OTHER]
    assert under_test.facts[0].detail["baseline"] == 2
    assert under_test.sweep.snapshot().launches == 0


def test_launch_and_end_are_told_once(proc: FakeProc) -> None:
    under_test = Sweep(str(proc.root))
    proc.start(7, "cp", uid=1000, command=b"cp\0-a\0x\0", ppid=1)
    under_test.sweep.look()
    under_test.sweep.look()
    proc.end(7)
    under_test.sweep.look()
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(7, "cp")]
    assert under_test.told(TERMINATE) == [(7, "cp")]
    launch = under_test.facts[1].detail["processes"]
    assert launch == [
        {
            "pid": 7,
            "start_ticks": 100,
            "name": "cp",
            "parent_pid": 1,
            "uid": 1000,
            "cmd_line": "cp -a x",
        }
    ]


def test_a_number_used_again_is_another_process(proc: FakeProc) -> None:
    proc.start(7, "cp", ticks=100)
    under_test = Sweep(str(proc.root))
    proc.start(7, "cp", ticks=200)
    under_test.sweep.look()
    assert under_test.told(TERMINATE) == [(7, "cp")]
    assert under_test.told(LAUNCH) == [(7, "cp")]


def test_exec_is_a_launch_and_a_new_name_alone_is_not(proc: FakeProc) -> None:
    proc.start(7, "sh", command=b"sh\0")
    proc.start(8, "worker", command=b"daemon\0")
    under_test = Sweep(str(proc.root))
    proc.start(7, "nc", command=b"nc\0-l\0")
    proc.start(8, "worker/idle", command=b"daemon\0")
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(7, "nc")]
    assert under_test.told(TERMINATE) == []


def test_every_known_process_is_looked_at_again_in_turn(proc: FakeProc) -> None:
    many = 3 * processes.RECHECK_PER_SWEEP
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=1)
    under_test = Sweep(str(proc.root))
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=2)
    for _ in range(many // processes.RECHECK_PER_SWEEP + 1):
        under_test.sweep.look()
    assert len(under_test.told(LAUNCH)) == many


def test_resync_looks_at_all_at_once(proc: FakeProc) -> None:
    many = 3 * processes.RECHECK_PER_SWEEP
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=1)
    under_test = Sweep(str(proc.root))
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=2)
    under_test.sweep.resync()
    under_test.sweep.look()
    assert len(under_test.told(LAUNCH)) == many


def test_a_hint_catches_what_is_gone_before_the_sweep(proc: FakeProc) -> None:
    under_test = Sweep(str(proc.root))
    proc.start(7, "blink")
    under_test.sweep.hint(7)
    proc.end(7)
    under_test.sweep.hint(7)
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(7, "blink")]
    assert under_test.told(TERMINATE) == [(7, "blink")]


def test_a_storm_of_hints_costs_a_bounded_number_of_looks(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_test = Sweep(str(proc.root))
    looks = 0

    def counted(data: bytes) -> tuple[str, int, int] | None:
        nonlocal looks
        looks += 1
        return parse_stat(data)

    monkeypatch.setattr(processes, "parse_stat", counted)
    for _ in range(10 * HINTS_PER_SWEEP):
        under_test.sweep.hint(1)
    assert looks == HINTS_PER_SWEEP


def test_a_fork_storm_is_told_in_bounded_events(proc: FakeProc) -> None:
    under_test = Sweep(str(proc.root))
    for pid in range(1000, 1000 + PER_SWEEP + 50):
        proc.start(pid, "bomb", command=b"\xff" * 5000)
    under_test.sweep.look()
    launches = under_test.facts[1:]
    assert len(launches) == PER_SWEEP // PER_EVENT
    assert launches[-1].detail["more"] is True
    assert all(len(encode(event_to_map(event))) < 64 * 1024 for event in launches)
    assert under_test.sweep.snapshot().launches == PER_SWEEP + 50


def test_the_table_is_bounded_and_says_so(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_KNOWN", 4)
    under_test = Sweep(str(proc.root))
    for pid in range(10, 20):
        proc.start(pid, "x")
    under_test.sweep.look()
    snapshot = under_test.sweep.snapshot()
    assert (snapshot.known, snapshot.unwatched) == (4, 7)


def test_hidden_processes_are_admitted(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    assert Sweep(str(tmp_path)).sweep.snapshot().limited == ""
    proc.end(1)
    assert "hidepid" in Sweep(str(tmp_path)).sweep.snapshot().limited


@pytest.mark.parametrize("comm", ["a b", "a) S 9 (b", "((", "x\ny", ""])
def test_names_cannot_forge_the_fields_behind_them(comm: str, proc: FakeProc) -> None:
    proc.start(7, comm, ticks=4242, ppid=3)
    assert parse_stat((proc.root / "7/stat").read_bytes()) == (comm, 3, 4242)


@given(st.binary(max_size=300))
def test_any_stat_and_status_bytes_are_read_or_refused(data: bytes) -> None:
    seen = parse_stat(data)
    assert seen is None or isinstance(seen[2], int)
    assert parse_uid(data) >= -1


@given(st.binary(max_size=200), st.binary(max_size=40).map(lambda b: b.replace(b")", b"")))
def test_whatever_a_process_calls_itself_can_be_encoded(command: bytes, comm: bytes) -> None:
    process = processes._Process(
        7, 1, processes._text(comm), 1, 0, processes._text(command), processes._text(command)
    )
    assert decode(encode(process.as_map())) == process.as_map()


@pytest.mark.parametrize(
    ("exe", "command", "code", "severity"),
    [
        ("/tmp/x", "x", "EW-HOST-008", Severity.MEDIUM),
        ("/var/tmp/a/b", "b", "EW-HOST-008", Severity.MEDIUM),
        ("/dev/shm/x (deleted)", "x", "EW-HOST-008", Severity.MEDIUM),
        ("", "/tmp/x\0-d", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/python3.11", "python3\0/tmp/x.py", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/dash", "sh\0/dev/shm/x.sh", "EW-HOST-008", Severity.MEDIUM),
        ("/memfd:x (deleted)", "x", "EW-HOST-009", Severity.HIGH),
        ("/usr/bin/x (deleted)", "x", "EW-HOST-009", Severity.LOW),
    ],
)
def test_where_no_program_should_run_from(
    exe: str, command: str, code: str, severity: Severity
) -> None:
    found = suspicious(exe, command)
    assert found is not None
    assert found[1:] == (code, severity)


@pytest.mark.parametrize(
    ("exe", "command"),
    [
        ("/usr/bin/cat", "cat\0/tmp/x"),
        ("/usr/bin/ls", "/tmp/pretends"),
        ("/tmpfoo/x", "x"),
        ("", ""),
        ("/usr/bin/python3.11", "python3\0-m\0http.server"),
    ],
)
def test_ordinary_programs_are_no_finding(exe: str, command: str) -> None:
    assert suspicious(exe, command) is None


@contextlib.contextmanager
def child(program: list[str], **kind: object) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(program, **kind)  # type: ignore[call-overload]
    try:
        wait_until(lambda: Path(f"/proc/{started.pid}/cmdline").read_bytes() != b"")
        yield started
    finally:
        started.kill()
        started.wait()


def test_a_real_process_comes_and_goes() -> None:
    under_test = Sweep("/proc")
    with child(["/bin/sleep", "30"]) as started:
        under_test.sweep.look()
        assert (started.pid, "sleep") in under_test.told(LAUNCH)
        assert under_test.findings(started.pid) == []
        assert parse_uid(Path(f"/proc/{started.pid}/status").read_bytes()) == os.getuid()
    under_test.sweep.look()
    assert (started.pid, "sleep") in under_test.told(TERMINATE)


def test_a_real_program_in_a_writable_folder(tmp_path: Path) -> None:
    program = Path("/tmp") / f"ew-test-{os.getpid()}"
    shutil.copy("/bin/sleep", program)
    try:
        under_test = Sweep("/proc")
        with child([str(program), "30"]) as started:
            under_test.sweep.hint(started.pid)
            under_test.sweep.look()
            assert under_test.findings(started.pid) == [("EW-HOST-008", Severity.MEDIUM)]
    finally:
        program.unlink()


def test_a_real_program_that_exists_in_memory_only() -> None:
    memory = os.memfd_create("hidden", 0)
    try:
        os.write(memory, Path("/bin/sleep").read_bytes())
        under_test = Sweep("/proc")
        program = [f"/proc/self/fd/{memory}", "30"]
        with child(program, pass_fds=[memory]) as started:
            under_test.sweep.look()
            assert under_test.findings(started.pid) == [("EW-HOST-009", Severity.HIGH)]
    finally:
        os.close(memory)


def test_a_sweep_over_500_processes_takes_at_most_two_milliseconds(tmp_path: Path) -> None:
    """On files instead of procfs, which are the slower of the two to list and open."""
    proc = FakeProc(tmp_path)
    for pid in range(100, 599):
        proc.start(pid, "idle")
    under_test = Sweep(str(tmp_path))
    costs_ms = []
    for _ in range(15):
        started_ns = time.process_time_ns()
        under_test.sweep.look()
        costs_ms.append((time.process_time_ns() - started_ns) / 1e6)
    assert under_test.sweep.snapshot().known == 500
    assert sorted(costs_ms)[7] <= 2.0
