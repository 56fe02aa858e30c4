"""Tasks with one period wake together, whenever each was started, and long timers with them."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.daemon.steps import LONG_S, STEP_S, SteppedLoop, in_step
from edgewarden.link.names import LOOK_S
from edgewarden.link.session import MISC_S
from edgewarden.record.intake import PHASE_NS


class CountedLoop(asyncio.SelectorEventLoop):
    """Time goes on only by what is waited for; each wait is one wake-up."""

    def __init__(self) -> None:
        self._now_s = 1000.37
        super().__init__()
        self.woken_at_s: list[float] = []
        self._selector.select = self._select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now_s

    def _select(self, timeout: float | None) -> list[object]:
        if timeout:
            self._now_s += timeout
            self.woken_at_s.append(self._now_s)
        return []


class CountedSteps(CountedLoop, SteppedLoop):
    """link's own loop, counted."""


def wake_ups(sleep: object) -> list[float]:
    loop = CountedLoop()

    async def task(after_s: float, period_s: float, times: int) -> None:
        await asyncio.sleep(after_s)
        for _ in range(times):
            await sleep(period_s)  # type: ignore[operator]

    async def all_of_them() -> None:
        await asyncio.gather(
            task(0.1, 1, 20), task(0.25, 1, 20), task(0.3, 2, 10), task(0.45, 1, 20)
        )

    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
    return loop.woken_at_s


def test_four_tasks_wake_once_a_second() -> None:
    woken = wake_ups(in_step)[4:]  # without the four starts
    assert all(abs(at - round(at)) < 1e-6 for at in woken)
    assert len(woken) <= 21


def test_without_it_each_wakes_for_itself() -> None:
    assert len(wake_ups(asyncio.sleep)[4:]) >= 60


def silence_is_watched(loop: CountedLoop) -> list[float]:
    """When a loop wakes up that has a step, and eight ports that may not be silent for 10 s."""

    async def port() -> None:
        for _ in range(5):
            await asyncio.wait_for(asyncio.sleep(9.7), 100)

    async def all_of_them() -> None:
        ports = [asyncio.create_task(port()) for _ in range(8)]
        while not all(one.done() for one in ports):
            await in_step(STEP_S)

    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
    return loop.woken_at_s


def test_long_timers_ring_with_a_step() -> None:
    assert all(at % STEP_S < 1e-6 for at in silence_is_watched(CountedSteps()))


def test_in_another_loop_they_ring_alone() -> None:
    assert any(at % STEP_S > 0.1 for at in silence_is_watched(CountedLoop()))


@given(after_s=st.floats(0, 1e6), now_s=st.floats(0, 1e9))
def test_no_timer_rings_early_and_a_short_one_not_late(after_s: float, now_s: float) -> None:
    loop = CountedSteps()
    try:
        loop._now_s = now_s
        asked_s = now_s + after_s
        rings_s = loop.call_at(asked_s, print).when()
    finally:
        loop.close()
    assert asked_s <= rings_s <= asked_s + STEP_S
    if asked_s - now_s < LONG_S:
        assert rings_s == asked_s


@given(step=st.integers(10, 10**6), behind_s=st.floats(0, 1e-6))
def test_who_asks_for_a_step_does_not_get_the_next(step: int, behind_s: float) -> None:
    """A sum of floats may be a hair behind it."""
    loop = CountedSteps()
    try:
        loop._now_s = step * STEP_S - 9.3
        rings_s = loop.call_at(step * STEP_S + behind_s, print).when()
    finally:
        loop.close()
    assert rings_s - step * STEP_S < 1e-5


def test_periods_are_multiples_of_the_step() -> None:
    """Another period is another wake-up for itself: one of a second doubled link's."""
    assert LOOK_S % STEP_S == MISC_S % STEP_S == 0
    assert PHASE_NS / 1e9 % STEP_S == STEP_S / 2, "both threads want the interpreter"


def test_who_sleeps_to_one_moment_shares_its_timer() -> None:
    loop = CountedSteps()
    woken: list[tuple[str, float]] = []

    async def task(name: str, period_s: float) -> None:
        await in_step(period_s)
        woken.append((name, loop.time()))

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(task(n, 2.0)) for n in ("a", "b", "c")]
        tasks += [asyncio.create_task(task(n, 10.0)) for n in ("given up", "long")]
        await asyncio.sleep(0)
        assert len(loop._scheduled) == 2  # type: ignore[attr-defined]
        tasks.pop(3).cancel()
        await asyncio.wait(tasks, timeout=60)

    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
    assert woken == [("a", 1002.0), ("b", 1002.0), ("c", 1002.0), ("long", 1010.0)]
