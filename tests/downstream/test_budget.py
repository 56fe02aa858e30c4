"""Who may begin a handshake: each rule of the budget, and what a storm of strangers leaves."""

from __future__ import annotations

import pytest

from edgewarden.downstream.budget import (
    KNOWN_NS,
    MAX_KNOWN,
    MAX_SOURCES,
    Bucket,
    Budget,
    Limits,
    place_of,
    source_of,
)

S = 10**9
LIMITS = Limits(sessions=4, handshakes=4, per_source=2, per_minute=60, burst=3, all_per_s=5)


def through(budget: Budget, source: str, now_ns: int, good: bool = False) -> str:
    refusal = budget.admit(source, now_ns)
    if not refusal:
        budget.done(source, now_ns, good)
    return refusal


def test_sessions_that_stand_are_bounded() -> None:
    budget = Budget(LIMITS)
    budget.sessions = 3
    assert budget.admit("a", S) == ""
    budget.sessions = 4
    assert budget.admit("b", S) == "too_many_sessions"
    assert budget.refused == {"too_many_sessions": 1}


def test_handshakes_of_one_source_at_a_time() -> None:
    budget = Budget(Limits(handshakes=100, per_source=2))
    assert [budget.admit("a", S) for _ in range(3)] == ["", "", "source_busy"]
    assert budget.admit("b", S) == ""
    budget.done("a", S, False)
    assert budget.admit("a", S) == ""


def test_handshakes_of_one_source_over_time() -> None:
    budget = Budget(LIMITS)
    assert [through(budget, "a", S) for _ in range(4)] == ["", "", "", "source_rate"]
    assert through(budget, "b", S) == ""
    assert [through(budget, "a", 2 * S) for _ in range(2)] == ["", "source_rate"]


def test_strangers_have_half_of_the_slots() -> None:
    budget = Budget(LIMITS)
    assert through(budget, "friend", S, good=True) == ""
    assert [budget.admit(f"s{i}", S) for i in range(3)] == ["", "", "busy"]
    assert [budget.admit("friend", S) for _ in range(2)] == ["", ""]
    budget = Budget(Limits(handshakes=2, per_source=9, burst=9))
    assert through(budget, "friend", S, good=True) == ""
    assert [budget.admit("friend", S) for _ in range(3)] == ["", "", "busy"]


def test_strangers_have_a_rate_of_their_own() -> None:
    budget = Budget(LIMITS)
    assert through(budget, "friend", S, good=True) == ""
    assert [through(budget, f"s{i}", S) for i in range(5)] == ["", "", "", "", "rate"]
    assert through(budget, "friend", S) == ""
    assert through(budget, "s9", S + S // 5) == ""


def test_a_friend_is_one_for_a_day() -> None:
    budget = Budget(LIMITS)
    through(budget, "friend", S, good=True)
    through(budget, "stranger", S, good=False)
    assert budget.knows("friend", S + KNOWN_NS - 1)
    assert not budget.knows("friend", S + KNOWN_NS)
    assert not budget.knows("stranger", S)


def test_100000_sources_take_no_more_memory_than_there_is_for_them() -> None:
    budget = Budget(Limits(all_per_s=10**9))
    for i in range(100_000):
        through(budget, str(i), i * 1000, good=True)
    assert len(budget._sources) == MAX_SOURCES
    assert len(budget._known) == MAX_KNOWN
    assert not budget._busy


def test_a_bucket_fills_no_further_than_its_burst_and_never_by_a_clock_that_went_back() -> None:
    bucket = Bucket(1, 2, S)
    assert bucket.has(100 * S, 2)
    assert not bucket.has(100 * S, 3)
    bucket.take(2)
    assert not bucket.has(50 * S)


@pytest.mark.parametrize(
    ("address", "source", "place"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6"),
        ("fe80::1%eth0", "fe80::/64", "fe80::1"),
    ],
)
def test_a_source_is_an_address_or_a_64(address: str, source: str, place: str) -> None:
    assert source_of(address) == source
    assert place_of(address) == place
