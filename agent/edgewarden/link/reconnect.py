"""When to try again. Pure: chance comes in as a function, time as numbers.

The rules, in order:

1. The first try after start waits uniform(0, spread_s): a site whose power returns does not come
   back as one.
2. After a passing failure: uniform(base_s, base_s + min(cap_s, base_s * 2**n)), n counting
   failures in a row. Full jitter over the window, above a floor of base_s: a broker that accepts
   and kicks is never met faster.
3. n starts again only when a session proved itself: STABLE_S long, or one PUBACK. Connecting alone
   proves nothing.
4. After a trust failure (an impostor, our certificate refused): uniform(cap_s, 1.5 * cap_s),
   whatever n is. It is a slow re-check, not a retry, and it does not count as a failure in a row.

    reconnect = Reconnect(1.0, 120.0, 10.0, random.uniform)
    reconnect.failed()  # somewhere in [1, 2) s, then [1, 3), [1, 5), ...
"""

from __future__ import annotations

from collections.abc import Callable

STABLE_S = 60.0
"""A session this long was not kicked for connecting."""
TRUST_STRETCH = 1.5
"""Jitter of the re-check: half a cap is enough to spread a fleet that lost trust at one moment."""
MAX_DOUBLINGS = 32
"""2**32 s is above every cap; keeps the power small."""


class Reconnect:
    """Delays between connections.

    Args:
        base_s, cap_s: the window grows from base to cap.
        spread_s: of the first connection.
        uniform: (low, high) -> a float in [low, high).
    """

    def __init__(
        self,
        base_s: float,
        cap_s: float,
        spread_s: float,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._spread_s = spread_s
        self._uniform = uniform
        self._failures = 0

    def first(self) -> float:
        """Seconds before the very first try."""
        return self._uniform(0.0, self._spread_s)

    def failed(self) -> float:
        """Seconds before the next try after a passing failure."""
        window_s = min(self._cap_s, self._base_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, MAX_DOUBLINGS)
        return self._uniform(self._base_s, self._base_s + window_s)

    def distrusted(self) -> float:
        """Seconds before the next look after a trust failure."""
        return self._uniform(self._cap_s, TRUST_STRETCH * self._cap_s)

    def ended(self, lasted_s: float, accepted: bool) -> float:
        """Seconds before the next try after a session; accepted: whether there was a PUBACK."""
        if accepted or lasted_s >= STABLE_S:
            self._failures = 0
        return self.failed()
