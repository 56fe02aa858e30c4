"""While programs start one after the other gate sleeps in a read of their events, and misses
nothing else: gate/waiting.py's bell, on a real kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.exec_world import NOBODY, World, loop_ext4, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "fanotify-permission", "loop-mount")]

AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
PATIENCE_S = 2.0
"""Of guard, for a heartbeat."""
QUIET_S = 1.0
SWITCHES = 80
"""Of all of gate's threads in QUIET_S without a start: heartbeats, and what other processes of this
machine do. A thread that looks every 5 ms is at 200."""
LOOKS = 5
"""Of QUIET_S each, until one is quiet: what other processes do comes and goes, a poll does not."""


@pytest.fixture
def disk() -> Iterator[World]:
    """A program that gate is asked for at each start: its rule is for root."""
    with loop_ext4() as where, world(where) as made:
        made.program("good", allow=True)
        made.only_for("good", uid=0)
        yield made


@contextlib.contextmanager
def starts(program: Path) -> Iterator[list[int]]:
    """Programs start one after the other meanwhile; statuses of those that have ended."""
    found: list[int] = []
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            pid = os.posix_spawn(program, [program.name, "--version"], {}, file_actions=NO_OUTPUT)
            found.append(os.waitpid(pid, 0)[1])

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        wait_until(lambda: len(found) > 20)
        yield found
    finally:
        stop.set()
        thread.join(60)


NO_OUTPUT = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]


def threads(world: World) -> list[Path]:
    return list(Path(f"/proc/{world.gate_pid}/task").iterdir())


def sleeps_in_the_read(world: World) -> bool:
    return "fanotify_read" in Path(f"/proc/{world.gate_pid}/stack").read_text()


def switches(world: World) -> int:
    texts = []
    for thread in threads(world):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            texts.append((thread / "status").read_text())
    return sum(int(text.partition("\nvoluntary_ctxt_switches:\t")[2].split()[0]) for text in texts)


def test_it_sleeps_in_the_read_and_misses_nothing(disk: World) -> None:
    good, evil = disk.filesystem / "good", disk.program("evil", allow=False)
    disk.enforcing()
    gate_pid = disk.gate_pid
    with starts(good) as ended:
        wait_until(lambda: sleeps_in_the_read(disk))
        until_mono = time.monotonic() + PATIENCE_S + 1
        while time.monotonic() < until_mono:
            assert disk.outcome([evil]) == "denied"
            assert disk.outcome([*AS_NOBODY, good]) == "denied"
            assert disk.status().armed  # a request is answered
        before = len(ended)
        wait_until(lambda: len(ended) > before)
    assert set(ended) == {0}
    assert Path(f"/proc/{gate_pid}").exists()  # guard had its heartbeats
    assert disk.status().guard


def test_a_filesystem_that_is_mounted_meanwhile_is_marked(disk: World, tmp_path: Path) -> None:
    with private_tmpfs() as other:
        evil = other / "evil"
        evil.write_bytes(Path("/bin/touch").read_bytes() + b"\0evil\0")
        evil.chmod(0o755)
        disk.besides = [str(other)]
        disk.enforcing()
        assert disk.outcome([evil]) == "denied"
        subprocess.run(["mount", "--bind", other, tmp_path], check=True, timeout=30)
        try:
            with starts(disk.filesystem / "good"):
                subprocess.run(["umount", other], check=True, timeout=30)
                wait_until(lambda: disk.outcome([tmp_path / "evil"]) == "ran")
                subprocess.run(["mount", "--bind", tmp_path, other], check=True, timeout=30)
                wait_until(lambda: disk.outcome([evil]) == "denied")
        finally:
            subprocess.run(["umount", tmp_path], check=True, timeout=30)


def test_the_second_thread_rests_when_nothing_starts(disk: World) -> None:
    disk.enforcing()
    with starts(disk.filesystem / "good"):
        wait_until(lambda: sleeps_in_the_read(disk))
    time.sleep(QUIET_S)  # reports, leases, the end of being lively
    seen: list[int] = []
    while len(seen) < LOOKS and min(seen, default=SWITCHES + 1) > SWITCHES:
        before = switches(disk)
        time.sleep(QUIET_S)
        seen.append(switches(disk) - before)
    assert min(seen) <= SWITCHES, seen
    assert len(threads(disk)) >= 2


def test_it_ends_when_told_to(disk: World) -> None:
    disk.enforcing()
    with starts(disk.filesystem / "good"):
        wait_until(lambda: sleeps_in_the_read(disk))
        os.kill(disk.gate_pid, signal.SIGTERM)
        wait_until(disk.gate_is_gone)
