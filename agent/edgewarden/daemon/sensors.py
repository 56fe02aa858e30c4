"""From settings to serial sensors: sense/ does not know settings/, so the words are translated
here."""

from __future__ import annotations

from collections.abc import Iterable

from edgewarden.ports import Clock, FactSink, Randomness
from edgewarden.sense.modbus import ModbusRegister, RegisterType
from edgewarden.sense.portlife import Format, SerialSettings
from edgewarden.sense.serialport import SerialSensor, build_serial_sensor
from edgewarden.settings import schema


def build_sensors(
    wanted: Iterable[schema.Serial], sink: FactSink, clock: Clock, random: Randomness
) -> list[SerialSensor]:
    """One sensor for each [[serial]]; none is opened before its ``run``."""
    return [build_serial_sensor(serial_settings(s), sink, clock, random) for s in wanted]


def serial_settings(wanted: schema.Serial) -> SerialSettings:
    """The same port in the words of sense/."""
    return SerialSettings(
        name=wanted.name,
        port=wanted.port,
        format=Format(wanted.format),
        baud=wanted.baud,
        silent_s=wanted.silent_s,
        registers=tuple(_register(r) for r in wanted.modbus),
    )


def _register(wanted: schema.ModbusRegister) -> ModbusRegister:
    return ModbusRegister(
        name=wanted.name,
        unit=wanted.unit,
        address=wanted.address,
        count=wanted.count,
        type=RegisterType(wanted.type),
        function=wanted.function,
        scale=wanted.scale,
        senml_unit=wanted.senml_unit,
        period_s=wanted.period_s,
    )
