"""A sensor on real ptys: life, silence, unplugging, floods."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import select
import termios
import tracemalloc
from pathlib import Path

import pytest
import serial

from edgewarden.errors import HardwareFault
from edgewarden.serial.opening import close_port, open_port
from edgewarden.serial.portlife import BACKOFF_FIRST_S, Format, Line, SerialSettings
from edgewarden.serial.serialport import SETTLE_S
from edgewarden.wire.facts import OCSF, Severity
from hw.rigs.board import recorded
from hw.rigs.ptys import PtyPort
from tests.serial.ports import play, running
from tests.serial.test_nmea import GGA, sealed
from tests.steps import wakes
from tests.waiting import until

LINE = sealed(GGA)


def gps(link: Path, silent_s: float = 10.0) -> SerialSettings:
    return SerialSettings("gps", str(link), Format.NMEA, silent_s=silent_s)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def send_all(port: PtyPort, data: bytes, chunk_bytes: int = 960) -> None:
    """Send at the reader's pace: nothing may be dropped by the line itself."""
    for start in range(0, len(data), chunk_bytes):
        chunk = data[start : start + chunk_bytes]
        while chunk:
            before = port.dropped_bytes
            port.send(chunk)
            dropped = port.dropped_bytes - before
            chunk = chunk[len(chunk) - dropped :]
            await asyncio.sleep(0)


def test_the_noisy_log_over_a_real_port_yields_every_good_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link)) as gateway:
                await until(lambda: gateway.state == "open")
                await send_all(port, recorded())
                await until(lambda: gateway.sensor.snapshot().counters["frames"] == 400)
                snapshot = gateway.sensor.snapshot()
        assert snapshot.readings == len(gateway.readings) == 900
        assert snapshot.bad_frames > 0
        assert snapshot.reason == ""
        assert gateway.told == ["open", "live", "closed"]

    play(scenario())


def test_json_lines_carry_their_units(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = SerialSettings(
            "env", str(tmp_path / "env"), Format.JSONLINES, units={"temperature": "Cel"}
        )
        with PtyPort(tmp_path / "env") as port:
            async with running(settings) as gateway:
                await until(lambda: gateway.state == "open")
                port.send(b'{"temperature": 20.5}\n{"temperature": NaN}\n{"tempera')
                port.send(b'ture": 21.5}\n')
                await until(lambda: len(gateway.readings) == 2)
                snapshot = gateway.sensor.snapshot()
        assert [(r.name, r.unit, r.value) for r in gateway.readings] == [
            ("temperature", "Cel", 20.5),
            ("temperature", "Cel", 21.5),
        ]
        assert snapshot.bad_frames == 1

    play(scenario())


def test_a_missing_port_is_told_once_and_opened_when_it_appears(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = PtyPort(tmp_path / "gps")
        async with running(gps(port.link)) as gateway:
            await until(lambda: gateway.state == "reopen")
            assert "No such file" in gateway.sensor.snapshot().reason
            port.plug()
            try:
                await until(lambda: gateway.state == "open")
                port.send(LINE)
                await until(lambda: gateway.state == "live")
            finally:
                port.unplug()
        assert gateway.told == ["reopen", "open", "live", "closed"]
        assert gateway.event("reopen").code == "EW-SER-001"

    play(scenario())


def test_unplugging_and_plugging_in_again(tmp_path: Path) -> None:
    """No descriptor is lost and no event is missing."""

    async def scenario() -> None:
        port = PtyPort(tmp_path / "gps")
        async with running(gps(port.link)) as gateway:
            await until(lambda: gateway.state == "reopen")
            open_fds = descriptors()
            for i in range(3):
                port.plug()
                await until(lambda: gateway.state == "open")
                port.send(LINE)
                await until(lambda: gateway.state == "live")
                port.unplug()
                await until(lambda: gateway.state == "reopen")
                assert descriptors() == open_fds
                assert gateway.sensor._silence._timer is None
                assert gateway.sensor.snapshot().reopens == i
        assert gateway.told == ["reopen", *["open", "live", "reopen"] * 3, "closed"]
        lost = gateway.event("reopen")
        assert (lost.class_uid, lost.code) == (OCSF.PERIPHERAL_ACTIVITY, "EW-SER-003")
        assert lost.activity_id == 2

    play(scenario())


def test_another_adapter_behind_the_same_name_is_a_finding(tmp_path: Path) -> None:
    """ttyUSB0 is whatever was plugged in first; the readings alone would not show it."""
    ftdi = "0403:6001 serial A100Y922 at platform-x-usb-0:1.2:1.0-port0"
    other = "10c4:ea60 serial 0001 at platform-x-usb-0:1.2:1.0-port0"

    async def scenario() -> None:
        port = PtyPort(tmp_path / "gps")
        async with running(gps(port.link)) as gateway:
            answers = iter([ftdi, ftdi, "", other])
            gateway.sensor._adapter_of = lambda _: next(answers)
            for _ in range(4):
                port.plug()
                await until(lambda: gateway.state == "open")
                port.unplug()
                await until(lambda: gateway.state == "reopen")
        found = [word for word in gateway.told if word.startswith("EW-")]
        assert found == ["EW-USB-003"]
        event = gateway.event("EW-USB-003")
        assert (event.class_uid, event.severity_id) == (OCSF.DETECTION_FINDING, Severity.HIGH)
        assert event.detail["title"] == f"another adapter, {other}, was {ftdi}"
        device = gateway.event("open").detail["peripheral_device"]
        assert isinstance(device, dict)
        assert device["adapter"] == other

    play(scenario())


SPINS = 60
"""In 0.4 s: to look for the port takes a few. A reader left on a dead descriptor, thousands."""


def test_an_unplugged_port_does_not_spin(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = PtyPort(tmp_path / "gps")
        port.plug()
        async with running(gps(port.link)) as gateway:
            await until(lambda: gateway.state == "open")
            port.unplug()
            await until(lambda: gateway.state == "reopen")
            with wakes() as woken:
                await asyncio.sleep(0.4)
                assert woken() < SPINS

    asyncio.run(scenario())  # each look of the other loop at its clock would count


def test_bytes_that_are_gone_when_they_are_read_end_no_port(tmp_path: Path) -> None:
    """The loop was woken for a byte that a question of Modbus flushed first: VMIN 0 reads b""."""

    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link)) as gateway:
                await until(lambda: gateway.state == "open")
                fd = os.open(port.link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                loop, flushed = asyncio.get_running_loop(), asyncio.Event()

                def flush() -> None:
                    termios.tcflush(fd, termios.TCIFLUSH)
                    flushed.set()

                try:
                    port.send(b"x")
                    assert select.select([fd], [], [], 10)[0]
                    loop.call_soon(flush)  # stands in the queue before the reader does
                    await flushed.wait()
                finally:
                    os.close(fd)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert gateway.sensor.snapshot().counters["dropped_bytes"] == 0
                port.send(LINE)
                await until(lambda: gateway.state == "live")
        assert gateway.told == ["open", "live", "closed"]

    play(scenario())


def test_silence_is_told_once_however_often_the_port_is_reopened(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link, silent_s=0.1)) as gateway:
                await until(lambda: gateway.state == "open")
                port.send(LINE)
                await until(lambda: gateway.state == "silent")
                await until(lambda: gateway.sensor.snapshot().reopens >= 2)
                assert gateway.told == ["open", "live", "silent"]
                assert gateway.sensor.snapshot().silent_s > 0.2
                await until(lambda: gateway.sensor._state == "open")
                port.send(LINE)
                await until(lambda: gateway.state == "live")
                assert gateway.sensor.snapshot().silent_s < 0.1
        created, closed = gateway.event("silent"), gateway.event("live")
        assert gateway.told == ["open", "live", "silent", "live", "closed"]
        assert created.class_uid == closed.class_uid == OCSF.DETECTION_FINDING
        assert (created.activity_id, closed.activity_id) == (1, 3)
        assert (created.code, created.severity_id) == ("EW-SER-002", Severity.MEDIUM)

    play(scenario())


def test_a_silent_port_is_shown_silent_while_it_is_opened_again(tmp_path: Path) -> None:
    """It is opened again and again and looks well then; nobody would see that it is silent."""

    async def scenario() -> None:
        shown: set[str] = set()
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link, silent_s=0.1)) as gateway:
                await until(lambda: gateway.state == "silent")
                assert gateway.sensor.snapshot().reason.startswith("no good frame for ")
                assert "bytes" not in gateway.sensor.snapshot().reason

                def opened_twice() -> bool:
                    shown.add(gateway.state)
                    return gateway.sensor.snapshot().reopens >= 2

                await until(opened_twice)
                assert shown == {"silent"}
                await until(lambda: gateway.sensor._state == "open")
                port.send(b"\xfe\x80\xfe\x80")
                await until(lambda: "in 4 bytes (rate?" in gateway.sensor.snapshot().reason)
                port.unplug()
                await until(lambda: gateway.state == "reopen")
                assert "No such file" in gateway.sensor.snapshot().reason or gateway.sensor._lost

    play(scenario())


def test_the_cure_of_a_silent_port_costs_no_backoff(tmp_path: Path) -> None:
    """Closed it hears nobody: a sensor that begins to speak must not wait half a minute for us."""

    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link, silent_s=0.1)) as gateway:
                await until(lambda: gateway.sensor.snapshot().reopens >= 3)
                # What the first refusal will cost (FakeRandomness takes the least).
                assert gateway.sensor._backoff.delay_s() == BACKOFF_FIRST_S / 2

    play(scenario())


def test_noise_alone_does_not_make_a_port_live(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link, silent_s=0.2)) as gateway:
                await until(lambda: gateway.state == "open")
                while gateway.state == "open":
                    port.send(b"\xfe\x80$GPGGA,noise*00\r\n")
                    await asyncio.sleep(0.01)
                assert gateway.state == "silent"
                assert gateway.sensor.snapshot().bad_frames > 0
        assert gateway.readings == []

    play(scenario())


@pytest.mark.parametrize("form", [Format.NMEA, Format.JSONLINES])
def test_a_flood_without_end_leaves_memory_flat(tmp_path: Path, form: Format) -> None:
    chance = random.Random(7)
    flood = chance.randbytes(64 * 1024).replace(b"\n", b"\0")

    async def scenario() -> None:
        with PtyPort(tmp_path / "port") as port:
            async with running(SerialSettings("x", str(port.link), form)) as gateway:
                await until(lambda: gateway.state == "open")
                await send_all(port, flood)
                gc.collect()
                tracemalloc.start()
                try:
                    for _ in range(16):
                        await send_all(port, flood)
                    fed = 17 * len(flood)
                    await until(
                        lambda: gateway.sensor.snapshot().counters["dropped_bytes"] > fed - 5000
                    )
                    gc.collect()
                    grown_bytes, peak_bytes = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
        assert grown_bytes < 64 * 1024
        assert peak_bytes < 512 * 1024

    play(scenario())


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with PtyPort(tmp_path / "gps") as port:
        first = open_port(str(port.link), Line())
        try:
            with pytest.raises(HardwareFault, match="opened: another program holds it") as refused:
                open_port(str(port.link), Line())
        finally:
            close_port(first)
        close_port(open_port(str(port.link), Line()))
    assert refused.value.code == "EW-SER-001"
    assert refused.value.next_step


def test_a_plug_that_flutters_is_opened_four_times_a_second_at_most(tmp_path: Path) -> None:
    """The path is there each time one looks, and gone each time one opens it."""
    (tmp_path / "gps").write_text("")
    openings = 0

    def gone(path: str, line: Line) -> serial.Serial:
        nonlocal openings
        openings += 1
        raise HardwareFault("gone", code="EW-SER-001", missing=True)

    async def scenario() -> float:
        async with running(gps(tmp_path / "gps")) as gateway:
            gateway.sensor._opener = gone
            began_s = asyncio.get_running_loop().time()
            await until(lambda: openings >= 4)
            return asyncio.get_running_loop().time() - began_s

    assert play(scenario()) >= 3 * SETTLE_S


def test_a_port_that_we_may_not_open_has_its_own_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # tests run as root, who may
        raise serial.SerialException(errno.EACCES, "could not open port")

    monkeypatch.setattr("edgewarden.serial.opening.serial.Serial", refuse)
    with pytest.raises(HardwareFault, match="cannot be opened: Permission denied") as refused:
        open_port(str(tmp_path / "gps"), Line())
    assert "dialout" in refused.value.next_step
    assert "plug" not in refused.value.next_step


def test_what_is_no_port_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("")
    for path in (str(plain), "/dev/null"):
        with pytest.raises(HardwareFault, match="cannot be opened: it is no serial port"):
            open_port(path, Line())
    with pytest.raises(HardwareFault, match="cannot be opened"):
        open_port(str(tmp_path), Line())


def test_a_line_is_set_up_as_the_settings_say(tmp_path: Path) -> None:
    """What a pty takes: the speed. Its driver fixes character size and parity at 8N1."""
    with PtyPort(tmp_path / "gps") as port:
        opened = open_port(str(port.link), Line(19200, 7, "even", 2))
        try:
            asked = opened.baudrate, opened.bytesize, opened.parity, opened.stopbits
            assert asked == (19200, 7, "E", 2)
            assert termios.tcgetattr(opened.fileno())[4] == termios.B19200
        finally:
            close_port(opened)


def test_a_line_that_cannot_drive_rts_is_refused_and_closed(tmp_path: Path) -> None:
    """Half-duplex without its turn-around would talk into every answer."""
    with PtyPort(tmp_path / "meter") as port:
        before = descriptors()
        with pytest.raises(HardwareFault, match="Inappropriate ioctl"):
            open_port(str(port.link), Line(rs485=True))
        assert descriptors() == before


@pytest.mark.parametrize(
    ("line", "bits"), [(Line(), 10), (Line(parity="even"), 11), (Line(9600, 7, "odd", 2), 11)]
)
def test_a_character_takes_all_of_its_bits(line: Line, bits: int) -> None:
    assert line.character_s == pytest.approx(bits / 9600)


def test_each_read_that_completes_frames_is_seen_with_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PtyPort(tmp_path / "gps") as port:
            async with running(gps(port.link)) as gateway:
                await until(lambda: gateway.state == "open")
                port.send(LINE[:5])
                port.send(LINE[5:])
                await until(lambda: len(gateway.seen) == 1)
                port.send(b"$GPGGA,noise*00\r\n")
                await until(lambda: len(gateway.seen) == 2)
        good, bad = gateway.seen
        assert (good.source, good.frames, good.bad, good.took_ns) == ("gps", 1, 0, None)
        assert (bad.frames, bad.bad) == (0, 1)
        assert good.seen_mono_ns == gateway.readings[0].seen_mono_ns

    play(scenario())


def test_two_ports_share_one_loop(tmp_path: Path) -> None:
    """A flooded port does not keep the other from being read."""

    async def scenario() -> None:
        with PtyPort(tmp_path / "a") as loud, PtyPort(tmp_path / "b") as quiet:
            async with running(gps(loud.link)) as flooded, running(gps(quiet.link)) as calm:
                await until(lambda: flooded.state == calm.state == "open")
                for _ in range(50):
                    loud.send(b"\xaa" * 4000)
                    quiet.send(LINE)
                    await asyncio.sleep(0)
                await until(lambda: len(calm.readings) == 50 * 5)
                assert flooded.readings == []

    play(scenario())
