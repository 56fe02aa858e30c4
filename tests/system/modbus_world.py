"""A Modbus bus with slaves that are other people's: socat's pair of ptys, and a hub that lies.

    agent ── near (pty) ── Hub ── socat pty ═══ socat pty ── slaves 1 to 8
                            │
                            └─ counts questions, disturbs answers

The slaves are libmodbus (modbus_slave.c) or pymodbus's server; both have the same registers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from hw.rigs.ptys import PtyPort
from tests.waiting import until

BAUD = 19200
UNITS = range(1, 9)
POINTS = 200
KIND = DataType.REGISTERS
SOURCE = Path(__file__).with_name("modbus_slave.c")

Disturb = Callable[["Hub", bytes], None]


class Hub:
    """Between the agent's port and the slaves' line.

    Attributes:
        asked: unit -> questions seen.
        dead: a unit that hears nothing; 0 for none.
        disturb: what is done with an answer instead of passing it on.
    """

    def __init__(self, near: PtyPort, line: int) -> None:
        self.near, self.line = near, line
        self.asked: Counter[int] = Counter()
        self.dead = 0
        self.disturb: Disturb = lambda hub, answer: hub.near.send(answer)

    def on_question(self) -> None:
        """One read is one question: the agent asks again only after the answer or its deadline."""
        question = self.near.receive()
        if question:
            self.asked[question[0]] += 1
            if question[0] != self.dead:
                os.write(self.line, question)

    def on_answer(self) -> None:
        with contextlib.suppress(OSError):
            self.disturb(self, os.read(self.line, 4096))


@contextlib.contextmanager
def socat(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Two raw ptys, joined."""
    ends = folder / "hub", folder / "slaves"
    pair = [f"pty,raw,echo=0,link={end}" for end in ends]
    # timeout: a run that is killed leaves no socat behind.
    command = ["timeout", "600", "socat", *pair]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as joined:
        try:
            yield ends
        finally:
            joined.terminate()
            joined.wait()


@contextlib.asynccontextmanager
async def libmodbus(program: Path, line: Path) -> AsyncIterator[None]:
    """Slaves by libmodbus."""
    slaves = await asyncio.create_subprocess_exec(
        program, str(line), stdout=asyncio.subprocess.PIPE
    )
    assert slaves.stdout is not None
    try:
        assert await slaves.stdout.readline() == b"ready\n"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            slaves.kill()
        await slaves.wait()


@contextlib.asynccontextmanager
async def pymodbus(line: Path) -> AsyncIterator[None]:
    """Slaves by pymodbus, in this process."""
    server = ModbusSerialServer([device(unit) for unit in UNITS], port=str(line), baudrate=BAUD)
    await server.serve_forever(background=True)
    try:
        yield
    finally:
        await server.shutdown()


def device(unit: int) -> SimDevice:
    """One unit with the registers of modbus_slave.c."""
    coils = [i % 3 == 0 for i in range(POINTS)]
    inputs = [i % 2 == 1 for i in range(POINTS)]
    return SimDevice(
        unit,
        simdata=(
            [SimData(0, values=coils, datatype=DataType.BITS)],
            [SimData(0, values=inputs, datatype=DataType.BITS)],
            [SimData(0, values=[1000 * unit + i for i in range(POINTS)], datatype=KIND)],
            [SimData(0, values=[2000 * unit + i for i in range(POINTS)], datatype=KIND)],
        ),
    )


def build(folder: Path) -> Path:
    """Compile modbus_slave.c."""
    program = folder / "modbus_slave"
    command = ["gcc", "-O1", "-Wall", "-o", str(program), str(SOURCE), "-lmodbus"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return program


@contextlib.asynccontextmanager
async def bus(folder: Path, slaves: Path | None) -> AsyncIterator[Hub]:
    """The whole bus; ``slaves`` is libmodbus's program, None for pymodbus. Agents open ``near``."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        hub_end, line = stack.enter_context(socat(folder))
        await until(lambda: hub_end.exists() and line.exists())
        near = stack.enter_context(PtyPort(folder / "near"))
        fd = os.open(hub_end, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        peers = pymodbus(line) if slaves is None else libmodbus(slaves, line)
        async with peers:
            hub, loop = Hub(near, fd), asyncio.get_running_loop()
            loop.add_reader(near.master, hub.on_question)
            loop.add_reader(fd, hub.on_answer)
            try:
                yield hub
            finally:
                loop.remove_reader(near.master)
                loop.remove_reader(fd)
