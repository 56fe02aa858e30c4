"""The bus against pymodbus's real slave, and against a line that lies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.master import Master
from edgewarden.serial.modbus import read, seal
from edgewarden.serial.modbus_bus import MISSES_TO_TRIP, ModbusBus
from edgewarden.serial.opening import close_port, open_port
from edgewarden.serial.portlife import Format, Line, SerialSettings
from edgewarden.serial.registers import ModbusRegister, RegisterType
from edgewarden.wire.facts import OCSF
from hw.rigs.board import METER_BAUD, meter
from hw.rigs.ptys import PtyPort
from tests.fakes.clock import FakeClock
from tests.serial.ports import Running, play, running
from tests.waiting import LONG_S, until

FAST_S = 0.02

TEMPERATURE = ModbusRegister(
    "temperature", 1, 0, 1, RegisterType.S16, scale=0.1, senml_unit="Cel", period_s=FAST_S
)
ENERGY = ModbusRegister("energy", 1, 2, 2, RegisterType.U32, senml_unit="Wh", period_s=FAST_S)
POWER = ModbusRegister("power", 1, 4, 2, RegisterType.F32, senml_unit="W", period_s=FAST_S)


def bus(link: Path, *registers: ModbusRegister, timeout_s: float = 0.1) -> SerialSettings:
    return SerialSettings(
        "meter",
        str(link),
        Format.MODBUS_RTU,
        line=Line(METER_BAUD),
        registers=registers,
        reply_timeout_s=timeout_s,
    )


Answer = Callable[[bytes], bytes]


@contextlib.asynccontextmanager
async def slaves(link: Path, answer: Answer) -> AsyncIterator[tuple[PtyPort, list[bytes]]]:
    """A line whose every request is answered by ``answer``; yields the port and the requests."""
    asked: list[bytes] = []
    with PtyPort(link) as port:

        def on_request() -> None:
            request = port.receive()
            asked.append(request)
            port.send(answer(request))

        loop = asyncio.get_running_loop()
        loop.add_reader(port.master, on_request)
        try:
            yield port, asked
        finally:
            loop.remove_reader(port.master)


def truth(request: bytes, value: int = 215) -> bytes:
    """What an honest slave answers."""
    count = int.from_bytes(request[4:6], "big")
    return seal(bytes((request[0], 3, 2 * count)) + value.to_bytes(2 * count, "big"))


def values(gateway: Running, name: str) -> list[object]:
    return [r.value for r in gateway.readings if r.name == name]


def test_three_kinds_of_registers_from_a_real_slave(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with meter(tmp_path / "meter"):
            settings = bus(tmp_path / "meter", TEMPERATURE, ENERGY, POWER)
            async with running(settings) as gateway:
                await until(lambda: len(gateway.readings) >= 30)
                assert gateway.state == "live"
                assert gateway.sensor.snapshot().slaves == {1: "ok"}
                assert gateway.sensor.snapshot().bad_frames == 0
        units = {r.name: r.unit for r in gateway.readings}
        assert units == {"temperature": "Cel", "energy": "Wh", "power": "W"}
        assert all(30 <= value <= 40 for value in values(gateway, "temperature"))
        assert all(1250 <= value <= 1750 for value in values(gateway, "power"))
        energy = values(gateway, "energy")
        assert energy == sorted(energy)
        assert len(set(energy)) > 1

    play(scenario())


def test_real_slave_behind_a_noisy_wire(tmp_path: Path) -> None:
    """Every reply comes with noise around it; every third one is damaged."""
    chance = random.Random(3)
    count = 0

    def disturb(data: bytes) -> bytes:
        nonlocal count
        count += 1
        if count % 3 == 0:
            data = data[:-1] + bytes((data[-1] ^ 0x55,))
        return chance.randbytes(20) + data + chance.randbytes(5)

    async def scenario() -> None:
        async with meter(tmp_path / "meter") as wire:
            wire.to_left = disturb
            async with running(bus(tmp_path / "meter", ENERGY)) as gateway:
                await until(lambda: len(gateway.readings) >= 10)
                snapshot = gateway.sensor.snapshot()
        assert all(100_000 <= value < 101_000 for value in values(gateway, "energy"))
        assert snapshot.counters["dropped_bytes"]

    play(scenario())


def test_an_exception_reply_is_named_and_told_once(tmp_path: Path) -> None:
    nowhere = ModbusRegister("nowhere", 1, 1000, 1, period_s=FAST_S)

    async def scenario() -> None:
        async with (
            meter(tmp_path / "meter"),
            running(bus(tmp_path / "meter", TEMPERATURE, nowhere)) as gateway,
        ):
            await until(lambda: len(values(gateway, "temperature")) >= 5)
            snapshot = gateway.sensor.snapshot()
        refusals = snapshot.counters["refusals"]
        assert isinstance(refusals, dict)
        assert refusals["illegal_data_address"] >= 2
        assert gateway.told.count("EW-SER-005") == 1
        assert gateway.event("EW-SER-005").detail["reason"] == "illegal_data_address"
        assert gateway.state == "closed"

    play(scenario())


def test_neighbours_are_one_question_on_the_line(tmp_path: Path) -> None:
    """Ten registers of one unit at three places: three requests a round, and each its own value."""
    wanted = [*range(5), *range(20, 24), 100]
    registers = [ModbusRegister(f"r{a}", 1, a, period_s=FAST_S) for a in wanted]

    def answer(request: bytes) -> bytes:
        first, count = (int.from_bytes(request[i : i + 2], "big") for i in (2, 4))
        body = b"".join(a.to_bytes(2, "big") for a in range(first, first + count))
        return seal(bytes((1, 3, len(body))) + body)

    async def scenario() -> None:
        async with (
            slaves(tmp_path / "meter", answer) as (_, asked),
            running(bus(tmp_path / "meter", *registers)) as gateway,
        ):
            await until(lambda: len(gateway.readings) >= 100)
        assert {(r.name, r.value) for r in gateway.readings} == {(f"r{a}", a) for a in wanted}
        assert {(a[2:4], a[4:6]) for a in asked} == {
            (first.to_bytes(2, "big"), count.to_bytes(2, "big"))
            for first, count in ((0, 5), (20, 4), (100, 1))
        }

    play(scenario())


def test_a_refused_range_is_asked_in_parts(tmp_path: Path) -> None:
    """One register that the device does not have costs only itself."""
    registers = [ModbusRegister(f"r{a}", 1, a, period_s=FAST_S) for a in range(3)]

    def answer(request: bytes) -> bytes:
        first, count = (int.from_bytes(request[i : i + 2], "big") for i in (2, 4))
        if first <= 1 < first + count:
            return seal(bytes((1, 0x83, 2)))
        return truth(request)

    async def scenario() -> None:
        async with (
            slaves(tmp_path / "meter", answer) as (_, asked),
            running(bus(tmp_path / "meter", *registers)) as gateway,
        ):
            await until(lambda: len(values(gateway, "r0")) >= 3 <= len(values(gateway, "r2")))
        assert values(gateway, "r1") == []
        assert [request[4:6] for request in asked].count(b"\0\x03") == 1
        assert gateway.told.count("EW-SER-005") == 1
        assert gateway.event("EW-SER-005").detail["register"] == "r1"

    play(scenario())


def test_the_gap_before_a_question_is_the_settings(tmp_path: Path) -> None:
    """At least: ten questions have nine gaps between them."""

    async def scenario() -> None:
        settings = replace(bus(tmp_path / "meter", TEMPERATURE), gap_s=0.05)
        async with slaves(tmp_path / "meter", truth) as (_, asked), running(settings):
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            await until(lambda: len(asked) >= 10)
            assert loop.time() - began_s >= 9 * 0.05

    play(scenario())


@pytest.mark.parametrize(
    "lie",
    [
        lambda request: truth(bytes((9,)) + request[1:]),
        lambda request: truth(request)[:-1],
        lambda request: truth(request)[:-1] + b"\0",
        lambda request: seal(bytes((request[0], 4, 2)) + b"\x01\x02"),
        lambda request: seal(bytes((request[0], 3, 4)) + b"\x01\x02\x03\x04"),
        lambda request: request,
        lambda request: b"",
        lambda request: b"noise without end " * 100,
    ],
    ids=["unit", "truncated", "crc", "function", "length", "echo", "nothing", "noise"],
)
def test_what_does_not_answer_is_a_miss_and_the_slave_is_left_alone(
    tmp_path: Path, lie: Answer
) -> None:
    async def scenario() -> None:
        async with slaves(tmp_path / "meter", lie) as (_, asked):
            settings = bus(tmp_path / "meter", TEMPERATURE, timeout_s=0.03)
            async with running(settings) as gateway:
                await until(lambda: "EW-SER-004" in gateway.told)
                assert gateway.sensor.snapshot().slaves == {
                    1: f"no answer to {MISSES_TO_TRIP} requests"
                }
                assert len(asked) == MISSES_TO_TRIP
                lied = sum(len(lie(request)) for request in asked)
                await until(lambda: gateway.sensor.snapshot().counters["dropped_bytes"] == lied)
        assert gateway.readings == []
        assert gateway.event("EW-SER-004").class_uid == OCSF.DETECTION_FINDING

    play(scenario())


def test_a_late_reply_is_never_taken_for_the_next_answer(tmp_path: Path) -> None:
    """Two registers of one slave with equal byte counts: content cannot tell the replies apart."""
    first = ModbusRegister("first", 1, 100, 1, period_s=FAST_S)
    second = ModbusRegister("second", 1, 200, 1, period_s=FAST_S)
    answers = {100: 111, 200: 222}

    async def scenario() -> None:
        with PtyPort(tmp_path / "meter") as port:
            loop = asyncio.get_running_loop()
            late = True

            def on_request() -> None:
                nonlocal late
                request = port.receive()
                reply = truth(request, answers[int.from_bytes(request[2:4], "big")])
                # Half a timeout too late, every other time.
                loop.call_later(0.15 if late else 0.0, port.send, reply)
                late = not late

            loop.add_reader(port.master, on_request)
            try:
                async with running(bus(port.link, first, second, timeout_s=0.1)) as gateway:
                    await until(lambda: len(gateway.readings) >= 6, timeout_s=60)
                    assert gateway.sensor.snapshot().counters["dropped_bytes"]
                await asyncio.sleep(0.2)
            finally:
                loop.remove_reader(port.master)
        assert set(values(gateway, "first")) <= {111}
        assert set(values(gateway, "second")) <= {222}

    play(scenario())


def test_a_dead_slave_does_not_cost_the_others_their_polls(tmp_path: Path) -> None:
    """One dead of eight: the seven others keep being asked between its few timeouts."""
    registers = [ModbusRegister(f"s{unit}", unit, 0, period_s=FAST_S) for unit in range(1, 9)]

    async def scenario() -> None:
        answer: Answer = lambda request: b"" if request[0] == 4 else truth(request)  # noqa: E731
        async with slaves(tmp_path / "meter", answer) as (_, asked):
            settings = bus(tmp_path / "meter", *registers, timeout_s=0.05)
            async with running(settings) as gateway:
                await until(lambda: len(gateway.readings) >= 300, timeout_s=60)
                notes = gateway.sensor.snapshot().slaves
        to_the_dead = sum(request[0] == 4 for request in asked)
        assert to_the_dead <= 6
        assert notes[4].startswith("no answer")
        assert [notes[unit] for unit in (1, 2, 3, 5, 6, 7, 8)] == ["ok"] * 7
        counts = [len(values(gateway, f"s{unit}")) for unit in (1, 2, 3, 5, 6, 7, 8)]
        assert min(counts) >= 0.9 * max(counts)
        assert gateway.told.count("EW-SER-004") == 1

    play(scenario())


def test_a_dead_slave_with_many_questions_costs_one_timeout_a_period(tmp_path: Path) -> None:
    """None is another's neighbour: each is a question of its own, and all are due at once."""
    registers = [
        ModbusRegister(f"r{at}", 1, 10 * at, period_s=period_s)
        for at, period_s in enumerate((4000.0, 3000.0, 5000.0, 3000.0, 4000.0))
    ]

    async def scenario() -> None:
        async with slaves(tmp_path / "meter", lambda request: b"") as (_, asked):
            settings = bus(tmp_path / "meter", *registers, timeout_s=0.03)
            async with running(settings) as gateway:
                await until(lambda: "EW-SER-004" in gateway.told)
                decoder = gateway.sensor._decoder
                assert isinstance(decoder, ModbusBus)
                now_s = asyncio.get_running_loop().time()
                due_s = [decoder._next_s(poll) - now_s for poll in decoder._polls]
            assert len(asked) == MISSES_TO_TRIP
        assert len(due_s) == len(registers)
        assert min(due_s) > 2000.0

    play(scenario())


def test_a_poll_that_is_late_is_asked_once_and_due_a_period_later(tmp_path: Path) -> None:
    """The first one of all is as late as can be; and one that was left alone for a time."""
    rare = replace(TEMPERATURE, name="rare", unit=2, period_s=600.0)

    async def scenario() -> None:
        settings = bus(tmp_path / "meter", rare, TEMPERATURE, timeout_s=5)
        async with slaves(tmp_path / "meter", truth) as (_, asked), running(settings) as gateway:
            await until(lambda: len(values(gateway, "temperature")) >= 5)
        assert [request[0] for request in asked].count(2) == 1

    play(scenario())


def test_a_slave_that_comes_back_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        dead = True
        answer: Answer = lambda request: b"" if dead else truth(request)  # noqa: E731
        async with slaves(tmp_path / "meter", answer):
            settings = bus(tmp_path / "meter", TEMPERATURE, timeout_s=0.03)
            async with running(settings) as gateway:
                await until(lambda: "EW-SER-004" in gateway.told)
                dead = False
                await until(lambda: len(gateway.readings) > 3, timeout_s=60)
                assert gateway.sensor.snapshot().slaves == {1: "ok"}
        assert gateway.told.count("EW-SER-004") == 2
        assert gateway.event("EW-SER-004").activity_id == 3

    play(scenario())


def test_each_answer_is_seen_with_who_gave_it_and_a_damaged_one_without_a_time(
    tmp_path: Path,
) -> None:
    other = replace(TEMPERATURE, name="other", unit=2)

    def answer(request: bytes) -> bytes:
        said = truth(request)
        return said if request[0] == 1 else said[:-1] + bytes((said[-1] ^ 1,))

    async def scenario() -> None:
        async with slaves(tmp_path / "meter", answer):
            settings = bus(tmp_path / "meter", TEMPERATURE, other, timeout_s=0.03)
            async with running(settings) as gateway:
                await until(lambda: {seen.voice for seen in gateway.seen} == {1, 2})
        for seen in gateway.seen:
            assert (seen.frames, seen.bad) == ((1, 0) if seen.voice == 1 else (0, 1))
            assert (seen.took_ns is None) == (seen.voice == 2)

    play(scenario())


def test_continuous_noise_does_not_extend_the_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "meter") as port:
            settings = bus(port.link, TEMPERATURE, timeout_s=0.05)
            async with running(settings) as gateway:
                loop = asyncio.get_running_loop()
                started_s = loop.time()
                while "EW-SER-004" not in gateway.told:
                    port.send(b"\x01\x03\x02\xaa" * 16)
                    await asyncio.sleep(0.001)
                    # Three deadlines, two rests of one timeout between them: half a second, and
                    # what the machine adds. One that noise extends does not end at all.
                    assert loop.time() - started_s < 5.0

    play(scenario())


def test_unplugging_between_request_and_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "meter") as port:
            async with running(bus(port.link, TEMPERATURE, timeout_s=5.0)) as gateway:
                await until(port.receive)
                port.unplug()
                await until(lambda: gateway.state == "reopen", timeout_s=4.0)
        assert gateway.told == ["open", "reopen", "closed"]
        assert gateway.event("reopen").code == "EW-SER-003"

    play(scenario())


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    nan = bytes.fromhex("7fc00000")

    async def scenario() -> None:
        answer: Answer = lambda request: seal(bytes((1, 3, 4)) + nan)  # noqa: E731
        async with (
            slaves(tmp_path / "meter", answer),
            running(bus(tmp_path / "meter", POWER)) as gateway,
        ):
            await until(lambda: gateway.sensor.snapshot().bad_frames >= 2)
            assert gateway.sensor.snapshot().counters["refusals"] == {
                "not_finite": gateway.sensor.snapshot().bad_frames
            }
        assert gateway.readings == []

    play(scenario())


def test_an_answer_that_waits_in_the_kernel_answers_no_later_question(tmp_path: Path) -> None:
    """Between the last look at the port and the question: flushed, or it would be believed."""

    async def scenario() -> None:
        with PtyPort(tmp_path / "meter") as port:
            opened = open_port(str(port.link), Line())
            asking = Master(Line(), 0.05, 0.0, FakeClock(), FrameCounters())
            fd, loop = opened.fileno(), asyncio.get_running_loop()
            try:
                question = read(1, 3, 0, 1)
                port.send(truth(question.adu(), 666))
                assert select.select([fd], [], [], LONG_S)[0], "it waits in the kernel"
                answer = asyncio.create_task(asking.ask(fd, question))
                await until(port.receive)
                loop.add_reader(fd, lambda: asking.feed(opened.read(4096), 0))
                assert await answer is None
                loop.remove_reader(fd)
            finally:
                close_port(opened)
            assert asking.counters.dropped_bytes == len(truth(question.adu()))

    play(scenario())


def test_a_port_that_is_asked_rarely_is_not_silent_between_two_polls() -> None:
    rare = ModbusRegister("rare", 1, 0, period_s=60.0)
    settings = SerialSettings("meter", "/dev/null", Format.MODBUS_RTU, registers=(rare,))
    assert Running(settings, FakeClock()).sensor._silence.silent_s == 180.0


def test_a_slave_that_is_asked_rarely_makes_no_silence_when_it_is_the_last() -> None:
    """The one that is asked each second is dead: the other speaks once a minute, as it should."""
    both = tuple(ModbusRegister(f"r{n}", n, 0, period_s=p) for n, p in ((1, 1.0), (2, 60.0)))
    both += (ModbusRegister("also", 2, 9, period_s=300.0),)
    settings = SerialSettings("meter", "/dev/null", Format.MODBUS_RTU, registers=both)
    assert Running(settings, FakeClock()).sensor._silence.silent_s == 180.0


def test_a_bus_without_registers_is_the_operators_fault() -> None:
    settings = SerialSettings("meter", "/dev/null", Format.MODBUS_RTU)
    with pytest.raises(OperatorFault, match="polls nothing"):
        ModbusBus(settings, lambda _: None, FakeClock())


def test_bytes_that_nobody_asked_for_are_dropped_and_counted() -> None:
    settings = SerialSettings("meter", "/dev/null", Format.MODBUS_RTU, registers=(TEMPERATURE,))
    under_test = ModbusBus(settings, lambda _: None, FakeClock())
    assert under_test.feed(truth(read(1, 3, 0, 1).adu()), 0) == []
    assert under_test.counters.frames == 0
    assert under_test.counters.dropped_bytes == 7
