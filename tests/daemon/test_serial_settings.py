"""From a settings file to the bytes of a device: every format is built as it was written."""

from __future__ import annotations

import re
import struct

import pytest

from edgewarden.daemon.sensors import build_sensors, serial_settings
from edgewarden.serial.binary import CHECKS
from edgewarden.serial.modbus_bus import ModbusBus
from edgewarden.serial.portlife import Line
from edgewarden.serial.registers import Order, RegisterType
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
from edgewarden.wire.facts import Reading
from tests.cli.json_page import differs, shapes
from tests.fakes.clock import FakeClock, FakeRandomness
from tests.rules.planting import ROOT
from tests.serial.frames import cobs, slip, summed
from tests.serial.test_nmea import GGA, sealed

HEAD = '[[serial]]\nname = "s"\nport = "/dev/ttyS9"\n'
LEVEL = '[[serial.field]]\nname = "level"\nat = 1\nsenml_unit = "m"\nscale = 0.5\n'


def counted() -> bytes:
    body = struct.pack("<HBf", 2 + 2 + 5 + 2, 7, 2.5)
    return b"\xaa\x55" + body + CHECKS["crc16-modbus"].of(body).to_bytes(2, "big")


FORMATS = {
    "nmea": ('format = "nmea"', sealed(GGA), None),
    "jsonlines": ('format = "jsonlines"', b'{"level": 1.25}\n', 1.25),
    "lines": (f'format = "lines"\nseparator = "tab"\n{LEVEL}type = "number"', b"x\t2.5\n", 1.25),
    "slip": (
        f'format = "slip"\ncheck = "crc32"\nbyte_order = "little"\n{LEVEL}type = "f32"',
        slip(struct.pack("<Bf", 7, 2.5)),
        1.25,
    ),
    "cobs": ('format = "cobs"\ncheck = "crc32"', cobs(b'{"level": 1.25}'), 1.25),
    "length-crc": (
        'format = "length-crc"\nstart = "aa55"\nlength_bytes = 2\nlength_counts = "frame"\n'
        'check = "crc16-modbus"\ncheck_order = "big"\ncheck_from = "length"\n'
        f'byte_order = "little"\n{LEVEL}type = "f32"',
        counted(),
        1.25,
    ),
}


CHANNEL = '[[serial.channel]]\nname = "level"\n'


def test_busy_ports_are_read_together_but_where_the_time_of_a_value_is_judged() -> None:
    text = "".join(
        HEAD.replace('"s"', f'"s{n}"').replace("S9", f"S{n}") + 'format = "jsonlines"\n' + limits
        for n, limits in enumerate(
            ["", f"{CHANNEL}high = 3\nstuck_s = 60\n", f"{CHANNEL}max_rate_per_s = 3\n"]
        )
    )
    settings = load_settings([SourceFile("s.toml", text)])
    sensors = build_sensors(settings.serial, [].append, FakeClock(), FakeRandomness())
    plain, ranged, rated = (sensor._pace for sensor in sensors)
    assert plain is ranged is not None
    assert rated is None


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_built_as_it_was_written(name: str) -> None:
    text, data, level = FORMATS[name]
    settings = load_settings([SourceFile("s.toml", HEAD + text + "\n")])
    (sensor,) = build_sensors(settings.serial, [].append, FakeClock(), FakeRandomness())
    decoder = sensor._decoder
    assert not isinstance(decoder, ModbusBus)
    readings = decoder.feed(b"\0\xc0\n" + data, 7)
    assert decoder.counters.frames == 1
    if level is not None:
        assert [(r.name, r.value) for r in readings] == [("level", level)]
        assert isinstance(readings[0], Reading)


def test_a_modbus_port_is_built_as_it_was_written() -> None:
    text = (
        'format = "modbus-rtu"\nbaud = 19200\nparity = "even"\nstop_bits = 2\nrs485 = "rts"\n'
        "gap_ms = 20\nreply_timeout_s = 2\n"
        '[[serial.modbus]]\nname = "e"\nunit = 7\naddress = 9\nfunction = 4\ntype = "u64"\n'
        'word_order = "little"\nbyte_order = "little"\nperiod_s = 3\nscale = 0.1\n'
        '[[serial.modbus]]\nname = "on"\nunit = 7\naddress = 9\ntype = "bool"\nbit = 15\n'
    )
    settings = load_settings([SourceFile("s.toml", HEAD + text)])
    made = serial_settings(settings.serial[0])
    assert made.line == Line(19200, 8, "even", 2, True)
    assert (made.gap_s, made.reply_timeout_s) == (0.02, 2.0)
    energy, on = made.registers
    assert (energy.unit, energy.address, energy.count, energy.function) == (7, 9, 4, 4)
    assert energy.type is RegisterType.U64
    assert energy.word_order is energy.byte_order is Order.LITTLE
    assert (energy.period_s, energy.scale) == (3.0, 0.1)
    assert (on.type, on.count, on.bit) == (RegisterType.BOOL, 1, 15)


def test_what_link_tells_of_its_ports_is_the_page() -> None:
    settings = load_settings([SourceFile("s.toml", HEAD + 'format = "nmea"\n')])
    sensors = build_sensors(settings.serial, [].append, FakeClock(), FakeRandomness())
    next(iter(sensors))._decoder.feed(b"$GPGGA,noise*00\r\n", 7)
    body = {"device": "gw", "sensors": sensors.told()}
    assert differs(body, shapes()["edgewarden.sensors/1"]) == []
    (seen,) = sensors.told().values()
    assert isinstance(seen, dict)
    assert (seen["port"], seen["reason"], seen["bad_frames"]) == ("/dev/ttyS9", "not started", 1)


PAGE = (ROOT / "docs" / "serial.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_all_examples_of_the_page_are_accepted_together() -> None:
    assert len(EXAMPLES) >= 5
    settings = load_settings([SourceFile("serial.md", "\n".join(EXAMPLES))])
    sensors = build_sensors(settings.serial, [].append, FakeClock(), FakeRandomness())
    decoders = {sensor.snapshot().name: sensor._decoder for sensor in sensors}
    read = {
        "scale": b"ST,GS,  12.50,kg\r\n",
        "pump": bytes.fromhex("aa55") + summed(bytes((5,)) + struct.pack("<fB", 2.5, 1)),
    }
    found = {name: decoders[name].feed(data, 7) for name, data in read.items()}
    assert [(r.name, r.value) for r in found["scale"]] == [("stable", "ST"), ("weight", 12.5)]
    assert [(r.name, r.value) for r in found["pump"]] == [("pressure", 2.5), ("running", True)]
    bus = decoders["cabinet"]
    assert isinstance(bus, ModbusBus)
    assert [poll.block.count for poll in bus._polls] == [3, 1]


def test_every_name_of_a_bad_frame_stands_on_the_page() -> None:
    source = "".join(p.read_text() for p in (ROOT / "agent/edgewarden/serial").glob("*.py"))
    refused = re.findall(r"(?:Refused|ValueError)\(\"([a-z_]+)\"\)", source)
    refused = [name for name in refused if name not in NMEA_AND_JSON]
    assert {name for name in refused if name not in PAGE} == set()


NMEA_AND_JSON = {
    "not_ascii", "bad_unit", "bad_hemisphere", "out_of_range", "too_few_fields", "not_utf8",
    "too_many_channels", "too_deep", "number_range", "bad_name", "bad_length",
}  # fmt: skip
"""Refusals whose cause is a broken device, not a setting; their names say what it sent."""
