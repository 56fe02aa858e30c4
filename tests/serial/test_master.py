"""The side that asks, where it is stopped in the moment of an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.master import Master
from edgewarden.serial.modbus import read, seal
from edgewarden.serial.opening import close_port, open_port
from edgewarden.serial.portlife import Line
from hw.rigs.ptys import PtyPort
from tests.fakes.clock import FakeClock
from tests.waiting import until


def test_an_answer_in_the_same_moment_does_not_undo_a_stop(tmp_path: Path) -> None:
    """Else the bus goes on without its reader, and whoever closes the port waits for ever."""

    async def scenario() -> None:
        with PtyPort(tmp_path / "meter") as port:
            opened = open_port(str(port.link), Line())
            asking = Master(Line(), 5.0, 0.0, FakeClock(), FrameCounters())
            try:
                asked = asyncio.create_task(asking.ask(opened.fileno(), read(1, 3, 0, 1)))
                await until(port.receive)
                asking.feed(seal(bytes((1, 3, 2, 0, 7))), 0)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
            finally:
                close_port(opened)

    asyncio.run(scenario())
