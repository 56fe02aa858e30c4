"""A filesystem that turns read-only under a running link: records go on from memory, and come back.

Real: an ext4 that stops itself, as it does on an error of its own; link as a process; broker and
fleet. Nobody touches link: it must let go of the filesystem, so that it can be unmounted, checked
and mounted, and then go on there by itself.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.record import reader
from edgewarden.wire.record import RecordClass
from tests.system import loopfs
from tests.system.worlds import IMAGE_MB, WAIT_S, World, world_on
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount", "mosquitto")

FEW = 2
"""Records made while the fleet sleeps: health's, every five seconds."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with loopfs.made(tmp_path / "disk", IMAGE_MB) as disk, world_on(disk, tmp_path) as made:
        made.start()
        yield made


def test_a09_it_turns_read_only_and_comes_back(world: World) -> None:
    world.disk.stop_itself()
    world.await_mode("memory")
    assert "EW-SPL-010" in world.codes()
    wait_until(lambda: "EW-SPL-010" in world.stage.findings(), WAIT_S)
    assert world.memory()[1]
    before = world.memory()[0]
    wait_until(lambda: world.memory()[0] > before, WAIT_S)  # readings too go on

    world.disk.unmount()  # fails while link holds a file of it
    world.disk.mount()
    world.await_mode("disk")
    wait_until(lambda: not world.memory()[1], WAIT_S)
    wait_until(world.settled, WAIT_S)
    world.no_second_history()
    assert not {"memory_gap", "memory_cut"} & world.stage.findings()
    assert "EW-SPL-010" not in world.codes()


def test_a09_power_cut_while_in_memory_and_a_start_on_what_is_read_only(world: World) -> None:
    world.disk.stop_itself()
    wait_until(lambda: world.memory()[0] > 2, WAIT_S)
    world.card.end(signal.SIGKILL)
    world.disk.unmount()
    world.disk.mount()
    world.disk.remount("ro")
    durable = {c: s.durable for c, s in reader.stat(world.disk.root).items()}
    before = world.memory()[0]
    world.card.start()
    world.await_mode("memory")
    wait_until(lambda: world.memory()[0] > before, WAIT_S)

    world.disk.remount("rw")
    world.await_mode("disk")
    wait_until(lambda: "memory_cut" in world.stage.findings(), WAIT_S)
    wait_until(lambda: not world.memory()[1], WAIT_S)
    wait_until(world.settled, WAIT_S)
    after = reader.stat(world.disk.root)
    assert all(after[c].durable > durable[c] for c in (RecordClass.ALARM, RecordClass.AUDIT))
    world.no_second_history()


@contextlib.contextmanager
def asleep(process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    """A process that does nothing for a while."""
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("word", ["broker", "verifier"])
def test_whose_word_lets_go_of_what_is_in_memory(tmp_path: Path, word: str) -> None:
    """The broker acknowledges everything while the fleet sleeps; the first is the control."""
    with (
        loopfs.made(tmp_path / "disk", IMAGE_MB) as disk,
        world_on(disk, tmp_path, word, acknowledge=True) as world,
    ):
        world.start()
        disk.stop_itself()
        world.await_mode("memory")
        wait_until(lambda: world.memory()[0] > 0, WAIT_S)
        with asleep(world.stage.fleet.server):
            before = world.waiting()[0]
            wait_until(lambda: world.waiting()[0] >= before + FEW, WAIT_S)
            if word == "verifier":
                assert world.waiting()[1] >= FEW, "a PUBACK let go of records in memory"
            else:
                wait_until(lambda: world.waiting()[1] == 0, WAIT_S)
        wait_until(lambda: world.waiting()[1] == 0, WAIT_S)
        disk.unmount()
        disk.mount()
        world.await_mode("disk")
        wait_until(lambda: not world.memory()[1], WAIT_S)
        wait_until(world.settled, WAIT_S)
        world.no_second_history()
        assert not {"memory_gap", "memory_cut"} & world.stage.findings()
