"""Range, rate and stuck: what alarms, and what never does."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgewarden.readings.channel import TOGETHER_S, Channel
from edgewarden.readings.limits import Limits, Rule
from tests.readings.series import SECOND, daily_temperature, door, gps_at_rest, kept_bytes, pressure

DAILY = Limits(low=-30, high=60, max_rate_per_s=0.1, stuck_s=3600)


def rules(channel: Channel, value: float | str | bool, now_ns: int) -> set[Rule]:
    return set(channel.judge(value, now_ns))


def test_thirty_honest_days_of_a_coarse_thermometer_alarm_nothing() -> None:
    channel = Channel(DAILY)
    assert not [1 for now_ns, v in daily_temperature(30) if channel.judge(v, now_ns)]


def test_a_gps_at_rest_for_a_day_alarms_nothing() -> None:
    channel = Channel(Limits(low=48, high=49, max_rate_per_s=0.001, stuck_s=600))
    assert not [1 for now_ns, v in gps_at_rest(86400) if channel.judge(v, now_ns)]


def test_a_noisy_transmitter_for_a_day_alarms_nothing() -> None:
    channel = Channel(Limits(low=950, high=1080, max_rate_per_s=5, stuck_s=60))
    values = enumerate(pressure(86400))
    assert not [1 for i, v in values if channel.judge(v, i * SECOND)]


def test_an_input_of_two_states_has_no_range_no_rate_and_no_waveform() -> None:
    channel = Channel(Limits(low=5, high=6, max_rate_per_s=0.1))
    assert not [1 for now_ns, v in door(86400) if channel.judge(v, now_ns)]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(60_000_000, 10**12)), max_size=60),
    st.floats(0.01, 1e3),
)
def test_an_honest_series_never_breaks_range_or_rate(
    steps: list[tuple[float, int]], most: float
) -> None:
    channel, value, now_ns = Channel(Limits(low=0, high=100, max_rate_per_s=most)), 50.0, 0
    for target, pause_ns in steps:
        now_ns += pause_ns
        reach = most * pause_ns / 1e9
        value = min(max(target, value - reach), value + reach)
        assert channel.judge(value, now_ns) == {}


@given(st.lists(st.integers(0, 900), min_size=3, max_size=60))
def test_a_value_that_comes_late_is_not_fast(lates_ms: list[int]) -> None:
    """A ramp of the fastest rate, once a second, every other arrival late by less than a second."""
    channel = Channel(Limits(max_rate_per_s=1.0))
    for i, late_ms in enumerate(lates_ms):
        late_ns = late_ms * 10**6 if i % 2 else 0
        assert channel.judge(float(i), i * SECOND + late_ns) == {}


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_outside_is_outside(value: float) -> None:
    inside = -5 <= value <= 5
    found = rules(Channel(Limits(low=-5, high=5)), value, 0)
    assert (Rule.RANGE not in found) is inside


@given(st.floats(2.1, 1e6))
def test_a_jump_of_more_than_two_intervals_is_seen(jump: float) -> None:
    channel = Channel(Limits(max_rate_per_s=1.0))
    assert not [1 for i in range(5) if channel.judge(0.0, i * SECOND)]
    assert rules(channel, jump, 5 * SECOND) == {Rule.RATE}


def test_a_slow_drift_beyond_the_rate_is_seen_at_its_third_value() -> None:
    channel = Channel(Limits(max_rate_per_s=1.0))
    found = [rules(channel, 1.2 * i, i * SECOND) for i in range(6)]
    assert found == [set(), {Rule.RATE}, *[{Rule.RATE}] * 4]


def test_many_values_of_one_read_are_one_arrival() -> None:
    """A stalled process reads five seconds at once: no value moved faster than it can."""
    channel = Channel(Limits(max_rate_per_s=1.0))
    assert not channel.judge(0.0, 0)
    assert not channel.judge(1.0, SECOND)
    assert not [1 for i in range(2, 7) if channel.judge(float(i), 6 * SECOND)]
    assert not channel.judge(7.0, 7 * SECOND)


@given(
    st.lists(
        st.tuples(st.floats(-20, 20), st.sampled_from([0, 10**6, 51 * 10**6, SECOND, 60 * SECOND])),
        min_size=2,
        max_size=80,
    )
)
@example([(0.0, 0), (-2.0, SECOND), (2.0, 0), (1.0, 0)])  # an alarm in the middle of an arrival
def test_between_alarms_no_pattern_of_arrivals_moves_further_than_the_rate_allows(
    steps: list[tuple[float, int]],
) -> None:
    """From any value: the limit by the time since, and by how long nothing had come before it, or
    before the first of those that arrived with it."""
    channel, now_ns, value = Channel(Limits(max_rate_per_s=1.0)), 0, 0.0
    together_ns = int(TOGETHER_S * 1e9)
    first_ns, late_ns, pause_ns = -together_ns, 0, 0
    seen: list[tuple[float, int, int]] = []
    for step, after_ns in steps:
        now_ns, value = now_ns + after_ns, value + step
        if now_ns - first_ns >= together_ns:
            first_ns, late_ns = now_ns, max(after_ns, together_ns)
        pause_ns = max(pause_ns, late_ns)
        if channel.judge(value, now_ns):
            seen.clear()
            pause_ns = late_ns
        for was, was_ns, was_late_ns in seen:
            assert abs(value - was) <= (now_ns - was_ns + was_late_ns) / 1e9 * 1.001 + 0.001
        seen.append((value, now_ns, pause_ns))


@pytest.mark.parametrize("every_ms", [0, 1, 10, 40, 49, 51])
def test_many_values_move_no_further_than_few(every_ms: int) -> None:
    """Fifty milliseconds' worth at each arrival was fifty times the limit for who sends a thousand
    values a second."""
    channel, now_ns = Channel(Limits(max_rate_per_s=1.0)), 10 * SECOND
    for i in range(10):
        assert not channel.judge(0.0, i * SECOND)
    value = 0.0
    for _ in range(1000):
        value, now_ns = value + 0.049, now_ns + every_ms * 10**6
        if channel.judge(value, now_ns):
            break
    assert value <= (now_ns / 1e9 - 9 + 1) * 1.01 + 0.05


@pytest.mark.parametrize("pause_s", [61, 3600, 86400])
def test_a_silence_is_no_evidence_that_a_value_does_not_move(pause_s: int) -> None:
    channel = Channel(Limits(stuck_s=60))
    assert not channel.judge(21.5, 0)
    assert not channel.judge(21.5, pause_s * SECOND)
    found = [bool(channel.judge(21.5, (pause_s + i) * SECOND)) for i in range(1, 60)]
    assert found == [i >= 45 for i in range(1, 60)]


def test_one_that_seldom_speaks_is_stuck_after_four_times_the_same() -> None:
    channel = Channel(Limits(stuck_s=60))
    found = [bool(channel.judge(21.5, i * 3600 * SECOND)) for i in range(6)]
    assert found == [False] * 4 + [True] * 2


@pytest.mark.parametrize("value", [21.5, True, "closed"])
def test_a_frozen_value_is_stuck_and_moves_again(value: float | str | bool) -> None:
    channel = Channel(Limits(stuck_s=60))
    found = [bool(channel.judge(value, i * SECOND)) for i in range(62)]
    assert found == [False] * 60 + [True] * 2
    assert not channel.judge("other", 62 * SECOND)


def test_a_channel_takes_at_most_4_kb_however_long_it_runs() -> None:
    channel = Channel(DAILY)
    for i, value in enumerate(pressure(20_000)):
        channel.judge(value, i * SECOND)
    assert kept_bytes(channel) <= 4096
