"""When link returns memory: once its start is over, and then each minute.

Decides when. Leaves how to kernel/memory.py.

    tidy = Tidy(now_ns)
    tidy.look(now_ns)          # each step
"""

from __future__ import annotations

from collections.abc import Callable

from edgewarden.kernel import memory

START_OVER_S = 10
"""By then the first session stands and the first evidence is given; what only they needed goes."""
TIDY_S = 60
"""What gathers within a minute is some ten kilobytes, and 0.2 ms in each cost nothing."""


class Tidy:
    """One thread.

    Args:
        now_ns: CLOCK_BOOTTIME at the start.
        settle, tidy: of kernel/memory.py.
    """

    def __init__(
        self,
        now_ns: int,
        settle: Callable[[], object] = memory.settle,
        tidy: Callable[[], object] = memory.tidy,
    ) -> None:
        self._next, self._later = settle, tidy
        self._due_ns = now_ns + START_OVER_S * 10**9

    def look(self, now_ns: int) -> None:
        """Tidy up where it is time to; ``now_ns`` is CLOCK_BOOTTIME."""
        if now_ns >= self._due_ns:
            self._next()
            self._next, self._due_ns = self._later, now_ns + TIDY_S * 10**9
