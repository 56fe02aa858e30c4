"""Held at observe after two boots that did not become healthy: only a kept enforce lifts that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from edgewarden.lockout.boots import FILE_NAME
from edgewarden.lockout.records import Boots
from edgewarden.wire.local import Answer
from tests.system.exec_world import World, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission")
LAST_BOOT = "6f1a52a5-3b1f-4c59-9d9e-0d5b0f3f5a77"


@pytest.fixture
def held() -> Iterator[World]:
    """enforce was kept, two boots failed, this one observes."""
    with private_tmpfs() as where, world(where) as made:
        made.enforcing()
        end(made)
        boots = made.state / "policy" / FILE_NAME
        boots.write_bytes(Boots(1, LAST_BOOT, False).dump())
        boots.chmod(0o644)
        start(made)
        assert made.status().mode == "observe"
        yield made


def end(disk: World) -> None:
    """As a power cut ends it."""
    os.kill(disk.gate_pid, signal.SIGKILL)
    wait_until(disk.gate_is_gone)


def start(disk: World) -> None:
    disk.start_gate()
    wait_until(lambda: disk.status().guard)


def try_it(disk: World, confirm_s: int) -> None:
    answer = disk.ask("mode", "enforce", confirm_s)
    assert isinstance(answer, Answer)
    assert answer.ok, answer
    assert "observe again" in answer.text


def test_a_trial_that_nobody_confirmed_lifts_nothing(held: World) -> None:
    try_it(held, 1)
    wait_until(lambda: held.status().mode == "observe")
    end(held)
    start(held)
    assert held.status().mode == "observe"


def test_who_is_locked_out_by_a_trial_pulls_the_plug(held: World) -> None:
    try_it(held, 600)
    assert held.status().armed  # a trial of a second may be over by now
    end(held)
    start(held)
    assert held.status().mode == "observe"


def test_a_trial_that_was_confirmed_lifts_it(held: World) -> None:
    try_it(held, 600)
    assert held.status().armed
    answer = held.confirm()
    assert answer.ok, answer
    end(held)
    start(held)
    assert held.status().mode == "enforce"
