"""Processes: identity and bounds on a made-up /proc, the rules on real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.inventory import births, processes
from edgewarden.inventory.patient import Patient
from edgewarden.inventory.processes import (
    HINTS_PER_SWEEP,
    LAUNCH,
    OTHER,
    PER_EVENT,
    PER_SWEEP,
    TERMINATE,
    ProcessSettings,
    ProcessSweep,
)
from edgewarden.inventory.procfiles import loose_folder, parse_stat, parse_status, parse_unit, text
from edgewarden.wire.cbor import decode, encode
from edgewarden.wire.facts import OCSF, Event, Reading, event_to_map
from edgewarden.wire.look import Looked
from edgewarden.wire.processes import Delta, Process
from tests.fakes.clock import FakeClock
from tests.steps import calls
from tests.waiting import wait_until

OPEN: list[ProcessSweep] = []
PATIENCE_S = 1.0
"""How long the thread that asks may be kept from running while the test's own runs on."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Every sweep of a test is closed when it ends."""
    yield
    while OPEN:
        OPEN.pop().close()


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
        euid: int | None = None,
        tracer: int = 0,
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", str(ppid), *["0"] * 17, str(ticks), *["0"] * 30]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (folder / "status").write_text(
            f"Name:\t{comm}\nUmask:\t0022\nTracerPid:\t{tracer}\n"
            f"Uid:\t{uid}\t{uid if euid is None else euid}\t0\t0\n"
        )
        (folder / "cmdline").write_bytes(command)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


class Sweep:
    """A sweep and its facts."""

    def __init__(self, proc: str) -> None:
        self.facts: list[Event | Reading] = []
        self.deltas: list[Delta] = []
        self.sweep = ProcessSweep(
            ProcessSettings(proc=proc, patience_s=PATIENCE_S),
            self.facts.append,  # type: ignore[arg-type]
            FakeClock(),
            self.deltas.append,
        )
        OPEN.append(self.sweep)
        self.sweep.look()

    def told(self, activity: int) -> list[tuple[int, str]]:
        """(pid, name) of every launch or end."""
        out = []
        for fact in self.facts:
            if fact.class_uid is OCSF.PROCESS_ACTIVITY and fact.activity_id == activity:
                for process in fact.detail.get("processes", []):  # type: ignore[union-attr]
                    out.append((process["pid"], process["name"]))
        return out

    def began(self, pid: int) -> Process:
        """The last beginning of a process."""
        return [p for delta in self.deltas for p in delta.began if p.pid == pid][-1]

    def changes(self, pid: int) -> list[tuple[Process, Process]]:
        return [c for delta in self.deltas for c in delta.changed if c[0].pid == pid]


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
    assert launches[-1].detail["more"] == 50
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


def test_one_user_does_not_fill_the_table(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subordinate users are one; who ends makes room."""
    monkeypatch.setattr(processes, "MOST_OF_ONE", 4)
    for pid in range(10, 30):
        proc.start(pid, "x", uid=100_000 + pid)
    under_test = Sweep(str(proc.root))
    assert (under_test.sweep.snapshot().known, under_test.sweep.snapshot().unwatched) == (5, 16)
    proc.start(40, "evil", uid=1000)
    proc.start(41, "cron", uid=0)
    under_test.sweep.look()
    assert {pid for pid, _ in under_test.told(LAUNCH)} == {40, 41}
    for pid in range(10, 30):
        proc.end(pid)
    proc.start(50, "y", uid=100_001)
    under_test.sweep.look()
    assert (50, "y") in under_test.told(LAUNCH)


def test_slow_answers_to_hints_hold_the_loop_for_so_long_and_no_longer(proc: FakeProc) -> None:
    """Each a little faster than what is given up: a user may start such over and over."""
    under_test = Sweep(str(proc.root))
    asked: list[str] = []
    gone = threading.Event()

    def slowly(name: str) -> tuple[bytes, str]:
        """In three of the caller's five looks, however long a busy machine takes for them."""
        asked.append(name)
        until_s = patient.waited_s + 2.5 * patient._tick_s
        while patient.waited_s < until_s and not gone.wait(0.01):
            pass
        return b"x\0", ""

    under_test.sweep.close()
    under_test.sweep._slow = patient = Patient(slowly)
    try:
        for pid in range(100, 150):
            proc.start(pid, "slow", uid=1000)
            under_test.sweep.hint(pid)
        assert processes.HINTS_WAIT_S <= patient.waited_s < 2 * processes.HINTS_WAIT_S
        assert len(asked) < 10, "fifty of them would take ten seconds"
    finally:
        gone.set()
    under_test.sweep.look()
    assert len(under_test.told(LAUNCH)) == 50, "told without their command line, or with it"


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
    assert min(parse_status(data)) >= -1
    assert isinstance(parse_unit(data), str)


@given(st.binary(max_size=200), st.binary(max_size=40).map(lambda b: b.replace(b")", b"")))
def test_whatever_a_process_calls_itself_can_be_encoded(command: bytes, comm: bytes) -> None:
    process = Process(
        pid=7,
        start_ticks=1,
        comm=text(comm),
        ppid=1,
        uid=0,
        euid=0,
        command=text(command),
        exe=text(command),
    )
    assert decode(encode(process.as_map())) == process.as_map()


def test_a_program_whose_file_is_replaced_is_a_change_and_no_launch(proc: FakeProc) -> None:
    """An upgrade replaces the files of everything that runs: dpkg starts none of it."""
    proc.start(7, "sshd", command=b"sshd\0")
    link = proc.root / "7" / "exe"
    link.symlink_to("/usr/sbin/sshd")
    under_test = Sweep(str(proc.root))
    link.unlink()
    link.symlink_to("/usr/sbin/sshd (deleted)")
    under_test.sweep.look()
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == []
    [(before, after)] = under_test.changes(7)
    assert (before.exe, after.exe) == ("/usr/sbin/sshd", "/usr/sbin/sshd (deleted)")


def test_another_user_or_tracer_is_a_change_and_no_launch(proc: FakeProc) -> None:
    proc.start(7, "su", uid=1000)
    under_test = Sweep(str(proc.root))
    proc.start(7, "su", uid=1000, euid=0, tracer=55)
    under_test.sweep.look()
    [(before, after)] = under_test.changes(7)
    assert (before.euid, after.euid, after.tracer_pid) == (1000, 0, 55)
    assert under_test.told(LAUNCH) == []
    under_test.sweep.look()
    assert len(under_test.changes(7)) == 1


def test_an_exec_tells_who_it_was_before(proc: FakeProc) -> None:
    proc.start(7, "sh", uid=1000, command=b"sh\0")
    under_test = Sweep(str(proc.root))
    proc.start(7, "su", uid=1000, euid=0, command=b"su\0")
    under_test.sweep.look()
    [(before, after)] = under_test.changes(7)
    assert (before.comm, before.euid) == ("sh", 1000)
    assert (after.comm, after.euid, after.command) == ("su", 0, "su")


def test_a_hint_sees_another_program_under_the_same_name(proc: FakeProc) -> None:
    proc.start(7, "sh", command=b"sh\0")
    under_test = Sweep(str(proc.root))
    proc.start(7, "sh", command=b"/tmp/sh\0")
    under_test.sweep.hint(7)
    under_test.sweep.look()
    assert under_test.began(7).command == "/tmp/sh"


def test_what_root_has_seen_stays_and_is_told_as_a_change(proc: FakeProc) -> None:
    proc.start(7, "d", command=b"d\0")
    under_test = Sweep(str(proc.root))
    known = under_test.began(7)
    more = replace(known, exe="/usr/sbin/d", descriptors=9, sockets=3, preload=("LD_PRELOAD=x",))
    for ticks in (100, 5):
        seen = Looked(7, ticks, "/usr/sbin/d", "", 9, 3, ("LD_PRELOAD=x",), ())
        under_test.sweep.learn([seen])
    for _ in range(3):
        under_test.sweep.look()
    assert under_test.changes(7) == [(known, more)]
    assert under_test.deltas[-1].present[7] == more
    assert under_test.told(LAUNCH) == []


def test_who_does_not_show_his_memory_is_told_without_it_and_holds_nobody(proc: FakeProc) -> None:
    """A pipe nobody writes to stands for memory that nobody fills in."""
    for pid in (7, 8, 9):
        proc.start(pid, f"p{pid}", command=b"x\0")
    for pid in (7, 8):
        (proc.root / f"{pid}/cmdline").unlink()
        os.mkfifo(proc.root / f"{pid}/cmdline")
    under_test = Sweep(str(proc.root))  # comes back, although nobody ever writes
    assert under_test.began(9).command == "x"
    assert under_test.changes(7) == []  # a busy machine may keep anybody waiting for a moment
    assert under_test.sweep.snapshot().unanswering == 2
    asked: list[str] = []
    work = under_test.sweep._slow._work
    under_test.sweep._slow._work = lambda name: (asked.append(name), work(name))[1]
    under_test.sweep.resync()
    under_test.sweep.look()
    assert not {"7", "8"} & set(asked), "asked again"
    assert [c[-1][1].blocked for pid in (7, 8, 9) if (c := under_test.changes(pid))] == [True] * 2
    for pid in (7, 8):
        os.close(os.open(proc.root / f"{pid}/cmdline", os.O_WRONLY))
    wait_until(lambda: under_test.sweep.snapshot().unanswering == 0)
    for pid in (7, 8):
        (proc.root / f"{pid}/cmdline").unlink()
        (proc.root / f"{pid}/cmdline").write_bytes(b"late\0")
    under_test.sweep.look()
    now = under_test.deltas[-1].present[7]
    assert (now.command, now.blocked) == ("late", False)


@pytest.mark.parametrize(
    ("data", "unit"),
    [
        (b"0::/system.slice/ssh.service\n", "ssh.service"),
        (b"0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        (b"0::/user.slice/user@1000.service/app.slice/ssh.service\n", "user@1000.service"),
        (b"0::/system.slice/x.service/ssh.service\n", "x.service"),
        (b"0::/system.slice/_memory.service\n", "memory.service"),
        (b"0::/system.slice/tools/x.service\n", ""),
        (b"5:devices:/a.service\n1:name=systemd:/system.slice/b.service\n0::/\n", "b.service"),
        (b"0::/\n", ""),
        (b"", ""),
    ],
)
def test_the_unit_of_a_process(data: bytes, unit: str) -> None:
    assert parse_unit(data) == unit


def test_a_folder_everybody_can_write_is_seen_by_its_mode(tmp_path: Path) -> None:
    loose = tmp_path / "opt" / "loose"
    (loose / "deep").mkdir(parents=True)
    below = str(tmp_path)  # may lie in /tmp: only what is below it counts here
    loose.chmod(0o777)
    found = loose_folder(str(loose / "deep" / "program"))
    assert found in (str(loose), "/tmp")
    loose.chmod(0o755)
    assert not loose_folder(str(loose / "deep" / "program")).startswith(below)
    assert loose_folder("/usr/bin/env") == ""
    assert loose_folder("relative") == ""


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
        status = Path(f"/proc/{started.pid}/status").read_bytes()
        assert parse_status(status) == (0, os.getuid(), os.geteuid())
    # What ends is one thread less on the machine; where one more began in another namespace at that
    # moment, nothing moved, and the list comes in its turn.
    for _ in range(int(births.LIST_WITHIN_S / ProcessSettings().sweep_s)):
        under_test.sweep.look()
    assert (started.pid, "sleep") in under_test.told(TERMINATE)


STEPS = 2
"""For a process that was there before: one read."""


def test_a_sweep_takes_a_few_steps_for_each_process_however_many_there_are(tmp_path: Path) -> None:
    """What that costs in time is the bench's (watch.sweep)."""
    proc = FakeProc(tmp_path)
    steps = {}
    for known in (250, 500):
        for pid in range(100 + len(steps) * 249, 99 + known):
            proc.start(pid, "idle")
        under_test = Sweep(str(tmp_path))
        under_test.sweep.look()
        assert under_test.sweep.snapshot().known == known
        steps[known] = calls(under_test.sweep.look)
    assert steps[500] - steps[250] <= 250 * STEPS
    assert steps[500] < 2.2 * steps[250]


def test_while_the_kernel_tells_a_minute_is_enough_and_never_more(proc: FakeProc) -> None:
    """Each within RECHECK_WITHIN_S; no look takes more than its share."""
    many = 2 * processes.RECHECK_PER_SWEEP + 3
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=1)
    under_test = Sweep(str(proc.root))
    under_test.sweep._told = lambda: True
    for pid in range(100, 100 + many):
        proc.start(pid, "idle", ticks=2)
    told = [0]
    for _ in range(round(processes.RECHECK_WITHIN_S / 2.0)):
        under_test.sweep.look()
        told.append(len(under_test.told(LAUNCH)))
    assert told[-1] == many
    assert max(b - a for a, b in pairwise(told)) == 2


def test_who_began_while_a_round_goes_on_waits_for_no_second_one(proc: FakeProc) -> None:
    for pid in range(100, 134):
        proc.start(pid, "idle")
    under_test = Sweep(str(proc.root))
    under_test.sweep._told = lambda: True
    under_test.sweep.look()
    proc.start(500, "late", ticks=1)
    under_test.sweep.look()
    proc.start(500, "late", ticks=2)
    for _ in range(round(processes.RECHECK_WITHIN_S / 2.0)):
        under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(500, "late")] * 2


def test_a_long_sweep_lists_each_time(proc: FakeProc) -> None:
    (proc.root / "loadavg").write_text("0.00 0.00 0.00 1/2 7\n")
    settings = ProcessSettings(sweep_s=300.0, proc=str(proc.root))
    facts: list[Event | Reading] = []
    OPEN.append(ProcessSweep(settings, facts.append, FakeClock()))
    OPEN[-1].look()
    proc.start(9, "chosen")
    OPEN[-1].look()
    assert OPEN[-1].snapshot().known == 2


def test_where_no_number_moved_a_beginning_waits_for_the_list_in_turn(proc: FakeProc) -> None:
    (proc.root / "loadavg").write_text("0.00 0.00 0.00 1/2 7\n")
    under_test = Sweep(str(proc.root))
    proc.start(8, "quiet")
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == []
    (proc.root / "loadavg").write_text("0.00 0.00 0.00 1/3 8\n")
    under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(8, "quiet")]
    proc.start(9, "chosen")
    for _ in range(5):
        under_test.sweep.look()
    assert under_test.told(LAUNCH) == [(8, "quiet"), (9, "chosen")]
    proc.end(8)
    under_test.sweep.resync()
    under_test.sweep.look()
    assert under_test.told(TERMINATE) == [(8, "quiet")]
