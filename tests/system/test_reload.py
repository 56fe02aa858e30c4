"""What `policy compile` changes of gate's settings counts at once, as its rules do."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.wire.local import Answer
from tests.system.exec_world import World, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission")


@pytest.fixture
def disk() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


def compile_anew(disk: World) -> None:
    disk.policy("observe")
    answer = disk.ask("reload")
    assert isinstance(answer, Answer)
    assert answer.ok, answer


def script(disk: World) -> list[str | Path]:
    """A script that is not listed, handed to a shell that lies elsewhere."""
    path = disk.filesystem / "x.sh"
    path.write_text('touch "$1"\n')
    return ["/bin/sh", path]


def test_strict_begins_and_ends_with_the_settings(disk: World) -> None:
    """Who turns it off for an upgrade must not be denied the new libraries."""
    by_shell = script(disk)
    disk.enforcing()
    assert disk.outcome(by_shell) == "ran"
    disk.strict = True
    compile_anew(disk)
    assert disk.status().armed
    assert disk.outcome(by_shell) != "ran"
    disk.strict = False
    compile_anew(disk)
    assert disk.status().armed
    assert disk.outcome(by_shell) == "ran"
    assert disk.outcome([disk.program("bad", allow=False)]) == "denied"


def test_killing_after_the_start_begins_and_ends_with_the_settings(disk: World) -> None:
    disk.tier("T0", "no permission events")
    slow = disk.program("slow", allow=False, image="/bin/sleep")
    disk.kill_after_start = True
    disk.policy("observe")
    disk.start_guard()
    disk.start_gate()
    wait_until(lambda: disk.status().guard)
    assert disk.set_mode("enforce").ok
    for killed in (True, False, True):
        disk.kill_after_start = killed
        compile_anew(disk)
        done = subprocess.run([slow, "30" if killed else "0.2"], check=False, timeout=30)
        assert done.returncode == (-signal.SIGKILL if killed else 0)
