"""The overload ladder: what moves it, how it comes back, and that it does not flap."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.judge.overload import (
    LIMITS,
    MAX_CALM_S,
    NEVER,
    Ladder,
    Limit,
    Mode,
    Step,
    told,
)
from edgewarden.judge.triage import classify
from edgewarden.wire.record import RecordClass

S = 1_000_000_000
LOOK_S = 2
CALM_S = 30.0
FULL = {"queue": 1.0}


def climb(ladder: Ladder, pressures: list[Mapping[str, float]], at_s: int = 0) -> list[Step]:
    """One look each LOOK_S; the steps."""
    steps = []
    for n, pressure in enumerate(pressures):
        step = ladder.look((at_s + n * LOOK_S) * S, pressure)
        if step is not None:
            steps.append(step)
    return steps


def test_one_look_is_chance_and_each_step_is_one() -> None:
    ladder = Ladder(CALM_S)
    assert climb(ladder, [FULL, {}, FULL, {}]) == []
    modes = [(s.previous, s.mode) for s in climb(ladder, [FULL] * 10)]
    assert modes == [
        (Mode.NORMAL, Mode.COALESCING),
        (Mode.COALESCING, Mode.SAMPLING),
        (Mode.SAMPLING, Mode.ESSENTIAL),
    ]


def test_a_step_says_why_and_since_when() -> None:
    ladder = Ladder(CALM_S)
    (first, second) = climb(ladder, [{"stalled_s": 5.0}] * 2 + [{"stalled_s": 9.0}] * 2)
    assert first.reason == "the disk has not answered for 5 s"
    assert (first.measure, first.began_ns) == ("stalled_s", 2 * S)
    assert (second.reason, second.began_ns) == ("the disk has not answered for 9 s", 2 * S)


@pytest.mark.parametrize("name", LIMITS)
def test_each_measure_moves_it_as_far_as_its_table_says(name: str) -> None:
    highest = sum(limit != NEVER for limit in LIMITS[name].enters)
    just_below = LIMITS[name].enters[0] * 0.999
    assert climb(Ladder(CALM_S), [{name: just_below}] * 10) == []
    assert len(climb(Ladder(CALM_S), [{name: 1e9}] * 10)) == highest


def test_limits_rise_and_what_keeps_is_less_than_what_enters() -> None:
    for limit in LIMITS.values():
        assert list(limit.enters) == sorted(limit.enters)
        assert 0 < limit.keeps < 1
        assert limit.asks(limit.enters[0]) >= Mode.COALESCING
    assert Limit((1, 2, 3), 0.5, "", "").asks(2, 0.5) is Mode.ESSENTIAL


def test_it_goes_back_by_one_step_when_it_was_calm() -> None:
    ladder = Ladder(CALM_S)
    climb(ladder, [FULL] * 4)
    steps = climb(ladder, [{}] * 60, 8)
    assert [s.mode for s in steps] == [Mode.SAMPLING, Mode.COALESCING, Mode.NORMAL]
    assert steps[-1].reason == "nothing has asked for coalescing for 30 s"
    assert (ladder.began_ns, ladder.reason) == (None, "")


def test_what_asks_to_stay_is_less_than_what_asks_to_enter() -> None:
    ladder = Ladder(CALM_S)
    climb(ladder, [{"spool_bulk": 0.9}] * 2)
    assert climb(ladder, [{"spool_bulk": 0.73}] * 600, 4) == []
    (step,) = climb(ladder, [{"spool_bulk": 0.71}] * 20, 2000)
    assert step.mode is Mode.NORMAL


def test_who_rises_again_soon_waits_twice_as_long() -> None:
    ladder, now_s, calm = Ladder(CALM_S), 0, []
    for _ in range(7):
        climb(ladder, [FULL] * 2, now_s)
        now_s += 4
        began_s = now_s - LOOK_S
        while ladder.mode is not Mode.NORMAL:
            ladder.look(now_s * S, {})
            now_s += LOOK_S
        calm.append(now_s - LOOK_S - began_s)
    assert calm == [30, 60, 120, 240, 480, 600, 600]
    now_s += int(MAX_CALM_S)
    ladder.look(now_s * S, {})
    climb(ladder, [FULL] * 2, now_s + LOOK_S)
    assert len(climb(ladder, [{}] * 16, now_s + 3 * LOOK_S)) == 1, "and is forgiven"


VALUES = st.dictionaries(
    st.sampled_from(sorted(LIMITS)),
    st.sampled_from([0.0, 0.4, 0.5, 0.71, 0.72, 0.9, 1.0, 1.5, 2.0, 5.0, 19.0, 61.0]),
    max_size=3,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VALUES, st.integers(1, 60)), max_size=40))
def test_whatever_presses_it_does_not_flap_and_comes_back(
    spells: list[tuple[dict[str, float], int]],
) -> None:
    ladder, looks = Ladder(CALM_S), [p for p, n in spells for _ in range(n)]
    steps: list[tuple[int, Step]] = []
    calm = [{}] * (3 * int(MAX_CALM_S) // LOOK_S + 4)
    for n, pressure in enumerate([*looks, *calm]):
        was = ladder.mode
        step = ladder.look(n * LOOK_S * S, pressure)
        assert (step is None) is (ladder.mode is was)
        if step is not None:
            assert abs(step.mode - step.previous) == 1
            steps.append((n * LOOK_S, step))
    assert ladder.mode is Mode.NORMAL
    falls = [at for at, step in steps if step.mode < step.previous]
    assert len(steps) == 2 * len(falls)
    assert all(b - a >= CALM_S for a, b in pairwise(falls))
    hours = (len(looks) + len(calm)) * LOOK_S / 3600
    assert len(falls) <= 18 + 18 * hours, "three falls each ten minutes at most, in the long run"


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40))
def test_pressure_that_comes_and_goes_is_not_followed(on: int, off: int) -> None:
    """Eight hours of it: at first 30 s of calm are enough, later 600."""
    ladder, falls = Ladder(CALM_S), 0
    for n in range(8 * 3600 // LOOK_S):
        step = ladder.look(n * LOOK_S * S, FULL if n % (on + off) < on else {})
        falls += step is not None and step.mode < step.previous
    assert falls <= 20


def test_a_step_is_a_fact_of_the_reporters_own_that_nothing_sheds() -> None:
    up = Step(Mode.NORMAL, Mode.COALESCING, "the queue is full", "queue", 5)
    event = told(up, {"readings_aggregated": 7}, 9)
    assert classify(event) is RecordClass.AUDIT
    assert event.detail["shed"] == {"readings_aggregated": 7}
    assert event.detail["since_mono_ns"] == 5
    assert (event.detail["mode"], event.detail["why"]) == ("coalescing", "the queue is full")
    last = Step(Mode.SAMPLING, Mode.ESSENTIAL, "the queue is full", "queue", 5)
    assert classify(told(last, {}, 9)) is RecordClass.ALARM
    down = Step(Mode.ESSENTIAL, Mode.SAMPLING, "calm", "", 5)
    assert classify(told(down, {}, 9)) is RecordClass.AUDIT
