"""The steps that link's loop walks in, so that a processor is woken once for all who look about.

Not in clock.py: the policy one-shot and the commands ask for the time, too, and have no loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")

STEP_S = 2.0
"""Of link's regular looks, whatever they look at: one wake-up serves all of them."""
LONG_S = 5.0
"""From here on nobody asks for a moment: silence of a port, a broker's answer, a keep-alive."""
ROUNDING = 1e-6
"""Of a step: who asks for a step and gets a number that floats may be so far behind it."""


async def in_step(seconds: float) -> None:
    """Sleep until the loop's clock is a multiple of ``seconds``: all who sleep so wake at once.

    Each wake-up costs a processor that rests its rest; half a dozen tasks with a period of STEP_S,
    or of a multiple, cost one in place of one each.
    """
    await asyncio.sleep(seconds - asyncio.get_running_loop().time() % seconds)


class SteppedLoop(asyncio.SelectorEventLoop):
    """The loop of a process that rests between two steps: a long timer rings with a step.

    A timeout of ten seconds may as well be one of eleven; alone it would wake a processor. Never
    early, at most STEP_S late; what is shorter than LONG_S rings when it was asked to.
    """

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
