"""A sensor under test: its task, its facts, and a clock that is the loop's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from edgewarden.ports import Clock, Instant
from edgewarden.serial.portlife import SerialSettings
from edgewarden.serial.serialport import SerialSensor, build_serial_sensor
from edgewarden.wire.facts import Event, FramesSeen, Reading
from tests.fakes.clock import BOOT_ID, FakeRandomness


class LoopClock:
    """ports.Clock that tells the running loop's time: what silence is measured with."""

    def now(self) -> Instant:
        return Instant(round(asyncio.get_running_loop().time() * 1e9), 0, None, "unsynced")

    def mono_ns(self) -> int:
        return self.now().boot_ns

    def boot_id(self) -> bytes:
        return BOOT_ID


class Running:
    """A sensor, and the facts it gave."""

    def __init__(self, settings: SerialSettings, clock: Clock | None = None) -> None:
        self.facts: list[Event | Reading] = []
        self.seen: list[FramesSeen] = []
        self.sensor: SerialSensor = build_serial_sensor(
            settings,
            self.facts.append,
            clock or LoopClock(),
            FakeRandomness(),
            lambda fd: "",
            self.seen.append,
        )

    @property
    def state(self) -> str:
        return str(self.sensor.snapshot().state)

    @property
    def readings(self) -> list[Reading]:
        return [fact for fact in self.facts if isinstance(fact, Reading)]

    @property
    def told(self) -> list[str]:
        """One word per event: the state for ports, the code for the rest."""
        return [
            str(fact.detail.get("state", fact.code))
            for fact in self.facts
            if isinstance(fact, Event)
        ]

    def event(self, state_or_code: str) -> Event:
        """The latest event of that word."""
        for fact in reversed(self.facts):
            if isinstance(fact, Event) and state_or_code in (fact.detail.get("state"), fact.code):
                return fact
        raise AssertionError(f"no event {state_or_code} in {self.told}")


@contextlib.asynccontextmanager
async def running(settings: SerialSettings) -> AsyncIterator[Running]:
    """Run the sensor for as long as the block lasts."""
    under_test = Running(settings)
    task = asyncio.create_task(under_test.sensor.run())
    try:
        yield under_test
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert under_test.state == "closed"
