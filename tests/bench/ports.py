"""32 serial ports at 115,200 baud, and what one frame or one poll costs.

    data.4.7-loop        link's way of reading them / the same decoder behind a bare epoll loop
    data.4.7-threads     the same / pyserial with a thread for each port
    data.4.7-lost        sentences that link's way lost
    serial.frame-*       processor time of one frame, from bytes to a reading
    serial.modbus        processor time of one Modbus answer, from question to reading

Turns, not blocks: the three ways alternate. The sender writes at the line's own pace and what a
reader leaves too long is lost, as on a UART; a turn in which one of the peers lost something says
so in its note.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from edgewarden.serial.binary import (
    CHECKS,
    CountedFramer,
    Counts,
    Layout,
    Start,
    StuffedFramer,
    Stuffing,
)
from edgewarden.serial.fields import Field, FieldsDecoder, FieldType, LineReader, PayloadReader
from edgewarden.serial.framing import FrameCounters, LineFramer
from edgewarden.serial.jsonlines import JsonLinesDecoder
from edgewarden.serial.modbus import ReplyParser, read, seal
from edgewarden.serial.registers import Block, ModbusRegister, decode_registers
from hw.rigs.data.make_nmea_noisy import epoch
from hw.rigs.ptys import PtyPort
from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import Figure, Spec, middle
from tests.serial import frames

PORTS, RUNS, SECONDS = 32, 3, 3.0
BYTES_S = 115_200 // 10
TICK_S = 0.05
FRAMES, READ_BYTES = 20_000, 4096

COST = "processor time of one"
SPECS = (
    Spec("data.4.7-loop", f"processor time of reading {PORTS} ports at 115,200 baud: link's way /"
         " a bare epoll loop, both decoding NMEA", "x", 1.5),
    Spec("data.4.7-threads", "the same / pyserial's readline, a thread for each port", "x", 0.1),
    Spec("data.4.7-lost", "sentences of link's turns that did not become readings", "lost", 0),
    Spec("serial.frame-lines", f"{COST} line with three columns", "us", 8.0),
    Spec("serial.frame-json", f"{COST} line with an object of three numbers", "us", 15.0),
    Spec("serial.frame-slip", f"{COST} SLIP frame of 16 bytes with two fields", "us", 8.0),
    Spec("serial.frame-cobs", f"{COST} COBS frame of 16 bytes with two fields", "us", 8.0),
    Spec("serial.frame-length", f"{COST} frame with length, CRC and two fields", "us", 8.0),
    Spec("serial.flood", f"{COST} byte where each one is a false start: the slowest checksum of the"
         " longest frame", "us", 12.0),
    Spec("serial.modbus", f"{COST} Modbus answer with ten registers: question, parsing, values",
         "us", 40.0),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    yield from ports(place)
    yield from per_frame()
    yield flood()
    yield modbus()


def ports(place: Place) -> Iterator[Figure]:
    """The three ways, in turns."""
    found: dict[str, list[dict[str, float]]] = {"loop": [], "epoll": [], "threads": []}
    for run in range(RUNS):
        for way, turns in found.items():
            turns.append(turn(place, way, run))
    lost = sum(one["lost"] for one in found["loop"])
    cost = {
        way: middle(one["cpu_s"] / one["sentences"] for one in turns)
        for way, turns in found.items()
    }
    share = {way: middle(one["share"] for one in turns) for way, turns in found.items()}
    peers_lost = {way: sum(one["lost"] for one in found[way]) for way in ("epoll", "threads")}
    note = (
        f"{cost['loop'] * 1e6:.1f} us a sentence, {share['loop'] * 100:.1f} % of a core;"
        f" lost by the peers: {peers_lost['epoll']:.0f} and {peers_lost['threads']:.0f}"
    )
    for name, way in (("data.4.7-loop", "epoll"), ("data.4.7-threads", "threads")):
        against = f"{cost[way] * 1e6:.1f} us a sentence, {share[way] * 100:.1f} % of a core"
        yield Figure(name, cost["loop"] / cost[way], against, RUNS, note)
    sent = sum(one["sent"] for one in found["loop"])
    yield Figure("data.4.7-lost", lost, f"{sent:.0f} sent", RUNS)


def turn(place: Place, way: str, run: int) -> dict[str, float]:
    """One way of reading, for SECONDS."""
    data = b"".join(b"".join(epoch(second)) for second in range(60))
    with contextlib.ExitStack() as stack:
        links = [place.folder / f"{way}-{run}-{i}" for i in range(PORTS)]
        lines = [stack.enter_context(PtyPort(link)) for link in links]
        reader = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.ports_worker", way, *map(str, links)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"},
        )  # fmt: skip
        stack.callback(reader.wait)
        stack.callback(reader.kill)
        assert reader.stdin is not None
        assert reader.stdout is not None
        if not reader.stdout.readline():
            raise CannotMeasure(f"the reader {way} did not start")
        began_s, sent = time.monotonic(), send(lines, data)
        wall_s = time.monotonic() - began_s
        reader.stdin.close()
        told: dict[str, float] = json.loads(reader.stdout.readline())
        reader.stdout.close()
    told |= {"sent": sent, "lost": sent - told["sentences"], "share": told["cpu_s"] / wall_s}
    return told


def send(lines: list[PtyPort], data: bytes) -> int:
    """Write to all ports at the line's pace, whole sentences; returns how many were sent."""
    sentences = data.split(b"\n")[:-1]
    at, sent, owed, began_s = 0, 0, 0.0, time.monotonic()
    while (elapsed_s := time.monotonic() - began_s) < SECONDS:
        chunk = b""
        while owed + len(chunk) < elapsed_s * BYTES_S:
            chunk += sentences[at % len(sentences)] + b"\n"
            at += 1
        for line in lines:
            line.send(chunk)
        owed += len(chunk)
        sent = at * len(lines)
        time.sleep(TICK_S)
    time.sleep(4 * TICK_S)  # what is on its way
    return sent


def per_frame() -> Iterator[Figure]:
    """Framing, checking and decoding, in reads of 4,096 bytes."""
    fields = (Field("a", 0, FieldType.F32), Field("b", 4, FieldType.U32))
    columns = tuple(Field(name, i, FieldType.NUMBER) for i, name in enumerate("abc"))
    payload = struct.pack(">fI8x", 21.5, 7)
    crc, reader = CHECKS["crc32"], PayloadReader(fields, "big")
    layout = Layout(b"\xaa\x55", 1, "big", Counts.PAYLOAD, frames.CRC, Start.LENGTH)
    makers: dict[str, tuple[bytes, Callable[[], FieldsDecoder | JsonLinesDecoder]]] = {
        "lines": (
            b"21.50,1013.2,45\r\n",
            lambda: FieldsDecoder(
                "s", LineFramer(256, FrameCounters()), LineReader(columns, ",")
            ),
        ),
        "json": (
            b'{"temperature": 21.5, "humidity": 45.1, "pressure": 1013.2}\n',
            lambda: JsonLinesDecoder("s"),
        ),
        "slip": (
            frames.slip(payload),
            lambda: FieldsDecoder(
                "s", StuffedFramer(Stuffing.SLIP, crc, 64, FrameCounters()), reader
            ),
        ),
        "cobs": (
            frames.cobs(payload),
            lambda: FieldsDecoder(
                "s", StuffedFramer(Stuffing.COBS, crc, 64, FrameCounters()), reader
            ),
        ),
        "length": (
            frames.counted(payload),
            lambda: FieldsDecoder("s", CountedFramer(layout, 64, FrameCounters()), reader),
        ),
    }  # fmt: skip
    for name, (frame, make) in makers.items():
        data, spent = frame * FRAMES, []
        for _ in range(RUNS):
            decoder, began_s = make(), time.process_time()
            for at in range(0, len(data), READ_BYTES):
                decoder.feed(data[at : at + READ_BYTES], 7)
            spent.append((time.process_time() - began_s) / FRAMES * 1e6)
            if decoder.counters.frames != FRAMES or decoder.counters.bad:
                raise CannotMeasure(f"{decoder.counters.frames} of {FRAMES} frames of {name}")
        yield Figure(f"serial.frame-{name}", middle(spent), f"{len(frame)} bytes a frame", RUNS)


def flood() -> Figure:
    """The worst a device can do: every byte a start whose length fits."""
    most = 256
    layout = Layout(b"\xfa", 1, "big", Counts.PAYLOAD, CHECKS["crc16-modbus"], Start.START)
    data, spent = b"\xfa" * READ_BYTES, []
    for _ in range(RUNS):
        framer = CountedFramer(layout, most, FrameCounters())
        framer.feed(data)
        began_s = time.process_time()
        for _ in range(5):
            framer.feed(data)
        spent.append((time.process_time() - began_s) / (5 * READ_BYTES) * 1e6)
    share = middle(spent) * BYTES_S / 1e4
    note = f"{share:.0f} % of a core at 115,200 baud"
    return Figure("serial.flood", middle(spent), "a frame of 250 bytes", RUNS, note)


def modbus() -> Figure:
    """The pure part of one poll: what the line and the kernel take is not in it."""
    registers = tuple(ModbusRegister(f"r{i}", 1, i) for i in range(10))
    block, counters = Block(registers), FrameCounters()
    answer, spent = seal(b"\x01\x03\x14" + bytes(range(20))), []
    for _ in range(RUNS):
        began_s = time.process_time()
        for _ in range(FRAMES // 10):
            question = read(1, 3, 0, 10)
            question.adu()
            reply = ReplyParser(question, counters).feed(answer)
            assert reply is not None
            for one in registers:
                decode_registers(block.cut(reply.data, one), one)
        spent.append((time.process_time() - began_s) / (FRAMES // 10) * 1e6)
    return Figure("serial.modbus", middle(spent), "25 bytes an answer", RUNS)
