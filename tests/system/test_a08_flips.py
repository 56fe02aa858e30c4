"""Data plane, acceptance 8: 32 ports at once, with flipped bits.

What is delivered is exactly what was sent less what was hit, in order, and nothing that was hit:
frames of SLIP, COBS, length with checksum, and NMEA, eight ports of each, as fast as the ptys take
them. ``--runs 1400`` sends what 32 ports at 115,200 baud carry in a minute.

The one exception is NMEA's own: its checksum is one XOR, which two flips of one column leave as it
was. A sentence is hit once at most here, and not where only the case of a checksum's letter
changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable
from pathlib import Path

from edgewarden.serial.fields import Field, FieldType
from edgewarden.serial.portlife import Format, Framing, SerialSettings
from hw.rigs.ptys import PtyPort
from tests.serial.frames import CRC32, LAYOUT, cobs, counted, slip
from tests.serial.ports import running
from tests.serial.test_nmea import sealed
from tests.serial.test_serialport import send_all
from tests.waiting import until

PORTS = 32
FRAMES_A_RUN = 25
FLIP_ONE_BYTE_IN = 100
FIELDS = (Field("seq", 0, FieldType.U32), Field("noise", 4, FieldType.U64))
KINDS: list[tuple[str, Framing, Callable[[bytes], bytes]]] = [
    ("nmea", Framing(), lambda payload: b""),
    ("slip", Framing(check=CRC32, fields=FIELDS), slip),
    ("cobs", Framing(check=CRC32, fields=FIELDS), cobs),
    ("length-crc", Framing(layout=LAYOUT, fields=FIELDS), counted),
]


class Sender:
    """One device: what it puts on the line, and which of it is whole."""

    def __init__(self, number: int, frames: int) -> None:
        self.name, self.framing, self.send = KINDS[number % len(KINDS)]
        self.chance = random.Random(number)
        self.stream = bytearray()
        self.whole: list[int] = []
        self.hit = 0
        for seq in range(frames):
            frame = self.flipped(self.frame(seq))
            self.stream += frame
            if frame == self.frame(seq):
                self.whole.append(seq)
            else:
                self.hit += 1
        # Decides what a flipped length or newline at the end still waits for.
        self.stream += b"\0" * 512 + b"\n"

    def frame(self, seq: int) -> bytes:
        if self.name == "nmea":
            position = b"4807.0380,N,01131.0000,E,1,08,0.9"
            return sealed(b"GPGGA,123519.00,%s,%d.0,M,46.9,M,," % (position, seq))
        return self.send(struct.pack(">IQ", seq, seq * 2654435761))

    def flipped(self, frame: bytes) -> bytes:
        sent = bytearray(frame)
        for at in range(len(sent)):
            if self.chance.randrange(FLIP_ONE_BYTE_IN):
                continue
            bit = self.chance.randrange(8)
            if self.name == "nmea" and frame[at : at + 1].isalpha() and bit == 5:
                continue
            sent[at] ^= 1 << bit
            if self.name == "nmea":
                break
        return bytes(sent)


def test_a08_what_arrives_is_what_was_sent_less_what_was_hit(tmp_path: Path, runs: int) -> None:
    frames = FRAMES_A_RUN * runs
    senders = [Sender(number, frames) for number in range(PORTS)]

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            ports, gateways = [], []
            for number, sender in enumerate(senders):
                port = stack.enter_context(PtyPort(tmp_path / f"port-{number}"))
                settings = SerialSettings(
                    f"s{number}",
                    str(port.link),
                    Format(sender.name),
                    framing=sender.framing,
                )
                ports.append(port)
                gateways.append(await stack.enter_async_context(running(settings)))
            await until(lambda: all(gateway.state == "open" for gateway in gateways))
            async with asyncio.TaskGroup() as group:
                for port, sender in zip(ports, senders, strict=True):
                    group.create_task(send_all(port, bytes(sender.stream)))
            for sender, gateway in zip(senders, gateways, strict=True):
                name = "alt" if sender.name == "nmea" else "seq"
                arrived = lambda g=gateway, n=name: [  # noqa: E731
                    int(r.value) for r in g.readings if r.name == n
                ]
                await until(lambda a=arrived, s=sender: len(a()) >= len(s.whole))  # type: ignore[misc]
                assert arrived() == sender.whole, sender.name
                assert gateway.sensor.snapshot().bad_frames > 0

    asyncio.run(scenario())
    # The test tested something: a good part was hit, a good part was not.
    for sender in senders:
        assert sender.hit > frames / 20
        assert len(sender.whole) > frames / 3
