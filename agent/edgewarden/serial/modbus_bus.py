"""The one task that speaks on a Modbus RTU port: polls every slave in turn, keeps dead ones from
costing the others.

Decides whom to ask when, and when a slave counts as dead. Leaves to others one question and its
answer (master.py), which registers go into a question and what they mean (registers.py) and the
port's life (serialport.py).

Rules, in order:

1. Only functions that read, 1 to 4, are ever asked.
2. A slave that missed is not asked for another ``reply_timeout_s``: its late answer could pass for
   the one to the next question, which content cannot tell apart when the byte counts are equal.
   Others are asked meanwhile.
3. After ``MISSES_TO_TRIP`` misses in a row the slave is left alone for 1, 2, 4, ... 60 s, and never
   for less than its shortest period: however many questions it has, a dead slave costs at most one
   timeout per period, and one per minute in the end. Tripping and recovery are told once each.
4. A question about several registers that is refused for its address or value is asked in parts
   from then on: one register that a device does not have costs only itself.
5. A poll that is late by a period or more is not made up for: the next one is due one period after
   it was asked. One that is less late keeps its beat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgewarden.errors import OperatorFault
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, FactSink
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.master import Master
from edgewarden.serial.modbus import Reply, read
from edgewarden.serial.portlife import SerialSettings
from edgewarden.serial.registers import Block, blocks, channel_names, decode_registers
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity

MISSES_TO_TRIP = 3
HOLD_FIRST_S = 1.0
HOLD_CAP_S = 60.0
DIVISIBLE = frozenset({"illegal_data_address", "illegal_data_value"})
"""What a device says of a range of which it lacks a part."""
CREATE, CLOSE = 1, 3

OnGood = Callable[[list[Reading], int], None]


@dataclass(slots=True)
class _Slave:
    """One unit on the line.

    Attributes:
        misses: requests in a row without an answer.
        not_before_s: loop time before which it is left alone.
        note: for status; "" before the first request.
        period_s: the shortest of its registers.
    """

    period_s: float
    misses: int = 0
    not_before_s: float = 0.0
    note: str = ""

    @property
    def tripped(self) -> bool:
        return self.misses >= MISSES_TO_TRIP


@dataclass(slots=True)
class _Poll:
    """One block of registers and when it is due."""

    block: Block
    due_s: float = 0.0
    told_exception: str = ""


class ModbusBus:
    """Polls the registers in ``settings`` over a descriptor that somebody else opened and reads.

    ``feed`` has the shape of every decoder; ``talk`` runs as a task as long as the port is open.
    All on the loop's thread.

    Attributes:
        voice: the unit that was asked last.
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
        self.voice = 0
        self.master = Master(
            settings.line, settings.reply_timeout_s, settings.gap_s, clock, self.counters
        )
        self._polls = [_Poll(block) for block in blocks(settings.registers)]
        self._slaves = {
            unit: _Slave(min(r.period_s for r in settings.registers if r.unit == unit))
            for unit in dict.fromkeys(register.unit for register in settings.registers)
        }

    @property
    def took_ns(self) -> int | None:
        """From the latest question to its answer; None before it."""
        return self.master.took_ns

    def feed(self, data: bytes, seen_mono_ns: int) -> list[Reading]:
        """Take bytes from the port; readings come out of ``talk``, so the list is always empty."""
        self.master.feed(data, seen_mono_ns)
        return []

    def slaves(self) -> dict[int, str]:
        """unit -> "ok" or what is wrong, for status."""
        return {unit: slave.note or "not asked yet" for unit, slave in self._slaves.items()}

    async def talk(self, fd: int, on_good: OnGood) -> None:
        """Poll until cancelled.

        Args:
            fd: the open port, non-blocking; its reader calls ``feed``.
            on_good: takes the readings of one good answer (none for an exception) and when it
                came.

        Raises:
            HardwareFault: EW-SER-003, the port refuses to be written to.
        """
        loop = asyncio.get_running_loop()
        while True:
            poll = min(self._polls, key=self._next_s)
            wait_s = self._next_s(poll) - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            first = poll.block.first
            request = read(first.unit, first.function, first.address, poll.block.count)
            self.voice, asked_s = first.unit, loop.time()
            reply = await self.master.ask(fd, request)
            on_time = asked_s < poll.due_s + first.period_s
            poll.due_s = (poll.due_s if on_time else asked_s) + first.period_s
            if reply is None:
                self._missed(poll.block)
            elif reply.exception:
                self._excepted(poll, reply.exception, on_good)
            else:
                self._answered(poll, reply, on_good)

    def _next_s(self, poll: _Poll) -> float:
        return max(poll.due_s, self._slaves[poll.block.first.unit].not_before_s)

    def _missed(self, block: Block) -> None:
        slave = self._slaves[block.first.unit]
        slave.misses += 1
        over = slave.misses - MISSES_TO_TRIP
        hold_s = self._settings.reply_timeout_s
        if over >= 0:
            doubled_s = min(HOLD_CAP_S, HOLD_FIRST_S * 2.0 ** min(over, 10))
            hold_s = max(hold_s, doubled_s, slave.period_s)
        slave.not_before_s = asyncio.get_running_loop().time() + hold_s
        slave.note = f"no answer to {slave.misses} requests"
        if over == 0:
            self._tell(block, CREATE, Severity.MEDIUM, "EW-SER-004", slave.note)

    def _speaks(self, block: Block, note: str) -> None:
        """The slave answered, whatever it said."""
        slave = self._slaves[block.first.unit]
        if slave.tripped:
            self._tell(block, CLOSE, Severity.INFORMATIONAL, "EW-SER-004", "answers again")
        slave.misses = 0
        slave.note = note

    def _excepted(self, poll: _Poll, exception: str, on_good: OnGood) -> None:
        self._speaks(poll.block, exception)
        self.counters.refuse(exception)
        parts = poll.block.registers
        if exception in DIVISIBLE and len(parts) > 1:
            at = self._polls.index(poll)
            self._polls[at : at + 1] = [_Poll(Block((part,)), poll.due_s) for part in parts]
        elif poll.told_exception != exception:
            self._tell(poll.block, CREATE, Severity.LOW, "EW-SER-005", exception)
            poll.told_exception = exception
        on_good([], self._clock.now().boot_ns)

    def _answered(self, poll: _Poll, reply: Reply, on_good: OnGood) -> None:
        self._speaks(poll.block, "ok")
        if poll.told_exception:
            self._tell(poll.block, CLOSE, Severity.INFORMATIONAL, "EW-SER-005", "answers again")
            poll.told_exception = ""
        seen_mono_ns = self._clock.now().boot_ns
        readings: list[Reading] = []
        for wanted in poll.block.registers:
            try:
                values = decode_registers(poll.block.cut(reply.data, wanted), wanted)
            except ValueError as refusal:
                self.counters.refuse(str(refusal))
                continue
            readings += [
                Reading(self._settings.name, name, wanted.senml_unit, value, seen_mono_ns)
                for name, value in zip(channel_names(wanted), values, strict=True)
            ]
        on_good(readings, seen_mono_ns)

    def _tell(
        self, block: Block, activity: int, severity: Severity, code: str, reason: str
    ) -> None:
        detail: dict[str, Plain] = {
            "peripheral_device": {
                "name": self._settings.name,
                "class": "modbus",
                "path": self._settings.port,
            },
            "unit": block.first.unit,
            "register": block.first.name,
            "reason": reason,
        }
        now_ns = self._clock.now().boot_ns
        self._sink(Event(OCSF.DETECTION_FINDING, activity, severity, now_ns, detail, code))
