"""Bounded polling: the only waiting a test does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.01
LONG_S = 60.0
"""For what comes in a moment: who succeeds does not wait for it, and a machine stands still."""


def wait_until(predicate: Callable[[], object], timeout_s: float = LONG_S) -> None:
    """Return as soon as predicate() is true. The last look begins when the time is over: who stood
    still meanwhile has not failed.

    Raises:
        TimeoutError: it did not become true within timeout_s.
    """
    deadline_mono = time.monotonic() + timeout_s
    while True:
        last = time.monotonic() >= deadline_mono
        if predicate():
            return
        if last:
            raise TimeoutError(f"not true within {timeout_s} s: {predicate}")
        time.sleep(POLL_S)


async def until(predicate: Callable[[], object], timeout_s: float = LONG_S) -> None:
    """``wait_until`` for tests inside an event loop: lets it run between two looks."""
    loop = asyncio.get_running_loop()
    deadline_mono = loop.time() + timeout_s
    while True:
        last = loop.time() >= deadline_mono
        if predicate():
            return
        if last:
            raise TimeoutError(f"not true within {timeout_s} s: {predicate}")
        await asyncio.sleep(POLL_S)
