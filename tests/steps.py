"""What something costs, counted instead of timed: the same on an idle machine and on a busy one.

calls(lambda: look(many))       functions called, the interpreter's own included
with wakes() as woken: ...      woken() times the running loop went to its selector
slack_s()                       what this machine adds to anything at this moment, or did lately
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tests.stalls import Stalls

STARTS = 10
TIMES = 20
"""Of the slowest start of `true`: half a millisecond or so where nobody else works, so that idle
machines are granted next to nothing; a hundred beside ten busy processes."""
LATELY_S = 30.0
"""How far back a stall counts: whoever asks for slack has just measured something."""


def calls(work: Callable[[], object]) -> int:
    """How many calls ``work()`` makes, of Python's and C's functions."""
    made = 0

    def see(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


@contextmanager
def wakes() -> Iterator[Callable[[], int]]:
    """Of the running loop, until now; a reader left on a dead descriptor makes thousands."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select, woken = selector.select, 0

    def counted(timeout: float | None = None) -> object:
        nonlocal woken
        woken += 1
        return select(timeout)

    selector.select = counted
    try:
        yield lambda: woken
    finally:
        del selector.select


class Watching:
    """Whether somebody looks for stalls: the fixture ``stalls`` does."""

    stalls: Stalls | None = None


def slack_s() -> float:
    """To be granted beyond a limit that is meant for a machine with nothing else to do.

    That is what it costs at this moment to start something, and what the machine stood still lately
    where somebody watches (tests/stalls.py): a second that another tenant had is over by now.
    """
    slowest_s = 0.0
    for _ in range(STARTS):
        began = time.monotonic()
        subprocess.run(["/bin/true"], check=True)
        slowest_s = max(slowest_s, time.monotonic() - began)
    stalled_s = Watching.stalls.lately_s(LATELY_S) if Watching.stalls else 0.0
    return TIMES * slowest_s + stalled_s
