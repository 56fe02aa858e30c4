"""When a certificate is renewed: in its last third, spread, by a clock that may be anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.judge.renewal import BEHIND_S, Life, Why, due_at, judge

DAY_S = 86400.0
MADE = 1_800_000_000.0
LIFE = Life(MADE, MADE + 30 * DAY_S)
MOMENTS = st.floats(min_value=0, max_value=2 * MADE)
DEVICES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("now", "why", "due"),
    [
        (0.0, Why.CLOCK, False),
        (MADE - BEHIND_S - 1, Why.CLOCK, False),
        (MADE - BEHIND_S, Why.EARLY, False),
        (MADE + 16 * DAY_S, Why.EARLY, False),
        (MADE + 20 * DAY_S, Why.DUE, True),
        (MADE + 30 * DAY_S - 1, Why.DUE, True),
        (MADE + 30 * DAY_S, Why.ENDED, True),
        (MADE + 3650 * DAY_S, Why.ENDED, True),
    ],
)
def test_the_last_third_of_its_life(now: float, why: Why, due: bool) -> None:
    verdict = judge(LIFE, "gw-demo", now)
    assert (verdict.why, verdict.due) == (why, due)


def test_somebody_who_asks_is_not_kept_waiting_but_by_a_wrong_clock() -> None:
    assert judge(LIFE, "gw-demo", MADE + DAY_S, wanted=True).why is Why.WANTED
    assert judge(LIFE, "gw-demo", 0.0, wanted=True).why is Why.CLOCK
    assert judge(LIFE, "gw-demo", MADE + 29 * DAY_S, wanted=True).why is Why.DUE


@given(DEVICES)
def test_each_device_has_its_place_in_a_tenth(device: str) -> None:
    at = due_at(LIFE, device)
    assert MADE + 16.99 * DAY_S <= at <= MADE + 20.01 * DAY_S
    assert at == due_at(LIFE, device), "and keeps it"


def test_a_thousand_boards_of_one_day_are_spread_over_three() -> None:
    hours = [int((due_at(LIFE, f"gw-{n:04}") - MADE) // 3600) for n in range(1000)]
    assert max(hours.count(h) for h in set(hours)) < 40, "14 an hour are the mean"


@given(MOMENTS, DEVICES)
def test_once_due_it_stays_due(now: float, device: str) -> None:
    if judge(LIFE, device, now).due:
        assert judge(LIFE, device, now + 3600).due


@given(MOMENTS, MOMENTS, DEVICES)
def test_a_step_of_the_clock_loses_nothing(before: float, after: float, device: str) -> None:
    """Whatever was decided before, the decision after a step is that of the new time alone."""
    judge(LIFE, device, before)
    late = after >= LIFE.ends_utc_s
    assert judge(LIFE, device, after).due or not late


def test_the_timer_looks_every_hour_and_after_each_step_of_the_clock() -> None:
    """A step over the whole window of renewal is found when it happens, not an hour later."""
    unit = (
        (Path(__file__).parents[2] / "systemd" / "edgewarden-renew.timer").read_text().splitlines()
    )
    assert {"OnUnitActiveSec=1h", "OnClockChange=yes"} <= set(unit)
