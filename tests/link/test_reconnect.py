"""Delays between connections, on a simulated clock."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from edgewarden.link.reconnect import STABLE_S, TRUST_STRETCH, Reconnect

BASE_S, CAP_S, SPREAD_S = 1.0, 120.0, 10.0


def low(a: float, b: float) -> float:
    return a


def high(a: float, b: float) -> float:
    return b


def made(uniform: object = low) -> Reconnect:
    return Reconnect(BASE_S, CAP_S, SPREAD_S, uniform)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "earliest_s", "latest_s"),
    [(1, 1, 2), (2, 1, 3), (3, 1, 5), (7, 1, 65), (8, 1, 121), (9, 1, 121), (5000, 1, 121)],
)
def test_the_window_grows_to_the_cap(failures: int, earliest_s: float, latest_s: float) -> None:
    for uniform, expected in ((low, earliest_s), (high, latest_s)):
        reconnect = made(uniform)
        delays = [reconnect.failed() for _ in range(failures)]
        assert delays[-1] == expected


def test_the_first_try_is_spread() -> None:
    assert (made(low).first(), made(high).first()) == (0.0, SPREAD_S)


@pytest.mark.parametrize(
    ("lasted_s", "accepted", "starts_again"),
    [
        (0.1, False, False),
        (STABLE_S - 0.1, False, False),
        (STABLE_S, False, True),
        (0.1, True, True),
        (3600, True, True),
    ],
)
def test_only_a_session_that_proved_itself_starts_the_count_again(
    lasted_s: float, accepted: bool, starts_again: bool
) -> None:
    reconnect = made(high)
    for _ in range(5):
        reconnect.failed()
    delay = reconnect.ended(lasted_s, accepted)
    assert delay == (2.0 if starts_again else 33.0)


def test_a_trust_failure_is_looked_at_slowly_and_does_not_count() -> None:
    assert made(low).distrusted() == CAP_S
    reconnect = made(high)
    assert [reconnect.distrusted() for _ in range(3)] == [TRUST_STRETCH * CAP_S] * 3
    assert reconnect.failed() == 2.0


def test_a04_a_broker_that_accepts_and_kicks_is_never_met_faster_than_base() -> None:
    chance = random.Random(1)
    reconnect = made(chance.uniform)
    now_s, connects = 0.0, []
    while now_s < 3600:
        connects.append(now_s)
        now_s += reconnect.ended(lasted_s=0.0, accepted=False)
    gaps = [b - a for a, b in pairwise(connects)]
    assert min(gaps) >= BASE_S
    assert len(connects) < 3600 / 30, "and soon much slower than that"


def test_a04_two_hundred_agents_come_back_spread_over_the_window() -> None:
    """All lost the broker for an hour; it returns. At start they are spread evenly."""
    chance = random.Random(2)
    returns_s = 3600.0
    waits = []
    for _ in range(200):
        reconnect, now_s = made(chance.uniform), 0.0
        while now_s < returns_s:
            now_s += reconnect.failed()
        waits.append(now_s - returns_s)
    # The residual of a uniform delay is what is seen from a fixed moment: fewer late, none beyond.
    assert max(waits) <= BASE_S + CAP_S
    assert sum(w < 10 for w in waits) < 60, "no wave in the first ten seconds"
    first = [made(chance.uniform).first() for _ in range(200)]
    assert _ks(first, SPREAD_S) < 1.36 / 200**0.5, "95 % bound"


AGENTS = 200
CERTAIN = 1.95 / AGENTS**0.5
"""Kolmogorov-Smirnov: a uniform sample is further away once in a thousand."""


@pytest.mark.parametrize("failures", range(1, 11))
def test_a04_agents_that_fail_together_do_not_stay_together(failures: int) -> None:
    chance = random.Random(failures)
    agents = [made(chance.uniform) for _ in range(AGENTS)]
    for _ in range(failures):
        delays = [a.failed() for a in agents]
    window_s = min(CAP_S, BASE_S * 2.0 ** (failures - 1))
    assert _ks([d - BASE_S for d in delays], window_s) < CERTAIN


def test_a04_a_restarted_broker_is_met_evenly_over_the_window() -> None:
    """Every session had its PUBACKs and ends at one moment; the broker is back at once."""
    chance = random.Random(4)
    agents = [made(chance.uniform) for _ in range(AGENTS)]
    for agent in agents:
        agent.failed()  # something failed before this session; its PUBACK makes up for it
    delays = [a.ended(lasted_s=5.0, accepted=True) for a in agents]
    assert min(delays) >= BASE_S
    assert _ks([d - BASE_S for d in delays], BASE_S) < CERTAIN


def test_a04_the_measure_sees_a_wave() -> None:
    """Negative control: no jitter, half of the window, and equal jitter are all found out."""
    chance = random.Random(5)
    waves = [
        [CAP_S / 2] * AGENTS,
        [chance.uniform(0, CAP_S / 2) for _ in range(AGENTS)],
        [chance.uniform(CAP_S / 2, CAP_S) for _ in range(AGENTS)],
    ]
    assert all(_ks(wave, CAP_S) > 2 * CERTAIN for wave in waves)


def _ks(sample: list[float], upto: float) -> float:
    """Largest distance of the empirical distribution from uniform on [0, upto]."""
    ordered, n = sorted(x / upto for x in sample), len(sample)
    return max(max(x - i / n, (i + 1) / n - x) for i, x in enumerate(ordered))
