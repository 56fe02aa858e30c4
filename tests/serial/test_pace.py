"""When a port is busy, and what reading at a pace does to its bytes: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.serial.pace import (
    BUSY_BYTES,
    FULL_BYTES,
    GATHER_S,
    GONE,
    QUIET_BYTES,
    SPAN_LEAST_S,
    SPAN_MOST_S,
    Busy,
    Pace,
    Read,
    Readable,
)
from edgewarden.serial.portlife import Format, SerialSettings
from edgewarden.serial.registers import ModbusRegister
from edgewarden.serial.serialport import READ_BYTES, SerialSensor, build_serial_sensor
from edgewarden.wire.facts import Event, Reading
from hw.rigs.ptys import PtyPort
from tests.fakes.clock import FakeRandomness
from tests.serial.ports import LoopClock, play
from tests.waiting import until


def busy_after(bytes_s: float, reads_s: float, lasts_s: float = 3.0) -> bool:
    """Whether a line of that rate, read so often, is busy at some time."""
    busy, size = Busy(), round(bytes_s / reads_s)
    return any(busy.woken(size, at / reads_s) for at in range(round(lasts_s * reads_s)))


@pytest.mark.parametrize("reads_s", [20, 100, 700])
@pytest.mark.parametrize(
    ("bytes_s", "expected"),
    [(960, False), (3840, False), (5760, True), (11520, True), (19200, True), (46080, False),
     (92160, False)],
)  # fmt: skip
def test_a_port_is_busy_from_57600_baud_to_what_a_round_can_take(
    bytes_s: int, reads_s: int, expected: bool
) -> None:
    assert busy_after(bytes_s, reads_s) is expected


def test_sentences_once_a_second_are_not_busy_however_fast_the_line_is() -> None:
    busy = Busy()
    for second in range(20):
        for read in range(15):
            assert not busy.woken(BUSY_BYTES // 16, second + read * 0.013)


def test_a_busy_port_stays_so_while_rounds_find_neither_little_nor_too_much() -> None:
    sizes = [0, QUIET_BYTES - 1, QUIET_BYTES, 576, 1152, FULL_BYTES, FULL_BYTES + 1, READ_BYTES]
    assert [Busy.lasts(size) for size in sizes] == [
        False, False, True, True, True, True, False, False,
    ]  # fmt: skip


@given(st.floats(5400, 20000))
def test_what_is_busy_stays_busy_at_that_rate(bytes_s: float) -> None:
    """No flutter: the bounds of the two rules do not cross."""
    assert BUSY_BYTES / SPAN_MOST_S <= bytes_s <= BUSY_BYTES / SPAN_LEAST_S
    assert Busy.lasts(round(bytes_s * GATHER_S))


class Line:
    """A pipe that is read as a port is, and what each read found."""

    def __init__(self, pace: Pace | None) -> None:
        self.fd, self._end = os.pipe2(os.O_NONBLOCK)
        self.reads: list[bytes] = []
        self.sent = 0
        self.faults = 0
        self.readable = Readable(self.fd, self._read, pace)

    def _read(self, fd: int, woken: bool) -> int:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, READ_BYTES)
            if not data and woken:
                return GONE
        self.reads.append(data)
        return len(data)

    def send(self, data: bytes) -> None:
        self.sent += os.write(self._end, data)

    def hang_up(self) -> None:
        os.close(self._end)
        self._end = -1

    def close(self) -> None:
        self.readable.close()
        for fd in (self.fd, self._end):
            if fd >= 0:
                os.close(fd)


async def speak(pace: Pace, ports: int, send: Callable[[int], int]) -> None:
    """Have ``send(bytes)`` send as much as a line of 115,200 baud brings, until the ports are busy.

    Args:
        send: returns how many it sent.
    """
    loop = asyncio.get_running_loop()
    began_s, sent = loop.time(), 0
    while len(pace._ports) < ports:
        passed_s = loop.time() - began_s
        assert passed_s < 20, "never busy"
        sent += send(min(2000, round(passed_s * 11520) - sent))
        await asyncio.sleep(0.04)


async def make_busy(pace: Pace, *lines: Line) -> None:
    def send(count: int) -> int:
        for line in lines:
            line.send(b"x" * count)
        return count

    await speak(pace, len(lines), send)


def test_busy_ports_are_read_in_one_round_and_quiet_ones_at_once_again() -> None:
    async def work() -> None:
        pace = Pace()
        lines = [Line(pace), Line(pace)]
        await make_busy(pace, *lines)
        loop = asyncio.get_running_loop()
        before, began_s = len(lines[0].reads), loop.time()
        for line in lines:
            line.send(b"a" * 600)
        for _ in range(40):
            for line in lines:
                line.send(b"a" * 30)
            await asyncio.sleep(0)
        await until(lambda: all(sum(map(len, line.reads)) == line.sent for line in lines))
        rounds = 2 + (loop.time() - began_s) / GATHER_S
        assert all(len(line.reads) - before <= rounds for line in lines), "gathered"
        # Nothing more comes: the next round lets them go, and a byte wakes the loop again.
        await until(lambda: all(b"" in line.reads for line in lines))
        await asyncio.sleep(2.5 * GATHER_S)
        assert all(line.reads[-2:] != [b"", b""] for line in lines), "no round goes on without them"
        lines[0].send(b"y")
        await until(lambda: b"y" in lines[0].reads)
        for line in lines:
            line.close()

    play(work())


def test_a_read_that_raises_keeps_neither_the_others_nor_the_next_round() -> None:
    async def work() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, word: told.append(word))
        pace = Pace()
        first, second = Line(pace), Line(pace)
        await make_busy(pace, first, second)
        first.faults, before = 1, len(second.reads)
        for line in (first, second):
            line.send(b"z" * 600)
        pace._round()
        assert (first.faults, len(second.reads)) == (0, before + 1)
        await until(lambda: any(read.endswith(b"z" * 600) for read in first.reads))
        (word,) = told
        assert isinstance(word, dict)
        assert isinstance(word["exception"], ZeroDivisionError)
        first.close()
        second.close()

    play(work())


def test_a_port_that_is_gone_is_read_no_more_in_either_way() -> None:
    async def work() -> None:
        pace = Pace()
        paced, woken = Line(pace), Line(None)
        await make_busy(pace, paced)
        for line in (paced, woken):
            line.hang_up()
        gone = [0, 0]
        for at, line in enumerate((paced, woken)):
            read = line._read

            def counted(fd: int, woken: bool, at: int = at, read: Read = read) -> int:
                size = read(fd, woken)
                gone[at] += size == GONE
                return size

            line.readable._read = counted
        await until(lambda: gone == [1, 1])
        await asyncio.sleep(2 * GATHER_S)
        assert gone == [1, 1]
        paced.close()
        woken.close()

    play(work())


def sensor_on(
    port: PtyPort, facts: list[Event | Reading], pace: Pace, form: Format = Format.JSONLINES
) -> SerialSensor:
    registers = (ModbusRegister("r", 1, 0),) if form is Format.MODBUS_RTU else ()
    settings = SerialSettings("s", str(port.link), form, registers=registers)
    return build_serial_sensor(
        settings, facts.append, LoopClock(), FakeRandomness(), lambda _: "", pace=pace
    )


def test_every_line_of_a_busy_port_arrives_in_order_in_either_way(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        facts: list[Event | Reading] = []
        with PtyPort(tmp_path / "s") as port:
            task = asyncio.create_task(sensor_on(port, facts, pace := Pace()).run())
            await until(lambda: bool(facts))
            count = 0

            def send(size: int) -> int:
                nonlocal count
                data = b""
                while len(data) < size:
                    data += b'{"n": %d, "pad": "%s"}\n' % (count, b"x" * 10)
                    count += 1
                port.send(data)
                return len(data)

            for _ in range(3):
                await speak(pace, 1, send)
                send(700)
                await until(lambda: len(facts) == 2 + 2 * count)
                await until(lambda: not pace._ports)
                send(100)
                await until(lambda: len(facts) == 2 + 2 * count)
            task.cancel()
            await asyncio.wait([task])
        values = [f.value for f in facts if isinstance(f, Reading) and f.name == "n"]
        assert values == list(range(count))
        assert port.dropped_bytes == 0

    play(work())


def test_a_port_that_is_pulled_while_it_is_busy_is_told_once_and_opened_again(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        facts: list[Event | Reading] = []
        with PtyPort(tmp_path / "s") as port:
            sensor = sensor_on(port, facts, pace := Pace())
            task = asyncio.create_task(sensor.run())
            await until(lambda: bool(facts))

            def send(size: int) -> int:
                port.send(b'{"n": 1}\n' * (size // 9))
                return size // 9 * 9

            await speak(pace, 1, send)
            port.unplug()
            await until(lambda: not pace._ports)
            port.plug()
            await until(lambda: sensor.snapshot().reopens == 1)
            told = [str(fact.detail["state"]) for fact in facts if isinstance(fact, Event)]
            assert told[:3] == ["open", "live", "reopen"]
            before = len(facts)
            port.send(b'{"n": 2}\n')
            await until(lambda: len(facts) > before and isinstance(facts[-1], Reading))
            await speak(pace, 1, send)
            task.cancel()
            await asyncio.wait([task])
            assert not pace._ports, "a port that is closed is in no round"

    play(work())


def test_a_port_that_answers_questions_is_never_read_at_a_pace(tmp_path: Path) -> None:
    with PtyPort(tmp_path / "s") as port:

        async def work() -> None:
            pace = Pace()
            assert sensor_on(port, [], pace)._pace is pace
            assert sensor_on(port, [], pace, Format.MODBUS_RTU)._pace is None

        play(work())
