"""One question and its answer on an open Modbus RTU line.

Decides which bytes can answer and when it is too late. Leaves to others whom to ask and when
(modbus_bus.py), what bytes mean (modbus.py, registers.py) and the port's life (serialport.py).

Rules, in order:

1. One question on the line at a time: RS-485 is one wire for all slaves (EdgeX device-modbus #685
   locked per slave).
2. Before it the line rests for the gap and waiting input is flushed and counted: it answers
   nothing. The gap is 3.5 characters unless the settings give another one: some devices and
   adapters need a longer one, and some break under a strict one (ESPHome #17180).
3. A question has one deadline for everything, time on the wire included; bytes that keep coming do
   not extend it (pymodbus #2960 hung on continuous noise).

    reply = await Master(Line(19200), 0.5, None, clock, counters).ask(fd, read(1, 3, 0, 2))
"""

from __future__ import annotations

import asyncio
import os
import termios

from edgewarden.errors import HardwareFault
from edgewarden.ports import Clock
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import Reply, ReplyParser, Request
from edgewarden.serial.portlife import Line

GAP_CHARACTERS = 3.5
GAP_MIN_S = 0.00175
"""V1.02 §2.5.1.1: fixed above 19200 baud."""
DRAIN_READ_BYTES = 4096


class Master:
    """The side that asks. All on the loop's thread; whoever reads the port calls ``feed``.

    Args:
        line: how characters travel: time on the wire is part of the deadline.
        reply_timeout_s: how long a slave may think.
        gap_s: how long the line rests before a question; None for the specification's.
        clock: for ``took_ns``.
        counters: noise, wrong checksums, bytes that answer nothing.

    Attributes:
        took_ns: from the latest question to its answer; None before it.
        asked: questions put on the line.
    """

    def __init__(
        self,
        line: Line,
        reply_timeout_s: float,
        gap_s: float | None,
        clock: Clock,
        counters: FrameCounters,
    ) -> None:
        self._character_s = line.character_s
        self._timeout_s = reply_timeout_s
        self._gap_s = max(GAP_MIN_S, GAP_CHARACTERS * line.character_s) if gap_s is None else gap_s
        self._clock = clock
        self.counters = counters
        self._parser: ReplyParser | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._asked_ns = 0
        self.took_ns: int | None = None
        self.asked = 0

    def feed(self, data: bytes, seen_mono_ns: int) -> None:
        """Take bytes from the port; those that nobody asked for are counted and dropped."""
        if self._parser is None or self._reply is None or self._reply.done():
            self._stale(len(data))
            return
        reply = self._parser.feed(data)
        if reply is not None:
            self.took_ns = seen_mono_ns - self._asked_ns
            self._reply.set_result(reply)

    def deadline_s(self, request: Request) -> float:
        """All the time that a question has."""
        characters = len(request.pdu) + 3 + request.answer_bytes
        return self._timeout_s + characters * self._character_s

    async def ask(self, fd: int, request: Request) -> Reply | None:
        """One question and its answer, or None when the deadline passed.

        Args:
            fd: the open port, non-blocking.

        Raises:
            HardwareFault: EW-SER-003, the port refuses to be read or written.
        """
        await asyncio.sleep(self._gap_s)
        self._flush(fd)
        self._parser = ReplyParser(request, self.counters)
        self._reply = asyncio.get_running_loop().create_future()
        self._asked_ns, self.took_ns = self._clock.now().boot_ns, None
        self.asked += 1
        try:
            self._write(fd, request.adu())
            # Not wait_for: that of CPython 3.11 takes an answer for an answer to its cancellation.
            async with asyncio.timeout(self.deadline_s(request)):
                return await self._reply
        except TimeoutError:
            self._parser.abandon()
            return None
        finally:
            self._parser = self._reply = None

    def _flush(self, fd: int) -> None:
        try:
            # One read counts what waits; the flush drops what arrives meanwhile.
            self._stale(len(os.read(fd, DRAIN_READ_BYTES)))
        except BlockingIOError:
            return
        except OSError as fault:
            raise _lost(fault) from fault
        try:
            termios.tcflush(fd, termios.TCIFLUSH)
        except termios.error as fault:
            raise _lost(fault) from fault

    def _write(self, fd: int, request: bytes) -> None:
        try:
            sent = os.write(fd, request)
        except BlockingIOError:
            sent = 0
        except OSError as fault:
            raise _lost(fault) from fault
        if sent != len(request):
            # An output buffer that cannot take one request: nobody drains it. The deadline tells.
            self.counters.refuse("write_blocked")

    def _stale(self, count: int) -> None:
        if count:
            self.counters.resync += 1
            self.counters.dropped_bytes += count


def _lost(fault: Exception) -> HardwareFault:
    return HardwareFault(
        f"serial port was lost: {fault}", code="EW-SER-003", next_step="check the plug"
    )
