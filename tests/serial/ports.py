"""A sensor under test: its task, its facts, a clock that is the loop's own, and a loop that is not
moved by a machine that stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from edgewarden.ports import Clock, Instant
from edgewarden.serial.portlife import SerialSettings
from edgewarden.serial.serialport import SerialSensor, build_serial_sensor
from edgewarden.wire.facts import Event, FramesSeen, Reading
from tests.fakes.clock import BOOT_ID, FakeRandomness

T = TypeVar("T")

STEP_S = 0.005
"""The most that passes between two looks at the loop's clock: a sixth of the shortest wait for an
answer here."""


class UnhurriedLoop(asyncio.SelectorEventLoop):
    """Time as it is, but for what the machine stood still for.

    Both ends of a line are tasks of one loop: while the machine keeps it from running, neither
    speaks, and the limits between them must not run out. A wait takes as many looks as it has
    steps, and what has come by then is read between them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._real_s = self._now_s = super().time()

    def time(self) -> float:
        real_s = super().time()
        self._now_s += min(real_s - self._real_s, STEP_S)
        self._real_s = real_s
        return self._now_s


def play(scenario: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop that is unhurried."""
    with asyncio.Runner(loop_factory=UnhurriedLoop) as runner:
        return runner.run(scenario)


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
