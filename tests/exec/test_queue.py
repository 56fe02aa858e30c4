"""Whose program is hashed next."""

from __future__ import annotations

import pytest

from edgewarden.exec.queue import OLDEST_EVERY, Queue


class Waits:
    """A program of ``left_bytes``, each slice takes one."""

    def __init__(self, asker: int, left_bytes: int) -> None:
        self.asker = asker
        self.left_bytes = left_bytes


def order(queue: Queue[Waits]) -> list[Waits]:
    """In which order they end."""
    done = []
    while queue:
        one = queue.next()
        one.left_bytes -= 1
        if one.left_bytes == 0:
            queue.remove(one)
            done.append(one)
    return done


def test_the_small_one_goes_before_the_large_ones() -> None:
    queue: Queue[Waits] = Queue()
    large = [Waits(0, 50) for _ in range(5)]
    small = Waits(0, 1)
    for one in (*large, small):
        queue.add(one)
    assert order(queue)[0] is small


def test_one_users_flood_of_small_ones_does_not_starve_another() -> None:
    queue: Queue[Waits] = Queue()
    for _ in range(100):
        queue.add(Waits(1, 1))
    theirs = Waits(2, 10)
    queue.add(theirs)
    assert order(queue).index(theirs) <= 20


def test_a_stream_of_small_ones_does_not_starve_the_large_one() -> None:
    queue: Queue[Waits] = Queue()
    large = Waits(0, 20)
    queue.add(large)
    slices = 0
    while large.left_bytes:
        slices += 1
        queue.add(Waits(0, 1))
        one = queue.next()
        one.left_bytes -= 1
        if one.left_bytes == 0:
            queue.remove(one)
    assert slices <= 20 * OLDEST_EVERY


def test_who_crowds_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewarden.exec.queue.PENDING_AT_MOST", 3)
    queue: Queue[Waits] = Queue()
    crowd = [Waits(1, 1), Waits(1, 7), Waits(1, 2)]
    for one in crowd:
        queue.add(one)
    assert queue.surplus() is None
    queue.add(Waits(2, 100))
    assert queue.surplus() is crowd[1], "the largest of who has the most, not the largest of all"
