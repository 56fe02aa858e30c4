"""The steps that link's loop walks in, so that a processor is woken once for all who look about.

Not in clock.py: the policy one-shot and the commands ask for the time, too, and have no loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")

STEP_S = 2.0
"""Of link's regular looks, whatever they look at: one wake-up serves all of them."""
LONG_S = 5.0
"""From here on nobody asks for a moment: silence of a port, a broker's answer, a keep-alive."""
ROUNDING = 1e-6
"""Of a step: who asks for a step and gets a number that floats may be so far behind it."""


def in_step(seconds: float) -> Awaitable[None]:
    """Sleep until the loop's clock is a multiple of ``seconds``: all who sleep so wake at once.

    Each wake-up costs a processor that rests its rest; half a dozen tasks with a period of STEP_S,
    or of a multiple, cost one in place of one each, and in link's own loop one timer.
    """
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    due_s = now_s - now_s % seconds + seconds
    if isinstance(loop, SteppedLoop):
        return loop.step(due_s)
    return asyncio.sleep(due_s - now_s)


class SteppedLoop(asyncio.SelectorEventLoop):
    """The loop of a process that rests between two steps: a long timer rings with a step.

    A timeout of ten seconds may as well be one of eleven; alone it would wake a processor. Never
    early, at most STEP_S late; what is shorter than LONG_S rings when it was asked to.
    """

    _steps: dict[float, list[asyncio.Future[None]]] | None = None

    def step(self, due_s: float) -> asyncio.Future[None]:
        """Done at ``due_s`` of this loop's time: who waits for one moment shares its timer."""
        if self._steps is None:
            self._steps = {}
        future: asyncio.Future[None] = self.create_future()
        waiting = self._steps.get(due_s)
        if waiting is None:
            self._steps[due_s] = [future]
            super().call_at(due_s, self._step, due_s)
        else:
            waiting.append(future)
        return future

    def _step(self, due_s: float) -> None:
        assert self._steps is not None
        for future in self._steps.pop(due_s):
            if not future.done():  # nor given up meanwhile
                future.set_result(None)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As the loop's own."""
        if when - self.time() >= LONG_S:
            when = max(when, math.ceil(when / STEP_S - ROUNDING) * STEP_S)
        return super().call_at(when, callback, *args, context=context)
