"""The judge of sessions: each rule, the order of them, and one name in two places."""

from __future__ import annotations

import pytest

from edgewarden.downstream.lineage import MAX_DEVICES, Devices
from edgewarden.downstream.sessions import (
    MAX_HERE,
    OVERLAP_S,
    TURNS_S,
    Peer,
    Verdict,
    Whereabouts,
    judge,
)

S = 10**9
A, B = b"a" * 32, b"b" * 32
PRESS = Peer("press-1", A, "192.0.2.7")
NOBODY, ONE = Devices(), Devices().pinned("press-1", A, 1)
HELD = ONE.quarantined("press-1", "two places")
RESET = Devices(2, {"press-1": type(ONE.known["press-1"])(b"", 1)})
FULL = Devices(64, {f"d{i}": ONE.known["press-1"] for i in range(MAX_DEVICES)})
ALMOST = Devices(63, {f"d{i}": ONE.known["press-1"] for i in range(MAX_DEVICES - 1)})

TABLE: dict[str, tuple[Peer, Devices, set[str] | None, int, str, bool]] = {
    "first": (PRESS, NOBODY, None, 0, "", True),
    "again": (PRESS, ONE, None, 0, "", False),
    "listed": (PRESS, ONE, {"press-1"}, 0, "", False),
    "not listed": (PRESS, ONE, {"press-2"}, 0, "not_listed", False),
    "nobody is listed": (PRESS, NOBODY, set(), 0, "not_listed", False),
    "quarantined": (PRESS, HELD, None, 0, "quarantined", False),
    "quarantined and another key": (Peer("press-1", B, "x"), HELD, None, 0, "quarantined", False),
    "another key": (Peer("press-1", B, "x"), ONE, None, 0, "other_key", False),
    "another device with that key": (Peer("press-2", A, "x"), ONE, None, 0, "", True),
    "after a reset": (Peer("press-1", B, "x"), RESET, None, 0, "", True),
    "the last place": (PRESS, ALMOST, None, 0, "", True),
    "no place": (PRESS, FULL, None, 0, "too_many_devices", False),
    "no place and known": (Peer("d1", A, "x"), FULL, None, 0, "", False),
    "enough here": (PRESS, ONE, None, MAX_HERE - 1, "", False),
    "too many here": (PRESS, ONE, None, MAX_HERE, "too_many_here", False),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_new_session(name: str) -> None:
    peer, devices, listed, here, refusal, pin = TABLE[name]
    verdict = judge(peer, devices, listed, here)
    assert (verdict.refusal, verdict.pin) == (refusal, pin)
    assert bool(verdict.why) == bool(refusal)


def test_a_refusal_is_none_by_itself() -> None:
    assert Verdict() == Verdict("", "", False)


def test_whoever_moves_falls_silent_and_nothing_is_said() -> None:
    where = Whereabouts()
    assert where.begin(1, "p", "a", S) == ""
    assert where.spoke(1) == ""
    assert where.begin(2, "p", "b", 2 * S) == ""
    assert where.spoke(2) == ""
    assert where.together(2 * S + int(OVERLAP_S * S) - 1) == {}
    where.end(1)
    assert where.together(99 * S) == {}
    assert where.of("p") == [2]


def test_who_speaks_after_another_began_is_two() -> None:
    where = Whereabouts()
    where.begin(1, "p", "a", S)
    where.begin(2, "p", "b", 2 * S)
    assert where.spoke(1) == "it spoke from a while it was at b"


def test_two_sessions_of_one_place_are_one_device() -> None:
    where = Whereabouts()
    where.begin(1, "p", "a", S)
    where.begin(2, "p", "a", 2 * S)
    assert where.spoke(1) == ""
    assert where.together(99 * S) == {}


def test_two_devices_are_two() -> None:
    where = Whereabouts()
    where.begin(1, "p", "a", S)
    where.begin(2, "q", "b", 2 * S)
    assert where.spoke(1) == ""
    assert where.together(99 * S) == {}


def test_who_stands_in_two_places_is_two() -> None:
    where = Whereabouts()
    where.begin(1, "p", "a", S)
    where.begin(2, "p", "b", 2 * S)
    assert where.together(2 * S + int(OVERLAP_S * S)) == {"p": "it is at a and at b"}


def short(where: Whereabouts, place: str, at_s: float) -> str:
    said = where.begin(1, "p", place, int(at_s * S))
    where.end(1)
    return said


def test_who_takes_turns_is_two() -> None:
    where = Whereabouts()
    said = [short(where, place, 1 + i) for i, place in enumerate("abab")]
    assert said == ["", "", "", "it took turns between a and b"]


def test_a_move_and_back_is_one() -> None:
    where = Whereabouts()
    assert [short(where, place, 1 + i) for i, place in enumerate("aaabbaaa")] == [""] * 8


def test_slow_turns_are_moves() -> None:
    where = Whereabouts()
    assert [short(where, p, i * TURNS_S / 1.9) for i, p in enumerate("abababab")] == [""] * 8


def test_after_a_persons_word_turns_are_counted_anew() -> None:
    where = Whereabouts()
    for i, place in enumerate("aba"):
        short(where, place, 1 + i)
    where.forget("p")
    assert short(where, "b", 5) == ""
