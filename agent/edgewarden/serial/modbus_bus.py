"""The one task that speaks on a Modbus RTU port: polls every slave in turn, keeps dead ones from
costing the others.

Decides whom to ask when, when a slave counts as dead, and which bytes can answer. Leaves to others
what bytes mean (modbus.py) and the port's life (serialport.py).

Rules, in order:

1. One request on the line at a time: RS-485 is one wire for all slaves (EdgeX device-modbus #685
   locked per slave).
2. Before a request the line rests for 3.5 characters and waiting input is flushed and counted: it
   answers nothing.
3. A request has one deadline for everything, time on the wire included; bytes that keep coming do
   not extend it (pymodbus #2960 hung on continuous noise).
4. A slave that missed is not asked for another ``reply_timeout_s``: its late reply could pass for
   the answer to the next question, which content cannot tell apart when the byte counts are equal.
   Others are asked meanwhile.
5. After ``MISSES_TO_TRIP`` misses in a row the slave is left alone for 1, 2, 4, ... 60 s: a dead
   slave costs at most one timeout per period before that and one per minute in the end. Tripping
   and recovery are told once each.
6. A poll that is late is not made up for: the next one is due one period after now.
"""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable
from dataclasses import dataclass

from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.ports import Clock, FactSink
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import (
    ModbusRegister,
    Reply,
    ReplyParser,
    channel_names,
    decode_registers,
    encode_read,
)
from edgewarden.serial.portlife import SerialSettings
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity

MISSES_TO_TRIP = 3
HOLD_FIRST_S = 1.0
HOLD_CAP_S = 60.0
GAP_CHARACTERS = 3.5
GAP_MIN_S = 0.00175
"""V1.02 §2.5.1.1: fixed above 19200 baud."""
DRAIN_READ_BYTES = 4096
CREATE, CLOSE = 1, 3

OnGood = Callable[[list[Reading], int], None]


@dataclass(slots=True)
class _Slave:
    """One unit on the line.

    Attributes:
        misses: requests in a row without an answer.
        not_before_s: loop time before which it is left alone.
        note: for status; "" before the first request.
    """

    misses: int = 0
    not_before_s: float = 0.0
    note: str = ""

    @property
    def tripped(self) -> bool:
        return self.misses >= MISSES_TO_TRIP


@dataclass(slots=True)
class _Poll:
    register: ModbusRegister
    due_s: float = 0.0
    told_exception: str = ""


class ModbusBus:
    """Polls the registers in ``settings`` over a descriptor that somebody else opened and reads.

    ``feed`` has the shape of every decoder; ``talk`` runs as a task as long as the port is open.
    All on the loop's thread.

    Attributes:
        took_ns: from the latest answered question to its answer.
    """

    def __init__(self, settings: SerialSettings, sink: FactSink, clock: Clock) -> None:
        if not settings.registers:
            raise OperatorFault(
                f"sensor {settings.name} polls nothing",
                next_step="add a [[serial.modbus]] section to it",
            )
        self._settings = settings
        self._sink = sink
        self._clock = clock
        self.counters = FrameCounters()
        self._polls = [_Poll(register) for register in settings.registers]
        self._slaves = {register.unit: _Slave() for register in settings.registers}
        self._parser: ReplyParser | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._asked_ns = 0
        self.took_ns: int | None = None
        character_s = settings.line.character_s
        self._character_s = character_s
        self._gap_s = max(GAP_MIN_S, GAP_CHARACTERS * character_s)

    def feed(self, data: bytes, seen_mono_ns: int) -> list[Reading]:
        """Take bytes from the port; readings come out of ``talk``, so the list is always empty."""
        if self._parser is None or self._reply is None or self._reply.done():
            self._stale(len(data))
            return []
        reply = self._parser.feed(data)
        if reply is not None:
            self.took_ns = seen_mono_ns - self._asked_ns
            self._reply.set_result(reply)
        return []

    def slaves(self) -> dict[int, str]:
        """unit -> "ok" or what is wrong, for status."""
        return {unit: slave.note or "not asked yet" for unit, slave in self._slaves.items()}

    async def talk(self, fd: int, on_good: OnGood) -> None:
        """Poll until cancelled.

        Args:
            fd: the open port, non-blocking; its reader calls ``feed``.
            on_good: takes the readings of one good reply (none for an exception reply) and when
                it came.

        Raises:
            HardwareFault: EW-SER-003, the port refuses to be written to.
        """
        loop = asyncio.get_running_loop()
        while True:
            poll = min(self._polls, key=self._next_s)
            wait_s = self._next_s(poll) - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            reply = await self._ask(fd, poll.register)
            poll.due_s = max(poll.due_s + poll.register.period_s, loop.time())
            if reply is None:
                self._missed(poll.register)
            else:
                self._answered(poll, reply, on_good)

    def _next_s(self, poll: _Poll) -> float:
        return max(poll.due_s, self._slaves[poll.register.unit].not_before_s)

    async def _ask(self, fd: int, register: ModbusRegister) -> Reply | None:
        """One request and its answer, or None when the deadline passed."""
        await asyncio.sleep(self._gap_s)
        self._flush(fd)
        request = encode_read(register.unit, register.address, register.count)
        characters = len(request) + 5 + 2 * register.count
        deadline_s = self._settings.reply_timeout_s + characters * self._character_s
        self._parser = ReplyParser(register.unit, register.count, self.counters)
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._asked_ns = self._clock.now().boot_ns
            self._write(fd, request)
            return await asyncio.wait_for(self._reply, deadline_s)
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
            # An output buffer that cannot take 8 bytes: nobody drains it. The deadline will tell.
            self.counters.refuse("write_blocked")

    def _stale(self, count: int) -> None:
        if count:
            self.counters.resync += 1
            self.counters.dropped_bytes += count

    def _missed(self, register: ModbusRegister) -> None:
        slave = self._slaves[register.unit]
        slave.misses += 1
        over = slave.misses - MISSES_TO_TRIP
        hold_s = self._settings.reply_timeout_s
        if over >= 0:
            hold_s = max(hold_s, min(HOLD_CAP_S, HOLD_FIRST_S * 2.0 ** min(over, 10)))
        slave.not_before_s = asyncio.get_running_loop().time() + hold_s
        slave.note = f"no answer to {slave.misses} requests"
        if over == 0:
            self._tell(register, CREATE, Severity.MEDIUM, "EW-SER-004", slave.note)

    def _answered(self, poll: _Poll, reply: Reply, on_good: OnGood) -> None:
        register, slave = poll.register, self._slaves[poll.register.unit]
        if slave.tripped:
            self._tell(register, CLOSE, Severity.INFORMATIONAL, "EW-SER-004", "answers again")
        slave.misses = 0
        slave.note = reply.exception or "ok"
        values: list[float] = []
        if reply.exception:
            self.counters.refuse(reply.exception)
            if poll.told_exception != reply.exception:
                self._tell(register, CREATE, Severity.LOW, "EW-SER-005", reply.exception)
        else:
            try:
                values = decode_registers(reply.registers, register)
            except ValueError as refusal:
                self.counters.refuse(str(refusal))
            if poll.told_exception:
                self._tell(register, CLOSE, Severity.INFORMATIONAL, "EW-SER-005", "answers again")
        poll.told_exception = reply.exception
        seen_mono_ns = self._clock.now().boot_ns
        named = zip(channel_names(register), values, strict=False)
        on_good(
            [
                Reading(self._settings.name, name, register.senml_unit, value, seen_mono_ns)
                for name, value in named
            ],
            seen_mono_ns,
        )

    def _tell(
        self, register: ModbusRegister, activity: int, severity: Severity, code: str, reason: str
    ) -> None:
        detail: dict[str, Plain] = {
            "peripheral_device": {
                "name": self._settings.name,
                "class": "modbus",
                "path": self._settings.port,
            },
            "unit": register.unit,
            "register": register.name,
            "reason": reason,
        }
        now_ns = self._clock.now().boot_ns
        self._sink(Event(OCSF.DETECTION_FINDING, activity, severity, now_ns, detail, code))


def _lost(fault: Exception) -> HardwareFault:
    return HardwareFault(
        f"serial port was lost: {fault}", code="EW-SER-003", next_step="check the plug"
    )
