"""Who is let go after gate's death: who stands at a first instruction, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.stop.resume import stands_at_start, sweep
from tests.waiting import wait_until


@pytest.fixture
def proc_fd() -> Iterator[int]:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def is_stopped(pid: int) -> bool:
    return ") T " in Path(f"/proc/{pid}/stat").read_text()


def test_a_program_that_a_person_has_stopped_stays_stopped(proc_fd: int) -> None:
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as child:
        wait_until(lambda: "sleep" in os.readlink(f"/proc/{child.pid}/exe"))
        wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "S")
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(child.pid))
        assert not stands_at_start(proc_fd, str(child.pid))
        sweep(proc_fd)
        assert is_stopped(child.pid)
        child.kill()


def test_who_runs_or_is_gone_stands_nowhere(proc_fd: int) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not stands_at_start(proc_fd, str(child.pid))
        child.kill()
    assert not stands_at_start(proc_fd, str(child.pid))
    assert not stands_at_start(proc_fd, "self")
