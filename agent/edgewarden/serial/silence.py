"""When a port has been silent for too long, asked of one timer that good frames do not touch.

A frame only leaves its time here. The timer rings no earlier than ``silent_s`` after the last one
that it knew of, looks how old the last one is by then, and goes on from there without waking
anybody. So eight ports that speak cost eight short looks each ten seconds, and no task runs.

Decides when silence is over the limit. Leaves to serialport.py what comes of it. On the loop's
thread.

    silence = Silence(10.0, woken.set)
    silence.begin()                 # from now on
    silence.good_s = loop.time()    # a good frame
    silence.over()                  # False: asked again, by itself, ten seconds later
    silence.end()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Silence:
    """See the module.

    Args:
        silent_s: seconds without a good frame.
        ring: called when they are over; then nothing more before the next ``begin``.

    Attributes:
        good_s: the loop's time of the last good frame.
    """

    def __init__(self, silent_s: float, ring: Callable[[], object]) -> None:
        self.silent_s = silent_s
        self.good_s = 0.0
        self._ring = ring
        self._from_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count from now on, whatever was before."""
        self._from_s = asyncio.get_running_loop().time()
        self._arm(self._from_s + self.silent_s)

    def over(self) -> bool:
        """Whether it has been silent for so long; if not, it rings when it has."""
        due_s = max(self._from_s, self.good_s) + self.silent_s
        if asyncio.get_running_loop().time() >= due_s:
            return True
        self._arm(due_s)
        return False

    def end(self) -> None:
        """Ring no more; harmless when it does not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due_s: float) -> None:
        self.end()
        self._timer = asyncio.get_running_loop().call_at(due_s, self._look)

    def _look(self) -> None:
        if self.over():
            self._ring()
