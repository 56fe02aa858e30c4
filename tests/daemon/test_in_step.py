"""Tasks with one period wake together, whenever each was started."""

from __future__ import annotations

import asyncio

from edgewarden.daemon.clock import in_step


class SteppedLoop(asyncio.SelectorEventLoop):
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


def wake_ups(sleep: object) -> list[float]:
    loop = SteppedLoop()

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
