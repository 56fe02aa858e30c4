"""guard: a gate that stalls is ended, one that works is not, and who is not root is not heard."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.daemon.guard import ALIVE_S, GRACE_S, LATE_S
from edgewarden.wire import local
from edgewarden.wire.local import Alarm, Heartbeat, TripInfo
from tests.fakes.gate import stand_in
from tests.steps import slack_s
from tests.system.exec_world import AGENT, NOBODY, World, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "fanotify-permission")]

HANGING_GATE = Path(__file__).with_name("hanging_gate.py")


@pytest.fixture
def small() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


def guards_slack_s() -> float:
    """What the machine adds to guard's look, to its second one and to who waited for the end; a
    guard that was late itself gives gate a moment more."""
    slack = slack_s()
    return 3 * slack + (GRACE_S if slack >= LATE_S else 0.0)


def test_a_stopped_gate_is_killed_and_execs_go_on(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    assert small.outcome([evil]) == "denied"
    stopped = time.monotonic()
    os.kill(small.gate_pid, signal.SIGSTOP)
    assert small.outcome([evil]) == "ran", "a dead gate lets everybody through"
    took_s = time.monotonic() - stopped
    assert took_s < 3 + guards_slack_s()
    assert took_s > 1.4, "a gate that is merely late is not killed"
    wait_until(small.gate_is_gone)


def test_three_trips_put_gate_into_observe(small: World) -> None:
    small.enforcing()
    for trips in (1, 2, 3):
        os.kill(small.gate_pid, signal.SIGSTOP)
        wait_until(small.gate_is_gone)
        small.start_gate()
        assert small.status().trips == trips
        assert small.status().mode == ("observe" if trips == 3 else "enforce")
    link = small.connect("gate-facts.sock")
    alarms = [f for f in small.facts(link) if isinstance(f, Alarm)]
    assert [a.severity for a in alarms if a.code == "EW-EXEC-004"] == [5]
    assert not small.status().armed
    assert small.set_mode("enforce").ok, "a person may say otherwise"
    assert small.status().armed


def test_a_gate_that_ends_is_no_trip(small: World) -> None:
    small.enforcing()
    for ending in (signal.SIGTERM, signal.SIGKILL):
        os.kill(small.gate_pid, ending)
        wait_until(small.gate_is_gone)
        small.start_gate()
        wait_until(lambda: small.status().guard)
    assert small.status().trips == 0


def test_a_gate_at_work_is_left_alone(small: World) -> None:
    """Hashing 100 MB again and again: the heart beats between chunks."""
    big = small.filesystem / "big"
    big.touch(mode=0o755)
    os.truncate(big, 100 << 20)
    small.enforcing()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert small.outcome([big]) == "denied"
    assert not small.gate_is_gone()


def test_enforce_wants_a_guard_and_leaves_with_it(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.policy("observe")
    small.start_gate()
    refused = small.set_mode("enforce")
    assert (refused.ok, refused.name) == (False, "not_possible")
    assert small.status().mode == "observe"
    small.start_guard()
    wait_until(lambda: small.status().guard)
    assert small.set_mode("enforce").ok
    os.kill(small.guard_pid, signal.SIGKILL)
    assert small.outcome([evil]) == "denied", "for a moment nobody is sent home"
    wait_until(lambda: not small.status().armed)
    assert small.status().mode == "enforce"
    assert small.outcome([evil]) == "ran"
    small.start_guard()
    wait_until(lambda: small.status().armed)
    assert small.outcome([evil]) == "denied"


def test_guard_dies_while_gate_stalls_is_the_worst_and_gate_ends_with_its_life(
    small: World,
) -> None:
    """No guard, gate stopped: only a kill helps; that it helps at once is what the unit relies
    on."""
    good = small.program("good", allow=True)
    small.enforcing()
    os.kill(small.guard_pid, signal.SIGKILL)
    os.kill(small.gate_pid, signal.SIGSTOP)
    child = subprocess.Popen(["sh", "-c", f"{good} {small.markers}/late"])
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    os.kill(small.gate_pid, signal.SIGKILL)
    assert child.wait(30) == 0


def test_systemd_hears_that_guard_is_there_and_that_it_looks(small: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(small.run / "notify"))
        systemd.settimeout(30)
        small.start_guard(notify=str(small.run / "notify"))
        assert systemd.recv(64) == b"READY=1"
        (small.run / "notify").unlink()
        assert systemd.recv(64) == b"WATCHDOG=1", "through what was connected at the start"
        os.kill(small.guard_pid, signal.SIGSTOP)
        systemd.settimeout(ALIVE_S + 1)
        with pytest.raises(TimeoutError):
            systemd.recv(64)


def test_the_unit_is_patient_for_three_words() -> None:
    unit = (AGENT.parent / "systemd" / "edgewarden-guard.service").read_text().splitlines()
    assert f"WatchdogSec={3 * ALIVE_S + 1:.0f}" in unit
    assert "WatchdogSignal=SIGKILL" in unit, "what a stopped guard still takes"


# --- who is heard ---------------------------------------------------------------------------------


def test_who_is_not_root_is_sent_away_and_not_killed(small: World) -> None:
    small.start_guard()
    os.chmod(small.run / "guard.sock", 0o666)
    code = (
        "import os, socket, sys; os.setuid(int(sys.argv[2])); "
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(60); "
        "s.connect(sys.argv[1]); print(len(s.recv(4096)), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(small.run / "guard.sock"), str(NOBODY)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdin is not None
        assert stranger.stdout.readline() == b"0\n"
        small.policy()
        small.start_gate()
        wait_until(lambda: small.status().guard)
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(2.8)
        stranger.stdin.close()
        assert stranger.wait(30) == 0


def test_one_gate_at_a_time(small: World) -> None:
    small.policy()
    small.start_guard()
    small.start_gate()
    wait_until(lambda: small.status().guard)
    with stand_in(small.run / "guard.sock") as second:
        assert second.heard == b""
    assert small.status().guard


@pytest.mark.parametrize("ending", ["keep", "close"])
@pytest.mark.parametrize("words", [local.encode(Heartbeat(1)), b"garbage"])
def test_silence_garbage_and_a_closed_line_all_end_the_same(
    small: World, words: bytes, ending: str
) -> None:
    small.start_guard()
    with stand_in(small.run / "guard.sock", words, ending=ending) as silent:
        assert silent.process.wait(30) == -signal.SIGKILL
    with stand_in(small.run / "guard.sock") as next_one:
        told = local.parse(next_one.heard, TripInfo)
        assert (told.trips, told.pid) == (1, small.guard_pid)


def test_told_to_end_it_ends_at_once_and_nobody_with_it(small: World) -> None:
    """Not when its next look is due, and with a last judgement: systemd waits two seconds, a look
    may be 2.5 away, and a gate that ends too has closed its line."""
    small.start_guard()
    guard = Path("/proc", str(small.guard_pid))

    def open_sockets() -> int:
        found = 0
        for fd in (guard / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found += os.readlink(fd).startswith("socket:")
        return found

    inherited = open_sockets()
    with stand_in(small.run / "guard.sock", ending="close") as gate:
        wait_until(lambda: open_sockets() == inherited)  # the line's end was heard
        os.kill(small.guard_pid, signal.SIGTERM)
        wait_until(lambda: not guard.exists())
        assert gate.process.poll() is None


@pytest.mark.parametrize("end", ["KILL", "STOP"])
def test_r1_r2_fifty_waiting_execs_go_on_when_gate_ends_or_stops(small: World, end: str) -> None:
    """R1: SIGKILL frees every waiting exec in a second and the next gate arms within three. R2:
    guard ends a stopped gate within three seconds, with as many waiting."""
    good = small.program("good", allow=True)
    small.enforcing()
    if end == "KILL":
        os.kill(small.guard_pid, signal.SIGSTOP)  # it would be quicker than this test
    os.kill(small.gate_pid, signal.SIGSTOP)
    waiting = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", EXEC, good, "/dev/null"])
        for _ in range(50)
    ]
    began = time.monotonic()
    if end == "KILL":
        wait_until(lambda: sum(hangs(one.pid) for one in waiting) == 50, 60)
        began = time.monotonic()
        os.kill(small.gate_pid, signal.SIGKILL)
    codes = [one.wait(60) for one in waiting]
    took_s = time.monotonic() - began
    assert codes == [0] * 50
    assert took_s < (1.0 if end == "KILL" else 3.0 + STARTS_S) + guards_slack_s(), took_s
    if end == "KILL":
        os.kill(small.guard_pid, signal.SIGCONT)
        wait_until(small.gate_is_gone)
        began = time.monotonic()
        small.start_gate()
        wait_until(lambda: small.set_mode("enforce").ok)
        assert small.status().armed
        took_s = time.monotonic() - began
        assert took_s < 3 + slack_s()


EXEC = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
STARTS_S = 2.0
"""Fifty interpreters on two busy cores, before the first of them asks for its exec."""


def hangs(pid: int) -> bool:
    """Whether a process waits for a verdict: it sleeps in the kernel, and only a kill wakes it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


@pytest.mark.parametrize(
    ("strict", "how"),
    [(False, "loops"), (True, "loops"), (False, "late")],
    ids=["default", "strict", "late"],
)
def test_r3_a_judgement_that_hangs_is_given_up_and_the_others_have_theirs(
    strict: bool, how: str
) -> None:
    """Denied in strict mode, let through in the default one, and told; gate lives on, also where
    the judgement began when the next heartbeat was nearly due."""
    with private_tmpfs() as filesystem, world(filesystem) as here:
        good, evil = here.program("good", allow=True), here.program("evil", allow=False)
        hangs = here.program("hangs", allow=False)
        here.strict = strict
        here.gate_program = HANGING_GATE
        digest = hashlib.sha256(hangs.read_bytes()).hexdigest()
        (here.state / "hangs").write_text(f"{digest} {how}")
        here.enforcing()
        link = here.connect("gate-facts.sock")
        wait_until(lambda: here.status().link)
        for _ in range(4 if how == "late" else 0):  # a second each; guard is patient at first
            assert here.outcome([good]) == "ran"
        began = time.monotonic()
        assert here.outcome([hangs]) == ("denied" if strict else "ran")
        took_s = time.monotonic() - began
        assert took_s < 3 + (how == "late") + slack_s()
        assert here.outcome([evil]) == "denied"
        assert here.outcome([good]) == "ran"
        status = here.status()
        assert (status.armed, status.trips, status.undecidable) == (True, 0, 1)
        alarms = [f for f in here.facts(link) if isinstance(f, Alarm) and f.code == "EW-EXEC-007"]
        assert ["Overdue" in alarm.text for alarm in alarms] == [True]


def test_r3_where_no_signal_reaches_it_guard_ends_gate_and_lets_go_of_everybody() -> None:
    """In strict mode, too: nobody may be left waiting for a gate that hangs (ADR 20)."""
    with private_tmpfs() as filesystem, world(filesystem) as here:
        here.program("good", allow=True)
        hangs = here.program("hangs", allow=False)
        here.strict = True
        here.gate_program = HANGING_GATE
        digest = hashlib.sha256(hangs.read_bytes()).hexdigest()
        (here.state / "hangs").write_text(f"{digest} deaf")
        here.enforcing()
        began = time.monotonic()
        assert here.outcome([hangs]) == "ran"
        took_s = time.monotonic() - began
        assert took_s < 4 + guards_slack_s()
        wait_until(here.gate_is_gone)
