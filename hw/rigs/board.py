"""The virtual board: three sensors on real pseudo-terminals.

                         ┌───────────────── board.py ─────────────────┐
    agent ── D/gps ──────┤ pty ◀── data/nmea-noisy.log, at 9600 baud   │  noise and wrong checksums
    included agent ── D/env ──────┤ pty ◀── one JSON object a second            │  temperature,
    humidity, door agent ── D/meter ────┤ pty ◀─▶ pty ── pymodbus's server, unit 1    │  registers
    that change
                         └────────────────────────────────────────────┘

D/gps, D/env and D/meter are symlinks to /dev/pts/N: stable names, as /dev/serial/by-path has them.

Registers of the meter (function 3, 0-based):

    0     s16  x 0.1   Cel   temperature of the cabinet
    1     u16  x 0.1   V     mains voltage
    2-3   u32  x 1     Wh    energy, only grows
    4-5   f32  x 1     W     power

    python hw/rigs/board.py --dir D

prints one JSON line of the paths when all is ready, and ends on SIGTERM, SIGINT, when its standard
input (if that is a pipe or a socket) closes, or when its parent dies. It leaves nothing: links are
removed, and D too when it was made here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import stat
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

if __package__ in (None, ""):  # started as a program: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hw.rigs.ptys import PtyPort, Wire

LOG = Path(__file__).parent / "data" / "nmea-noisy.log"
GPS_BAUD = 9600
BITS_PER_BYTE_8N1 = 10
FEED_EVERY_S = 0.1
ENV_EVERY_S = 1.0
METER_UNIT = 1
METER_BAUD = 19200
METER_REGISTERS = 6
PARENT_LOOK_S = 0.5


def recorded(path: Path = LOG) -> bytes:
    """Return the log's bytes as they were on the wire, without its ``#`` lines."""
    data = path.read_bytes()
    while data.startswith(b"#"):
        data = data[data.index(b"\n") + 1 :]
    return data


async def feed_gps(port: PtyPort) -> None:
    """Play the log over and over at the receiver's speed."""
    data, at = recorded(), 0
    step = round(GPS_BAUD / BITS_PER_BYTE_8N1 * FEED_EVERY_S)
    while True:
        port.send(data[at : at + step])
        at = at + step if at + step < len(data) else 0
        await asyncio.sleep(FEED_EVERY_S)


async def feed_env(port: PtyPort) -> None:
    """One JSON object a second."""
    tick = 0
    while True:
        body = {
            "temperature": round(21 + 2 * math.sin(tick / 30), 2),
            "humidity": round(45 + 5 * math.cos(tick / 40), 1),
            "door_open": tick % 60 < 5,
        }
        port.send(json.dumps(body).encode() + b"\n")
        tick += 1
        await asyncio.sleep(ENV_EVERY_S)


def meter_registers(tick: int) -> list[int]:
    """The meter's registers at its ``tick``-th request."""
    block = struct.pack(
        ">hHIf",
        round(10 * (35 + 5 * math.sin(tick / 20))),
        round(10 * (230 + 3 * math.cos(tick / 15))),
        100_000 + tick,
        1500 + 250 * math.sin(tick / 10),
    )
    return list(struct.unpack(">6H", block))


def meter_device() -> SimDevice:
    """A slave whose registers change with every request."""
    ticks = iter(range(1 << 31))

    async def change(
        _function: int,
        _start: int,
        _address: int,
        _count: int,
        registers: list[int],
        _written: list[int] | list[bool] | None,
    ) -> None:
        registers[:METER_REGISTERS] = meter_registers(next(ticks))

    block = SimData(0, values=meter_registers(0), datatype=DataType.REGISTERS)
    return SimDevice(METER_UNIT, simdata=[block], action=change)


@contextlib.contextmanager
def room(directory: Path) -> Iterator[None]:
    """Have the directory; remove it again when it was made here."""
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if made:
            directory.rmdir()


@contextlib.asynccontextmanager
async def meter(link: Path) -> AsyncIterator[Wire]:
    """A real Modbus slave behind ``link``; yields the wire, for tests that disturb it."""
    far = link.with_name(f".{link.name}-slave")
    with PtyPort(link) as near_port, PtyPort(far) as far_port, Wire(near_port, far_port) as wire:
        server = ModbusSerialServer(
            meter_device(), port=str(far), baudrate=METER_BAUD, ignore_missing_devices=True
        )
        await server.serve_forever(background=True)
        try:
            yield wire
        finally:
            await server.shutdown()


@contextlib.asynccontextmanager
async def board(directory: Path) -> AsyncIterator[dict[str, str]]:
    """Stand the whole board up in ``directory``; yields name -> path."""
    paths = {name: directory / name for name in ("gps", "env", "meter")}
    with room(directory), PtyPort(paths["gps"]) as gps, PtyPort(paths["env"]) as env:
        async with meter(paths["meter"]):
            feeds = [asyncio.create_task(feed_gps(gps)), asyncio.create_task(feed_env(env))]
            try:
                yield {name: str(path) for name, path in paths.items()}
            finally:
                for feed in feeds:
                    feed.cancel()
                await asyncio.wait(feeds)


@contextlib.contextmanager
def ending() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM, SIGINT and the end of a piped standard input set."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    # /dev/null and terminals end or stay silent for reasons of their own: `board.py &` in a script.
    mode = os.fstat(0).st_mode
    watched = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    if watched:
        loop.add_reader(0, lambda: end.set() if not os.read(0, 4096) else None)
    try:
        yield end
    finally:
        if watched:
            loop.remove_reader(0)


async def serve(directory: Path) -> None:
    """The program: listens for its end before it says that it is ready."""
    parent = os.getppid()
    with ending() as end:
        async with board(directory) as paths:
            print(json.dumps(paths), flush=True)
            while not end.is_set() and os.getppid() == parent:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PARENT_LOOK_S):
                        await end.wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="the virtual sensor board")
    options.add_argument("--dir", type=Path, required=True, help="where the links go")
    asyncio.run(serve(options.parse_args().dir.absolute()))
