"""One device has one place: sessions and words in time, and whether they are two."""

from __future__ import annotations

import pytest

from edgewarden.downstream.places import DAY_S, MAX_PLACES, OVERLAP_S, SLOW, Whereabouts

S = 10**9

# A scene: (second, what, place). begin and end are of a session of that place, the last that began;
# says is a word in it, tick the clock. "!" = a session that begins and ends at once.
TABLE: dict[str, tuple[str, str]] = {
    "alone": ("0 begin a, 1 says a, 99 tick -", ""),
    "moves: the old one falls silent": (
        "0 begin a, 1 says a, 9 begin b, 9 says b, 20 end a, 99 tick -, 99 says b",
        "",
    ),
    "speaks after another began": ("0 begin a, 9 begin b, 10 says a", "it spoke from a"),
    "speaks after another came and went": (
        "0 begin a, 9 begin b, 10 end b, 600 says a",
        "it spoke from a",
    ),
    "stands after another came and went": ("0 begin a, 9 ! b, 24 tick -", "it is at a"),
    "stands, not long enough": ("0 begin a, 9 ! b, 23 tick -", ""),
    "stands beside the other": ("0 begin a, 9 begin b, 24 tick -", "it is at a"),
    "gone in time": ("0 begin a, 9 begin b, 20 end a, 99 tick -", ""),
    "two sessions of one place": ("0 begin a, 1 begin a, 2 says a, 99 tick -", ""),
    "the first other place counts": (
        "0 begin a, 9 ! b, 20 ! c, 24 tick -",
        "it is at a and came from b",
    ),
    "roams without a return": ("0 ! a, 60 ! b, 120 ! c, 180 ! d, 240 ! e", ""),
    "a move and back": ("0 ! a, 1 ! a, 60 ! b, 61 ! b, 120 ! a, 121 ! a", ""),
    "takes turns": ("0 ! a, 60 ! b, 120 ! a, 180 ! b", "it took turns between a and b"),
    "takes turns with several": ("0 ! a, 60 ! b, 120 ! a, 180 ! c, 240 ! a", "it took turns"),
    "two returns, far apart": ("0 ! a, 60 ! b, 700 ! a, 1300.1 ! b", ""),
    "two returns, just so": ("0 ! a, 60 ! b, 700 ! a, 1300 ! b", "it took turns"),
}


def play(where: Whereabouts, scene: str) -> str:
    """The first reason for a quarantine."""
    last: dict[str, int] = {}
    for step in scene.split(", "):
        at, what, place = step.split(" ")
        now_ns, said = int(float(at) * S), ""
        if what in ("begin", "!"):
            last[place] = max(last.values(), default=0) + 1
            said = where.begin(last[place], "p", place, now_ns)
        if what in ("end", "!"):
            where.end(last[place])
        if what == "says":
            said = where.spoke(last[place])
        said = said or (where.together(now_ns).get("p", "") if what == "tick" else "")
        if said:
            return said
    return ""


@pytest.mark.parametrize("name", TABLE)
def test_one_or_two(name: str) -> None:
    scene, wanted = TABLE[name]
    said = play(Whereabouts(), scene)
    assert said.startswith(wanted)
    assert bool(said) == bool(wanted)


def uses(count: int, every_s: float, others: str = "b") -> str:
    """A device of short sessions, and whoever comes between them."""
    steps = [
        f"{i * every_s} ! a, {(i + 0.5) * every_s} ! {others[i % len(others)]}"
        for i in range(count)
    ]
    return play(Whereabouts(), ", ".join(steps))


@pytest.mark.parametrize(
    ("count", "every_s", "others", "seen"),
    [
        (7, 1320.0, "b", True),  # a copy that is used every 22 min, as is the device
        (6, 1320.0, "b", False),
        (13, 3600.0, "bcdefghijklmn", True),  # from another address each time
        (12, 3600.0, "bcdefghijklmn", False),
        (60, 4.8 * 3600.0, "b", False),  # five uses a day: not told from a cart
    ],
)
def test_slow_turns(count: int, every_s: float, others: str, seen: bool) -> None:
    assert bool(uses(count, every_s, others)) == seen


def test_a_device_that_is_somewhere_else_each_day_may_come_back() -> None:
    days = ", ".join(f"{i * (DAY_S + 1)} ! {'ab'[i % 2]}" for i in range(60))
    assert play(Whereabouts(), days) == ""


def test_two_devices_are_two() -> None:
    where = Whereabouts()
    where.begin(1, "p", "a", S)
    where.begin(2, "q", "b", 2 * S)
    assert where.spoke(1) == ""
    assert where.together(99 * S) == {}
    assert where.of("q") == [2]


def test_after_a_persons_word_turns_are_counted_anew() -> None:
    where = Whereabouts()
    assert play(where, "0 ! a, 1 ! b, 2 ! a") == ""
    where.forget("p")
    assert play(where, "3 ! b") == ""


def test_a_hundred_thousand_sessions_take_no_more_memory_than_a_few() -> None:
    where = Whereabouts()
    where.begin(0, "p", "home", 0)
    for i in range(100_000):
        where.begin(1, "p", f"place {i}", i)
        where.end(1)
    track = where.tracks["p"]
    assert (len(track.left), len(where.sessions)) == (MAX_PLACES, 1)
    assert "home" in track.left
    assert track.returns.maxlen == SLOW
    assert where.together(int(OVERLAP_S * S)) == {"p": "it is at home and came from place 0"}
