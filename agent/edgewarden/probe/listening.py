"""Listening on a serial port that nobody owns, at one rate after another; asking only when told to.

Opens the port exclusively, as link does, and so cannot take it from link. Without ``ask`` nothing
is ever transmitted: a bus that others speak on is not disturbed. Every step is bounded in time.

    for sample in listen("/dev/ttyUSB0", RATES, 20.0): look(sample)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence

from edgewarden.errors import HardwareFault
from edgewarden.probe.guess import Sample
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import Reply, ReplyParser, Request, read
from edgewarden.serial.opening import close_port, hung_up, open_port
from edgewarden.serial.portlife import Line

RATES = (9600, 115200, 19200, 38400, 4800, 57600, 230400, 2400, 1200)
"""Most common first; the first ones are heard longest when time runs out."""
SILENCE_S = 10.0
"""A sensor that says nothing for so long says nothing by itself."""
RATE_S = 2.5
"""A GPS speaks once a second: two of its seconds and a piece."""
MOST_BYTES = 2048
ANSWER_S = 0.3
"""Devices answer within 0.1 s; a USB adapter holds bytes back for 16 ms."""
TIOCGICOUNT = 0x545D  # <asm-generic/ioctls.h>
_ICOUNTER = struct.Struct("11i9i")  # <linux/serial.h>, struct serial_icounter_struct
_FRAME = 6


def is_pty(path: str) -> bool:
    """Whether a port has no rate."""
    return os.path.realpath(path).startswith("/dev/pts/")


def listen(path: str, rates: Sequence[int], limit_s: float) -> Iterator[Sample]:
    """What is heard at each rate, until ``limit_s`` has passed; nothing is sent.

    At the first rate it waits up to SILENCE_S for the first byte: without one the other rates say
    nothing either, and none of them is tried.

    Raises:
        HardwareFault: EW-SER-001, the port cannot be opened or is held; EW-SER-003, it went away
            meanwhile: that is no silence.
    """
    end_s = time.monotonic() + limit_s
    for rate in rates:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            return
        port = open_port(path, Line(rate))
        try:
            fd = port.fileno()
            before = framing_errors(fd)
            wait_s = min(left_s, SILENCE_S if rate == rates[0] else RATE_S)
            data = _gather(fd, wait_s, RATE_S)
            after = framing_errors(fd)
        finally:
            close_port(port)
        errors = None if before is None or after is None else after - before
        yield Sample(rate, data, errors)
        if not data and rate == rates[0]:
            return


def ask(
    path: str, rates: Sequence[int], unit: int, limit_s: float
) -> Iterator[tuple[Sample, Reply | None, bool]]:
    """Ask a Modbus device for its register 0 at each rate and parity; this transmits.

    Yields:
        what was heard, the answer, and whether our own question came back.
    """
    end_s = time.monotonic() + limit_s
    question = read(unit, 3, 0, 1)
    for rate in rates:
        for parity in ("none", "even"):
            if time.monotonic() >= end_s:
                return
            line = Line(rate, parity=parity)
            try:
                port = open_port(path, line)
            except HardwareFault:
                if parity == "none":
                    raise
                continue  # a driver without parity: a pseudo-terminal
            try:
                yield _ask(port.fileno(), line, question)
            finally:
                close_port(port)


def framing_errors(fd: int) -> int | None:
    """As the kernel's driver counts them since it was loaded; None where it does not."""
    room = bytearray(_ICOUNTER.size)
    try:
        fcntl.ioctl(fd, TIOCGICOUNT, room)
    except OSError:
        return None
    return int(_ICOUNTER.unpack(room)[_FRAME])


def _ask(fd: int, line: Line, question: Request) -> tuple[Sample, Reply | None, bool]:
    sent = question.adu()
    with contextlib.suppress(OSError):
        os.write(fd, sent)
    limit_s = ANSWER_S + (len(sent) + question.answer_bytes) * line.character_s
    data = _gather(fd, limit_s, limit_s)
    echo = data.startswith(sent)
    heard = data[len(sent) :] if echo else data
    reply = ReplyParser(question, FrameCounters()).feed(heard)
    return Sample(line.baud, data, None, line.parity), reply, echo


def _gather(fd: int, first_s: float, more_s: float) -> bytes:
    """At most ``first_s`` for the first byte and ``more_s`` for the others."""
    data, end_s = b"", time.monotonic() + first_s
    while len(data) < MOST_BYTES and (left_s := end_s - time.monotonic()) > 0:
        ready, _, _ = select.select([fd], [], [], left_s)
        if not ready:
            break
        try:
            got = os.read(fd, MOST_BYTES - len(data))
        except BlockingIOError:
            continue
        except OSError as fault:
            raise _lost(os.strerror(fault.errno or 0)) from fault
        if not got and hung_up(fd):
            raise _lost("end of file")
        if got and not data:
            end_s = time.monotonic() + more_s
        data += got
    return data


def _lost(reason: str) -> HardwareFault:
    return HardwareFault(
        f"serial port was lost: {reason}", code="EW-SER-003", next_step="check the plug",
        missing=True,
    )  # fmt: skip
