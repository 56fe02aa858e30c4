"""The real clock and the real entropy: the only place of the link process that asks the system for
either; and where systemd puts this process's credentials, which only its environment says.

Wall time is believed as far as the kernel vouches for it (adjtimex): synchronised means ``ntp``
with the kernel's own bound, anything else means ``unsynced`` with no bound at all. Everything
scheduled uses CLOCK_BOOTTIME.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgewarden.kernel import timex
from edgewarden.ports import Instant

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def wall_ns() -> int:
    """CLOCK_REALTIME, for what needs no more of a clock: a unit with ProcSubset=pid has no boot id
    to read."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


class SystemClock:
    """ports.Clock over the kernel's clocks."""

    def __init__(self) -> None:
        self._boot_id = bytes.fromhex(_BOOT_ID.read_text().replace("-", ""))

    def now(self) -> Instant:
        """All clocks at one moment."""
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        try:
            state = timex.discipline()
        except OSError:
            return Instant(boot_ns, wall_ns, None, "unsynced")
        if not state.synchronised:
            return Instant(boot_ns, wall_ns, None, "unsynced")
        return Instant(boot_ns, wall_ns, state.max_error_ms, "ntp")

    def mono_ns(self) -> int:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> bytes:
        """16 bytes, new at every boot."""
        return self._boot_id


def credentials_folder() -> Path | None:
    """What LoadCredential= gave this process; None outside a service that has any."""
    where = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(where) if where.startswith("/") else None


class SystemRandomness:
    """ports.Randomness over the kernel's generator."""

    def token_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)
