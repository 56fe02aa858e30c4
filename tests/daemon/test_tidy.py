"""When link returns memory."""

from __future__ import annotations

from edgewarden.daemon.tidy import START_OVER_S, TIDY_S, Tidy

BEGAN_S = 5000


def done_until(last_s: int) -> list[tuple[int, str]]:
    """What is done, and when, if there is a look each two seconds."""
    done: list[str] = []
    told: list[tuple[int, str]] = []
    tidy = Tidy(BEGAN_S * 10**9, lambda: done.append("settle"), lambda: done.append("tidy"))
    for s in range(0, last_s + 1, 2):
        tidy.look((BEGAN_S + s) * 10**9)
        told += [(s, what) for what in done]
        done.clear()
    return told


def test_nothing_before_the_start_is_over() -> None:
    assert done_until(START_OVER_S - 2) == []


def test_the_start_is_over_once_and_then_each_minute_counts() -> None:
    first = START_OVER_S + TIDY_S
    assert done_until(first + TIDY_S) == [
        (START_OVER_S, "settle"), (first, "tidy"), (first + TIDY_S, "tidy"),
    ]  # fmt: skip
