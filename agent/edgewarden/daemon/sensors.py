"""From settings to serial sensors: serial/ knows neither settings/ nor sense/, so the words are
translated here and the question which adapter a port leads to is handed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgewarden.ports import Clock, FactSink, Randomness
from edgewarden.sense.adapter import adapter_of
from edgewarden.serial.binary import CHECKS, ByteOrder, Counts, Layout, Start
from edgewarden.serial.fields import Field, FieldType
from edgewarden.serial.portlife import Format, Framing, Line, SensorState, SerialSettings
from edgewarden.serial.registers import ModbusRegister, Order, RegisterType
from edgewarden.serial.serialport import SerialSensor, build_serial_sensor
from edgewarden.settings import serial as schema

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}


def build_sensors(
    wanted: Iterable[schema.Serial], sink: FactSink, clock: Clock, random: Randomness
) -> list[SerialSensor]:
    """One sensor for each [[serial]]; none is opened before its ``run``."""
    return [
        build_serial_sensor(serial_settings(s), sink, clock, random, adapter_of) for s in wanted
    ]


def told(sensors: Iterable[SerialSensor]) -> dict[str, object]:
    """link's answer to `edgewarden sensors`: name -> everything that is known of the port."""
    return {seen.name: _told(seen) for seen in (sensor.snapshot() for sensor in sensors)}


def _told(seen: SensorState) -> dict[str, object]:
    return {
        "state": str(seen.state),
        "readings": seen.readings,
        "bad_frames": seen.bad_frames,
        "silent_s": round(seen.silent_s, 3),
        "port": seen.port,
        "adapter": seen.adapter,
        "reason": seen.reason,
        "reopens": seen.reopens,
        "counters": dict(seen.counters),
        "slaves": {str(unit): note for unit, note in seen.slaves.items()},
    }


def serial_settings(wanted: schema.Serial) -> SerialSettings:
    """The same port in the words of serial/."""
    return SerialSettings(
        name=wanted.name,
        port=wanted.port,
        format=Format(wanted.format),
        line=Line(
            wanted.baud, wanted.data_bits, wanted.parity, wanted.stop_bits, wanted.rs485 == "rts"
        ),
        silent_s=wanted.silent_s,
        framing=_framing(wanted),
        registers=tuple(_register(r) for r in wanted.modbus),
        reply_timeout_s=wanted.reply_timeout_s,
        gap_s=None if wanted.gap_ms is None else wanted.gap_ms / 1000,
    )


def _framing(wanted: schema.Serial) -> Framing:
    check, usual = CHECKS[wanted.check], wanted.check_order == "usual"
    if not usual:
        check = replace(check, order=_order(wanted.check_order))
    layout = Layout(
        start=bytes.fromhex(wanted.start),
        length_bytes=wanted.length_bytes,
        length_order=_order(wanted.byte_order),
        counts=Counts(wanted.length_counts),
        check=check,
        check_from=Start(wanted.check_from),
    )
    return Framing(
        max_frame_bytes=wanted.max_frame_bytes,
        check=check,
        layout=layout if wanted.format == "length-crc" else None,
        fields=tuple(
            Field(f.name, f.at, FieldType(f.type), f.scale, f.senml_unit, f.bit, f.size)
            for f in wanted.field
        ),
        byte_order=_order(wanted.byte_order),
        separator=SEPARATORS[wanted.separator],
    )


def _order(word: str) -> ByteOrder:
    return "little" if word == "little" else "big"


def _register(wanted: schema.ModbusRegister) -> ModbusRegister:
    return ModbusRegister(
        name=wanted.name,
        unit=wanted.unit,
        address=wanted.address,
        count=wanted.count or schema.REGISTERS[wanted.type],
        type=RegisterType(wanted.type),
        function=wanted.function,
        scale=wanted.scale,
        senml_unit=wanted.senml_unit,
        period_s=wanted.period_s,
        word_order=Order(wanted.word_order),
        byte_order=Order(wanted.byte_order),
        bit=wanted.bit or 0,
    )
