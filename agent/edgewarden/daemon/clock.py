"""The real clock and the real entropy: the only place of the link process that asks the system for
either; and where systemd puts this process's credentials, which only its environment says.

Wall time is believed as far as the kernel vouches for it (adjtimex): synchronised means ``ntp``
with the kernel's own bound, anything else means ``unsynced`` with no bound at all. Everything
scheduled uses CLOCK_BOOTTIME.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import TypeVarTuple

from edgewarden.kernel import timex
from edgewarden.ports import Instant

Ts = TypeVarTuple("Ts")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def wall_ns() -> int:
    """CLOCK_REALTIME, for what needs no more of a clock: a unit with ProcSubset=pid has no boot id
    to read."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


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
