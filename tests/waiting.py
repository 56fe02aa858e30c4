"""Bounded polling: the only waiting a test does."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


def wait_until(predicate: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Return as soon as predicate() is true.

    Raises:
        TimeoutError: it did not become true within timeout_s.
    """
    deadline_mono = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= deadline_mono:
            raise TimeoutError(f"not true within {timeout_s} s: {predicate}")
        time.sleep(POLL_S)
