"""One LED for the person in front of the board.

Decides which condition is shown and how it blinks. Leaves to others what the conditions are
(daemon/link.py says so through ``show``). Without a pin or without GPIO it does nothing and says
why; that is never an error.

gpiozero is imported only when a pin is configured (it costs 8 MB). Its own blink() runs a thread;
the pattern here runs on the event loop. The pin factory is chosen here and passed down: gpiozero's
default would ask an environment variable, and one of its factories opens a network connection.

    condition          pattern
    denied something   fast: 0.1 s on, 0.1 s off     for DENIED_SHOWN_S after the latest denial
    offline, queueing  slow: 1 s on, 1 s off
    healthy            on
    stopped            off

    indicator = open_indicator(17)
    indicator.unavailable == "not available: no GPIO on this machine (...)"
    indicator.show(condition_of(connected=False, denied_age_s=None))
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

from edgewarden.plain import dataclass

DENIED_SHOWN_S = 60.0
"""Long enough to be seen by somebody who comes to look why a program did not start."""

FACTORIES = (("gpiozero.pins.lgpio", "LGPIOFactory"), ("gpiozero.pins.native", "NativeFactory"))
"""lgpio is what Raspberry Pi OS installs; native needs no library. Not pigpio: it is a network
client."""


class Condition(StrEnum):
    """What the LED says; the earlier one wins."""

    DENIED = "denied"
    OFFLINE = "offline"
    HEALTHY = "healthy"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Seconds lit and seconds dark, over and over; dark_s 0 = always on, lit_s 0 = always off."""

    lit_s: float
    dark_s: float


PATTERNS: Mapping[Condition, Pattern] = {
    Condition.DENIED: Pattern(0.1, 0.1),
    Condition.OFFLINE: Pattern(1.0, 1.0),
    Condition.HEALTHY: Pattern(1.0, 0.0),
    Condition.STOPPED: Pattern(0.0, 1.0),
}


class Led(Protocol):
    """One light. Does not block; the loop's thread only; close() lets go of the pin."""

    def on(self) -> None:
        """Light it."""

    def off(self) -> None:
        """Darken it."""

    def close(self) -> None:
        """Let go of the pin."""


def condition_of(*, connected: bool, denied_age_s: float | None) -> Condition:
    """Return what to show.

    Args:
        connected: the uplink's session is up.
        denied_age_s: seconds since the latest denial, None when there was none.
    """
    if denied_age_s is not None and denied_age_s < DENIED_SHOWN_S:
        return Condition.DENIED
    return Condition.HEALTHY if connected else Condition.OFFLINE


def steps(pattern: Pattern) -> list[tuple[bool, float | None]]:
    """Return one round of (lit, for how many seconds); None = until the condition changes."""
    if pattern.dark_s == 0:
        return [(True, None)]
    if pattern.lit_s == 0:
        return [(False, None)]
    return [(True, pattern.lit_s), (False, pattern.dark_s)]


class Indicator:
    """Shows conditions on a LED, if there is one. Built by ``open_indicator``.

    Args:
        led: the light, None for no light.
        unavailable: why there is none, "" when there is one.
    """

    def __init__(self, led: Led | None, unavailable: str = "") -> None:
        self._led = led
        self.unavailable = unavailable
        self.condition = Condition.STOPPED
        self._changed = asyncio.Event()

    def show(self, condition: Condition) -> None:
        """Show ``condition`` from now on."""
        if condition is not self.condition:
            self.condition = condition
            self._changed.set()

    async def run(self) -> None:
        """Drive the LED until cancelled; leaves it dark. Returns at once without a LED."""
        if self._led is None:
            return
        try:
            while True:
                await self._round(self._led)
        finally:
            self._led.off()
            self._led.close()

    async def _round(self, led: Led) -> None:
        self._changed.clear()
        for lit, for_s in steps(PATTERNS[self.condition]):
            if lit:
                led.on()
            else:
                led.off()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    await self._changed.wait()
                return


def open_indicator(pin: int | None, factories: Callable[[], object] | None = None) -> Indicator:
    """Return the indicator on BCM pin ``pin``; never raises for missing hardware.

    Args:
        pin: BCM number, None when none is configured.
        factories: makes a gpiozero pin factory; None tries FACTORIES in order.
    """
    if pin is None:
        return Indicator(None, "not available: no [indicator] pin is configured")
    try:
        gpiozero = importlib.import_module("gpiozero")
    except ImportError as fault:
        return Indicator(None, f"not available: {fault}")
    reasons = []
    for make in [factories] if factories else [_maker(*names) for names in FACTORIES]:
        try:
            led: Led = gpiozero.LED(pin, pin_factory=make())
        except Exception as fault:  # lgpio.error, for one, derives from Exception alone
            reasons.append(str(fault) or type(fault).__name__)
            continue
        return Indicator(led)
    return Indicator(None, f"not available: no GPIO on this machine ({'; '.join(reasons)})")


def _maker(module: str, name: str) -> Callable[[], object]:
    def make() -> object:
        made: object = getattr(importlib.import_module(module), name)()
        return made

    return make
