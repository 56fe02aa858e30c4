"""The virtual board: what it promises to a demo, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.serial.portlife import Format, Line, SerialSettings
from edgewarden.serial.registers import ModbusRegister, RegisterType
from hw.rigs.board import METER_BAUD, board, meter_registers
from tests.serial.ports import Running, running
from tests.waiting import until, wait_until

ROOT = Path(__file__).resolve().parents[2]
METER = (
    ModbusRegister("temperature", 1, 0, 1, RegisterType.S16, scale=0.1, period_s=0.2),
    ModbusRegister("energy", 1, 2, 2, RegisterType.U32, period_s=0.2),
)


def names(one: Running) -> set[str]:
    return {reading.name for reading in one.readings}


def test_all_three_sensors_are_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with board(tmp_path / "rig") as paths:
            gps = SerialSettings("gps", paths["gps"], Format.NMEA)
            env = SerialSettings("env", paths["env"], Format.JSONLINES)
            meter = SerialSettings(
                "meter", paths["meter"], Format.MODBUS_RTU, Line(METER_BAUD), registers=METER
            )
            async with running(gps) as a, running(env) as b, running(meter) as c:
                await until(lambda: {a.state, b.state, c.state} == {"live"}, timeout_s=60)
                await until(lambda: names(a) >= {"lat", "lon", "alt", "speed", "satellites"})
                await until(lambda: names(b) >= {"temperature", "humidity", "door_open"})
                await until(lambda: names(c) >= {"temperature", "energy"})
                await until(lambda: len(a.readings) > 9 and len(c.readings) > 3, timeout_s=60)
        assert names(b) == {"temperature", "humidity", "door_open"}
        assert names(c) == {"temperature", "energy"}
        assert not (tmp_path / "rig").exists()

    asyncio.run(scenario())


def test_registers_change_as_the_drawing_says() -> None:
    first, later = meter_registers(0), meter_registers(5)
    assert first != later
    temperature, volts, energy, power = struct.unpack(">hHIf", struct.pack(">6H", *later))
    assert 300 <= temperature <= 400
    assert 2270 <= volts <= 2330
    assert energy == 100_005
    assert 1250 <= power <= 1750


@contextlib.contextmanager
def program(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    started = subprocess.Popen(
        [sys.executable, "hw/rigs/board.py", "--dir", str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert started.stdout is not None
        yield started, json.loads(started.stdout.readline())
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGINT"])
def test_the_program_says_when_it_is_ready_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "rig"
    with program(directory) as (started, paths):
        assert set(paths) == {"gps", "env", "meter"}
        for path in paths.values():
            assert Path(path).resolve().is_char_device()
        assert started.stdin is not None
        if how == "stdin":
            started.stdin.close()
            started.stdin = None
        else:
            started.send_signal(signal.Signals[how])
        assert started.wait(timeout=60) == 0
    assert not directory.exists()


def test_the_program_ends_with_its_parent(tmp_path: Path) -> None:
    """Its standard input stays open here: only the parent is gone."""
    directory = tmp_path / "rig"
    read_end, write_end = os.pipe()
    try:
        board = f'"{sys.executable}" hw/rigs/board.py --dir "{directory}"'
        script = f'{board} >"$0" <&{read_end} & exec sleep 120'
        ready = tmp_path / "ready"
        shell = subprocess.Popen(
            ["bash", "-c", script, str(ready)],
            cwd=ROOT,
            pass_fds=[read_end],
            start_new_session=True,
        )
        wait_until(lambda: ready.exists() and ready.read_text().endswith("\n"), timeout_s=60)
        assert (directory / "gps").is_symlink()
        shell.kill()
        shell.wait()
        wait_until(lambda: not directory.exists(), timeout_s=60)
    finally:
        os.close(read_end)
        os.close(write_end)
