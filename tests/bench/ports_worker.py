"""One way of reading 32 serial ports, in a process of its own: what ports.py compares.

    python -m tests.bench.ports_worker loop|epoll|threads PATH ...

All three decode with the same NmeaDecoder: what differs is how bytes reach it. ``loop`` is link's
own way, ports' life and all. Says {"ready": 1}, reads until its standard input ends, says what it
read and what processor time that took: {"cpu_s":, "sentences":, "readings":, "threads":}.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable

import serial

from edgewarden.daemon.clock import SystemClock, SystemRandomness
from edgewarden.serial.nmea import NmeaDecoder
from edgewarden.serial.opening import open_port
from edgewarden.serial.pace import Pace
from edgewarden.serial.portlife import Format, Line, SerialSettings
from edgewarden.serial.serialport import build_serial_sensor
from edgewarden.wire.facts import Reading

LINE = Line(115200)
READ_BYTES = 4096
Tally = Callable[[], tuple[int, int]]
"""Sentences and readings so far."""


async def loop(paths: list[str]) -> None:
    """link's way: one sensor for each port on one asyncio loop."""
    taken = 0

    def take(fact: object) -> None:
        nonlocal taken
        taken += isinstance(fact, Reading)

    clock, chance, pace = SystemClock(), SystemRandomness(), Pace()
    sensors = [
        build_serial_sensor(
            SerialSettings(f"s{i}", path, Format.NMEA, line=LINE),
            take,
            clock,
            chance,
            lambda _: "",
            pace=pace,
        )
        for i, path in enumerate(paths)
    ]
    running = [asyncio.create_task(sensor.run()) for sensor in sensors]
    await asyncio.sleep(0)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    began_s = ready()
    await ended.wait()
    tell(began_s, lambda: (sum(int(str(s.snapshot().counters["frames"])) for s in sensors), taken))
    for task in running:
        task.cancel()
    await asyncio.wait(running)


def epoll(paths: list[str]) -> None:
    """The bare way: one epoll, os.read, the decoder."""
    watch, decoders, taken = select.epoll(), {}, [0]
    ports = [open_port(path, LINE) for path in paths]
    for i, port in enumerate(ports):
        watch.register(port.fileno(), select.EPOLLIN)
        decoders[port.fileno()] = NmeaDecoder(f"s{i}")
    watch.register(0, select.EPOLLIN)
    began_s = ready()
    while True:
        for fd, _ in watch.poll():
            if fd == 0:
                tell(began_s, lambda: (sum(d.counters.frames for d in decoders.values()), taken[0]))
                return
            taken[0] += len(decoders[fd].feed(os.read(fd, READ_BYTES), time.monotonic_ns()))


def threads(paths: list[str]) -> None:
    """The usual way: pyserial, a thread for each port, readline."""
    taken = [0] * len(paths)
    decoders = [NmeaDecoder(f"s{i}") for i in range(len(paths))]
    ports = [serial.Serial(path, LINE.baud, timeout=0.2) for path in paths]
    ended = threading.Event()

    def read(at: int) -> None:
        while not ended.is_set():
            line = ports[at].readline()
            taken[at] += len(decoders[at].feed(line, time.monotonic_ns()))

    readers = [threading.Thread(target=read, args=(at,)) for at in range(len(paths))]
    for reader in readers:
        reader.start()
    began_s = ready()
    os.read(0, 1)
    tell(began_s, lambda: (sum(d.counters.frames for d in decoders), sum(taken)))
    ended.set()
    for reader in readers:
        reader.join()


def ready() -> float:
    """Say so; returns the processor time until now."""
    print(json.dumps({"ready": 1}), flush=True)
    return time.process_time()


def tell(began_s: float, tally: Tally) -> None:
    """Say what it took; the counting itself is not part of it."""
    spent_s = time.process_time() - began_s
    sentences, readings = tally()
    found = {"cpu_s": spent_s, "sentences": sentences, "readings": readings}
    print(json.dumps({**found, "threads": threading.active_count()}), flush=True)


if __name__ == "__main__":
    way, ports_ = sys.argv[1], sys.argv[2:]
    if way == "loop":
        asyncio.run(loop(ports_))
    else:
        {"epoll": epoll, "threads": threads}[way](ports_)
