"""Where gate sleeps: who sleeps in a read of the group is woken by everything else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from edgewarden.gate import waiting as module
from edgewarden.gate.waiting import Bell, Waiting
from edgewarden.kernel.fanotify import Group, open_group
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission")

SOON_S = 0.02
NEVER_S = 180.0
LATE_S = 60.0
"""Within this whoever is woken is awake; a bell that does not ring is far behind it."""


@pytest.fixture
def group() -> Iterator[Group]:
    """A permission group without a mark: nobody waits for it."""
    made = open_group(permission=True)
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting(time.monotonic)
    assert made.bell.start()
    yield made
    made.close()


def sleep(waiting: Waiting, group: Group, for_s: float) -> float:
    """Sleep in a read as exec/quick.py does; how long it took."""
    began = time.monotonic()
    assert waiting.bell.may_sleep(group, began + for_s)
    try:
        while not waiting.bell.rung:
            group.read()
    finally:
        waiting.bell.wake(group)
    return time.monotonic() - began


def test_it_rings_when_something_else_is_ready(
    waiting: Waiting, group: Group, pipe: tuple[int, int]
) -> None:
    waiting.watch(pipe[0], lambda _: None)
    os.write(pipe[1], b"x")
    assert sleep(waiting, group, NEVER_S) < LATE_S
    assert waiting.poll(0.0, 8) == [(pipe[0], 1)]


def test_it_rings_when_something_is_due_and_not_before(waiting: Waiting, group: Group) -> None:
    took_s = sleep(waiting, group, SOON_S)
    assert SOON_S <= took_s < LATE_S


def test_what_is_due_earlier_than_was_said_counts(waiting: Waiting, group: Group) -> None:
    began = time.monotonic()
    assert waiting.bell.may_sleep(group, began + NEVER_S)
    time.sleep(SOON_S)  # the thread looks with the old word
    waiting.bell.due_mono = began
    while not waiting.bell.rung:
        group.read()
    waiting.bell.wake(group)
    assert time.monotonic() - began < LATE_S


def test_execs_are_no_reason_to_ring(waiting: Waiting, group: Group, pipe: tuple[int, int]) -> None:
    waiting.watch_execs(pipe[0], lambda _: None)
    os.write(pipe[1], b"x")
    assert sleep(waiting, group, SOON_S) >= SOON_S
    assert waiting.poll(0.0, 8) == [(pipe[0], 1)]


def test_what_is_forgotten_is_no_reason_to_ring(
    waiting: Waiting, group: Group, pipe: tuple[int, int]
) -> None:
    waiting.watch(pipe[0], lambda _: None)
    waiting.forget(pipe[0])
    waiting.forget(pipe[0])
    os.write(pipe[1], b"x")
    assert sleep(waiting, group, SOON_S) >= SOON_S


def test_no_ring_is_lost_however_sleep_and_thread_meet(
    waiting: Waiting, group: Group, pipe: tuple[int, int]
) -> None:
    waiting.watch(pipe[0], lambda _: None)
    os.write(pipe[1], b"x")
    assert max(sleep(waiting, group, NEVER_S) for _ in range(500)) < LATE_S


def test_reads_do_not_wait_after_the_sleep(waiting: Waiting, group: Group) -> None:
    sleep(waiting, group, 0.0)
    wait_until(lambda: group.read() == [])
    assert not os.get_blocking(group.fd)


def test_another_group_has_the_bell_too(waiting: Waiting, group: Group) -> None:
    sleep(waiting, group, 0.0)
    other = open_group(permission=True)
    try:
        assert sleep(waiting, other, SOON_S) < LATE_S
    finally:
        other.close()


def test_where_the_bell_is_not_heard_nobody_sleeps(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(time.monotonic)
    monkeypatch.setattr(module.Bell, "_ring", lambda self: None)
    assert not waiting.bell.start()
    assert not waiting.bell.may_sleep(group, time.monotonic() + NEVER_S)
    assert not os.get_blocking(group.fd)
    waiting.close()


def test_a_thread_that_ends_rings_once_more_and_nobody_sleeps_again(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = threading.Event()

    def fall(self: Bell) -> None:
        asleep.wait(NEVER_S)
        raise SystemExit  # ends a thread without a word

    monkeypatch.setattr(module.Bell, "_look", fall)
    waiting = Waiting(time.monotonic)
    assert waiting.bell.start()
    began = time.monotonic()
    assert waiting.bell.may_sleep(group, began + NEVER_S)
    asleep.set()  # not before: who asks a thread that has ended is told so, and does not sleep
    while not waiting.bell.rung:
        group.read()
    waiting.bell.wake(group)
    assert time.monotonic() - began < LATE_S
    assert not waiting.bell.may_sleep(group, time.monotonic() + NEVER_S)
    waiting.close()
