"""Questions that may never be answered: what one of them, or all of one user's, may cost others.

The caller counts the ticks that it waited, not the time: a machine that stands still takes both
sides. What one thread alone may be kept from running is the patience.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edgewarden.inventory.patient import MOST_STUCK, TICKS, WAITS, Patient
from tests.waiting import wait_until

PATIENCE_S = 1.0
SHORT_S = 0.1
"""For who is never answered."""


class World:
    """Names that answer after a while, or not before the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.patient = Patient(self.work, PATIENCE_S)

    def work(self, name: str) -> str:
        if name.startswith("slow"):
            self.over.wait(PATIENCE_S * 0.4)
        elif name.startswith("quick"):
            self.over.wait(PATIENCE_S / 50)
        elif name.startswith("never"):
            self.over.wait(600)
        return name.upper()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.over.set()
    made.patient.close()


def owner(name: str) -> str:
    return name.partition("-")[2] or name


def test_many_that_answer_are_not_silent_because_they_are_many(world: World) -> None:
    """Together they take longer than one may."""
    names = [f"quick{n}" for n in range(75)]
    assert world.patient.ask(names) == {name: name.upper() for name in names}
    assert world.patient.stuck == {}


def test_the_caller_waits_for_so_long_and_no_longer(world: World) -> None:
    answers = world.patient.ask([f"slow{n}" for n in range(1000)])
    assert 2 < len(answers) < 200, "all of them take six minutes and a half"
    assert world.patient.waited_s == pytest.approx(WAITS * PATIENCE_S)
    assert len(world.patient.stuck) <= 1, "the one that is being asked"


def test_one_owner_who_never_answers_hides_nobody_else(world: World) -> None:
    names = [name for n in range(6) for name in (f"never{n}-mallory", f"now{n}-alice")]
    answers = world.patient.ask(names, owner)
    assert set(answers) == {f"now{n}-alice" for n in range(6)}
    assert set(world.patient.stuck.values()) == {"mallory"}
    assert len(world.patient.stuck) == 2
    assert world.patient.ask(["now9-alice", "now9-mallory"], owner) == {"now9-alice": "NOW9-ALICE"}


def test_one_owner_who_answers_just_in_time_hides_nobody_else(world: World) -> None:
    names = [*(f"slow{n}-mallory" for n in range(50)), *(f"now{n}-alice" for n in range(50))]
    answers = world.patient.ask(names, owner)
    assert {name for name in answers if name.endswith("alice")} == {
        f"now{n}-alice" for n in range(50)
    }
    assert len(answers) < 50 + WAITS * TICKS


def test_with_too_many_left_behind_nothing_is_asked_until_one_comes_back(world: World) -> None:
    world.patient = Patient(world.work, SHORT_S)
    for number in range(MOST_STUCK):
        world.patient.ask([f"never{number}"])
    assert world.patient.exhausted
    assert world.patient.ask(["now"]) == {}
    world.over.set()
    wait_until(lambda: not world.patient.stuck)
    world.patient._tick_s = PATIENCE_S / TICKS
    assert world.patient.ask(["now"]) == {"now": "NOW"}
