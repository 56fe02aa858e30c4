"""A Clock that moves only when a test says so, and Randomness without chance."""

from __future__ import annotations

from edgewarden.ports import Instant

BOOT_ID = bytes(range(16))


class FakeClock:
    """ports.Clock whose time stands still.

    Args:
        boot_ns: where CLOCK_BOOTTIME starts.
        wall_ns: where wall time starts; a board without an RTC starts in 1970.
        uncertainty_ms, state: what vouches for wall time.
    """

    def __init__(
        self,
        boot_ns: int = 1_000_000_000,
        wall_ns: int = 0,
        uncertainty_ms: int | None = None,
        state: str = "unsynced",
    ) -> None:
        self.boot_ns = boot_ns
        self.wall_ns = wall_ns
        self.uncertainty_ms = uncertainty_ms
        self.state = state

    def now(self) -> Instant:
        return Instant(self.boot_ns, self.wall_ns, self.uncertainty_ms, self.state)

    def mono_ns(self) -> int:
        return self.now().boot_ns

    def boot_id(self) -> bytes:
        return BOOT_ID

    def advance(self, seconds: float) -> None:
        """Let time pass; both clocks move."""
        self.boot_ns += round(seconds * 1e9)
        self.wall_ns += round(seconds * 1e9)

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock; boot time does not move."""
        self.wall_ns += round(seconds * 1e9)


class FakeRandomness:
    """ports.Randomness: uniform() returns low + share * (high - low), tokens count upwards."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share
        self._tokens = 0

    def token_bytes(self, count: int) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(count, "big")

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)
