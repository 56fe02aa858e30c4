"""Programs that start again and again (exec/spares.py), on a real kernel and a real ext4.

The mark says "do not ask": so here is what must end it before another content can start.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.exec.hold import LINGER_S
from edgewarden.exec.spares import QUIET_S
from edgewarden.wire.local import Answer, ExecVerdict
from tests.steps import slack_s
from tests.system.exec_world import NOBODY, World, loop_ext4, world
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "fanotify-permission", "loop-mount")]

IGNORED = "ignored_mask:40000"
"""proc(5), fdinfo: a mark that ignores FAN_OPEN_EXEC_PERM."""
STARTS = 300
"""At least; until gate was seen to spare the program."""
SETTLED_S = 0.05
"""CTIME_SETTLE_NS, of the kernel's clock."""


@pytest.fixture
def disk() -> Iterator[World]:
    with loop_ext4() as where, world(where) as made:
        yield made


def ignores(disk: World) -> int:
    """How many files gate's group is not asked for."""
    found = 0
    for info in Path(f"/proc/{disk.gate_pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += info.read_text().count(IGNORED)
    return found


@contextlib.contextmanager
def loop(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program over and over, until one start fails; its status is 9 then."""
    words = " ".join(map(str, command))
    script = f"while :; do {words} /dev/null || exit 9; done"
    shell = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    try:
        yield shell
    finally:
        shell.kill()
        shell.wait(30)


def enforcing_with(disk: World, name: str = "good") -> Path:
    program = disk.program(name, allow=True)
    disk.enforcing()
    time.sleep(SETTLED_S)
    return program


def test_a_loop_is_not_asked_for_and_each_start_is_reported_once(disk: World) -> None:
    good = enforcing_with(disk)
    link = disk.connect("gate-facts.sock")
    before = disk.status()
    stop, seen = disk.state / "stop", [0]
    script = (
        f"i=0; while [ $i -lt {STARTS} ] || [ ! -e {stop} ];"
        f" do {good} /dev/null || exit 9; i=$((i+1)); done; echo $i"
    )

    def spared() -> bool:
        seen[0] = ignores(disk)
        return seen[0] > 0

    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
        try:
            wait_until(spared)
        finally:
            stop.touch()
        assert seen == [1]
        said, _ = shell.communicate(timeout=60)
        assert shell.returncode == 0
    starts = int(said)
    facts = disk.facts(link)
    verdicts = [f for f in facts if isinstance(f, ExecVerdict) and f.path_text() == str(good)]
    assert {(v.decision, v.reason, v.rule) for v in verdicts} == {("allow", "listed", "good")}
    assert {v.uid for v in verdicts} <= {0, 0xFFFFFFFF}
    pids = [v.pid for v in verdicts]
    assert len(pids) == len(set(pids)), "one start, two reports"
    status = disk.status()
    assert status.allowed - before.allowed == starts
    assert status.unreported == 0
    wait_until(lambda: ignores(disk) == 0)


def test_a_rule_taken_away_counts_while_the_loop_runs(disk: World) -> None:
    good = enforcing_with(disk)
    with loop(good) as shell:
        wait_until(lambda: ignores(disk) > 0)
        disk.rules.clear()
        disk.policy("observe")
        answer = disk.ask("reload")
        assert isinstance(answer, Answer)
        assert answer.ok
        with pytest.raises(PermissionError):
            os.posix_spawn(good, ["good", "/dev/null"], {})
        assert shell.wait(30) == 9
    assert ignores(disk) == 0


def overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def truncate(path: Path, content: bytes) -> None:
    os.truncate(path, len(content))
    overwrite(path, content)


def through_a_mapping(path: Path, content: bytes) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[: len(content)] = content


def changed(change: Callable[[Path, bytes], None], path: Path, content: bytes) -> bool:
    """Whether it could be written to: what runs just then has the kernel's own lock on it."""
    try:
        change(path, content)
    except OSError as fault:
        if fault.errno != errno.ETXTBSY:
            raise
        return False
    return True


@pytest.mark.parametrize("change", [overwrite, truncate, through_a_mapping])
def test_root_who_writes_waits_and_what_he_wrote_is_denied(
    disk: World, change: Callable[[Path, bytes], None]
) -> None:
    good = enforcing_with(disk)
    foreign = b"#!/bin/sh\necho foreign > " + str(disk.markers / "foreign").encode() + b"\n#"
    with loop(good) as shell:
        wait_until(lambda: ignores(disk) > 0)
        wait_until(lambda: changed(change, good, foreign))
        assert shell.wait(30) == 9
        for _ in range(20):
            with pytest.raises(PermissionError):
                os.posix_spawn(good, ["good"], {})
    assert not (disk.markers / "foreign").exists()


def test_another_file_under_the_same_name_is_judged(disk: World) -> None:
    good, evil = enforcing_with(disk), disk.program("evil", allow=False)
    with loop(good) as shell:
        wait_until(lambda: ignores(disk) > 0)
        evil.rename(good)
        assert disk.outcome([good]) == "denied"
        assert shell.wait(30) == 9


def test_a_writer_beside_the_loop_gets_nothing_started(disk: World) -> None:
    """The content changes and changes back as fast as a writer can; only the listed one may run."""
    good = enforcing_with(disk)
    listed = good.read_bytes()
    marker = disk.markers / "foreign"
    foreign = b"#!/bin/sh\necho foreign > " + str(marker).encode() + b"\n"
    end_mono = time.monotonic() + 3
    wrote = 0
    starts = f"while :; do {good} /dev/null; done"
    shell = subprocess.Popen(["sh", "-c", starts], stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() < end_mono or (wrote <= 10 and time.monotonic() < end_mono + 30):
            with contextlib.suppress(OSError):
                fd = os.open(good, os.O_WRONLY)
                os.pwrite(fd, foreign, 0)
                os.pwrite(fd, listed[: len(foreign)], 0)
                os.close(fd)
                wrote += 1
            time.sleep(0.03)
    finally:
        shell.kill()
        shell.wait(30)
    assert wrote > 10
    assert not marker.exists()
    assert disk.status().undecidable == 0


def test_what_others_may_write_to_is_asked_for_each_time(disk: World) -> None:
    good = disk.program("good", allow=True)
    os.chown(good, NOBODY, NOBODY)
    disk.enforcing()
    time.sleep(SETTLED_S)
    with loop(good):
        wait_until(lambda: disk.status().cached > 60)
        assert ignores(disk) == 0


def test_a_rule_with_a_subject_is_asked_each_time(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", uid=0)
    disk.enforcing()
    time.sleep(SETTLED_S)
    with loop(good):
        wait_until(lambda: disk.status().cached > 60)
        assert ignores(disk) == 0


def test_soon_after_the_last_start_nothing_is_left(disk: World) -> None:
    good = enforcing_with(disk)
    with loop(good):
        wait_until(lambda: ignores(disk) > 0)
    ended_mono = time.monotonic()
    wait_until(lambda: ignores(disk) == 0)
    took_s = time.monotonic() - ended_mono
    assert took_s < LINGER_S + QUIET_S + 0.5 + slack_s()
    overwrite(good, b"changed")
    assert disk.ask("quit")
    wait_until(disk.gate_is_gone)
    subprocess.run(["umount", disk.filesystem], check=True, timeout=30)


def test_gate_that_is_killed_leaves_no_mark(disk: World) -> None:
    good = enforcing_with(disk)
    with loop(good):
        wait_until(lambda: ignores(disk) > 0)
        os.kill(disk.gate_pid, signal.SIGKILL)
        wait_until(disk.gate_is_gone)
    evil = disk.program("evil", allow=False)
    disk.start_gate()
    assert disk.set_mode("enforce").ok
    assert disk.outcome([evil]) == "denied"
