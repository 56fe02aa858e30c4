"""Who may begin a handshake: each rule of the budget, and what a storm of strangers leaves."""

from __future__ import annotations

import pytest

from edgewarden.downstream.budget import (
    KNOWN_NS,
    KNOWN_OF_ONE,
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
        budget.done(source)
    if not refusal and good:
        budget.remember(f"device at {source}", source, now_ns)
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
    budget.done("a")
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


def test_sixty_devices_of_one_64_are_sixty_once_they_are_known() -> None:
    budget = Budget(Limits())
    homes = [f"2001:db8::{i:x}" for i in range(1, 61)]
    for i, home in enumerate(homes):
        budget.remember(f"d{i}", home, S)
    for _ in range(2):  # two silent strangers of their network hold its turns
        assert budget.admit(budget.source("2001:db8::dead:1", S), S) == ""
    assert budget.admit(budget.source("2001:db8::dead:2", S), S) == "source_busy"
    for i, home in enumerate(homes):
        source = budget.source(home, S + i * S // 10)
        assert source == home
        assert budget.admit(source, S + i * S // 10) == ""
        budget.done(source)


def test_strangers_of_one_64_share_a_turn() -> None:
    budget = Budget(Limits(handshakes=100, all_per_s=1000))
    found = [through(budget, budget.source(f"2001:db8::{i:x}", S), S) for i in range(1, 12)]
    assert found == [""] * 10 + ["source_rate"]
    assert budget.source("2001:db8::1", S) == "2001:db8::/64"


def test_a_device_of_many_addresses_has_no_other_forgotten() -> None:
    budget = Budget(Limits())
    budget.remember("press-1", "192.0.2.7", S)
    for i in range(2 * MAX_KNOWN):
        budget.remember("evil", f"2001:db8::{i:x}", S + i)
    assert budget.knows("192.0.2.7", S)
    assert len(budget._known) == 1 + KNOWN_OF_ONE
