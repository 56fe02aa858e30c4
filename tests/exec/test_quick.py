"""Sleeping in the read: what ends it, what is handed on, and no fault of a read is swallowed."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgewarden.exec import quick as module
from edgewarden.exec.digest import Known
from edgewarden.exec.judged import Counters
from edgewarden.exec.quick import LIVELY_S, Quick
from edgewarden.exec.reports import REPORT_AFTER_S, REPORTS_AT_MOST
from edgewarden.judge.exec_rules import Rule
from edgewarden.kernel.fanotify import FAN_MODIFY, FAN_OPEN_EXEC_PERM, USUAL_RECORD, usual_head

GROUP_FD, DUE = 99, 10.0
RINGS = struct.pack("=IBBHQii", 24, 3, 0, 24, FAN_MODIFY, -1, 0)


def start(fd: int) -> bytes:
    """An exec event, as the kernel writes it."""
    return usual_head(FAN_OPEN_EXEC_PERM) + struct.pack("=ii", fd, 7) + USUAL_RECORD + b"\0\0\0\0"


class Kernel:
    """What reads of the group give, one after the other; the bell has rung when that is all."""

    def __init__(self, *gives: bytes | int) -> None:
        self.gives = list(gives)
        self.due_mono, self.rung, self.asleep, self.slept = 0.0, False, False, 0

    def read(self, fd: int, most: int) -> bytes:
        assert (fd, self.asleep) == (GROUP_FD, True), "read while it does not wait"
        given = self.gives.pop(0) if self.gives else RINGS
        self.rung = not self.gives
        if isinstance(given, int):
            raise OSError(given, "read")
        return given

    def may_sleep(self, group: object, due_mono: float) -> bool:
        self.due_mono, self.rung, self.asleep = due_mono, False, True
        self.slept += 1
        return True

    def wake(self, group: object) -> None:
        self.asleep = False


Serve = Callable[[Kernel], list[tuple[int, int]]]


class Bench:
    """A Quick that answers what it is told to, and where it sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_mono, self.step_s = 1.0, 0.001
        self.answered: list[int] = []
        self.foreign: set[int] = set()
        self.known, self.counters = Known(bytes(32)), Counters()
        self.rule, self.status = Rule("r", True, (), (), ()), os.stat("/")
        nothing = cast(Any, SimpleNamespace(known_by_key=None, catch_up=None))
        self.quick = Quick(
            judge=cast(Any, None), digests=nothing, subjects=nothing, counters=self.counters,
            mono_s=lambda: self.now_mono, boot_ns=lambda: 0,
        )  # fmt: skip
        self.quick._answer = self.answer
        self.patch = monkeypatch

    def answer(self, group_fd: int, fd: int, pid: int, pidfd: int) -> float | None:
        self.now_mono += self.step_s
        self.answered.append(fd)
        if fd in self.foreign:
            return None
        done = (fd, pid, pidfd, self.known, self.rule, 0, self.status, self.now_mono)
        self.quick._done.append(done)
        return self.now_mono

    def serve(self, kernel: Kernel, *, lively: bool = True) -> list[tuple[int, int]]:
        self.quick._lively_mono = self.now_mono + LIVELY_S if lively else 0.0
        self.patch.setattr(module, "read", kernel.read)
        waiting = SimpleNamespace(bell=kernel, poll=self.poll)
        return self.quick.serve_until(
            cast(Any, waiting), cast(Any, SimpleNamespace(fd=GROUP_FD)), DUE
        )

    def poll(self, wait_s: float, most: int) -> list[tuple[int, int]]:
        return [(5, 1)]  # somebody else has something


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_starts_are_answered_until_the_bell_has_rung(bench: Bench) -> None:
    kernel = Kernel(start(3), start(4), start(5))
    assert bench.serve(kernel) == [(5, 1)]
    assert bench.answered == [3, 4, 5]
    assert not kernel.asleep, "reads wait no more"


def test_when_nothing_started_for_a_while_it_sleeps_elsewhere(bench: Bench) -> None:
    kernel = Kernel(start(3))
    assert bench.serve(kernel, lively=False) == [(5, 1)]
    assert (kernel.slept, bench.answered) == (0, [])


def test_what_cannot_be_answered_in_passing_is_handed_on_once(bench: Bench) -> None:
    bench.foreign.add(4)
    kernel = Kernel(start(3), start(4), start(5))
    assert bench.serve(kernel) == [(GROUP_FD, 1)]
    assert bench.answered == [3, 4], "each was asked for once"
    assert [(e.fd, e.pid, e.mask) for e in bench.quick.left] == [(4, 7, FAN_OPEN_EXEC_PERM)]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EBADF])
def test_a_read_that_fails_of_us_is_not_swallowed(bench: Bench, number: int) -> None:
    """The event is gone with it: whoever waited was denied, and that must be said."""
    kernel = Kernel(start(3), number, start(4))
    assert bench.serve(kernel) == [(GROUP_FD, 1)]
    assert bench.quick.broken is not None
    assert bench.answered == [3]


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EWOULDBLOCK])
def test_a_read_that_fails_of_one_file_costs_no_other(bench: Bench, number: int) -> None:
    kernel = Kernel(number, start(4))
    assert bench.serve(kernel) == [(5, 1)]
    assert (bench.answered, bench.quick.broken) == ([4], None)


def test_it_stays_lively_and_wakes_up_when_the_first_report_is_due(bench: Bench) -> None:
    kernel = Kernel(start(3), start(4))
    assert bench.serve(kernel) == [(5, 1)]
    assert bench.quick._lively_mono == pytest.approx(1.002 + LIVELY_S), "since the last answer"
    assert kernel.due_mono == pytest.approx(1.001 + REPORT_AFTER_S), "since the first"
    assert bench.quick.since_mono == pytest.approx(1.001)


def test_what_is_due_ends_the_sleep_also_where_nobody_rings(bench: Bench) -> None:
    starts = [start(3 + i) for i in range(100)]
    kernel = Kernel(*starts)
    bench.serve(kernel)
    took_s = bench.now_mono - bench.quick._done[0][-1]
    assert REPORT_AFTER_S <= took_s + 1e-6 <= REPORT_AFTER_S + 0.002


def test_many_reports_end_the_sleep(bench: Bench) -> None:
    bench.step_s = 1e-6
    bench.serve(Kernel(*[start(3 + i) for i in range(2 * REPORTS_AT_MOST)]))
    assert len(bench.answered) == REPORTS_AT_MOST


def counts(bench: Bench) -> tuple[int, int, int]:
    return bench.counters.cached, bench.counters.allowed, bench.known.starting


def test_what_was_answered_is_counted_once_whoever_asks_first(bench: Bench) -> None:
    bench.serve(Kernel(start(3), start(4)))
    assert counts(bench) == (0, 0, 0), "not between two answers"
    for _ in range(2):
        bench.quick.settle()
        assert counts(bench) == (2, 2, 2)
    assert bench.known.used_mono == pytest.approx(1.002)
    bench.answer(GROUP_FD, 5, 7, -1)
    assert [one.event.fd for one in bench.quick.take("enforce")] == [3, 4, 5]
    assert counts(bench) == (3, 3, 3)
    bench.answer(GROUP_FD, 6, 7, -1)
    bench.quick.settle()
    assert counts(bench) == (4, 4, 4)
