"""[[serial]]: the ports, how they are set up and what speaks on them.

Part of the settings' tree (schema.py), with the rules between their keys; what the bytes become is
for serial/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgewarden.settings.faults import CONTRADICTION, MISSING
from edgewarden.settings.fields import choice, number, path, tables, text, whole
from edgewarden.settings.tree import Broken

_UNIT_FORM = re.compile(r"[A-Za-z0-9%/().*-]{0,16}")

# Modbus Application Protocol V1.1b3 §6.3: function 3 reads at most 125 registers.
_MODBUS_MAX_REGISTERS = 125
# Modbus over Serial Line V1.02 §2.2: slave addresses 1 to 247.
_MODBUS_MAX_UNIT = 247


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusRegister:
    """One value read from a Modbus RTU device with function 3."""

    name: str = text(help="The channel's name in readings.", example='"temperature"')
    unit: int = whole(low=1, high=_MODBUS_MAX_UNIT, help="Device address.", example="1")
    function: int = choice(3, of=(3,), help="Read Holding Registers is the one function used.")
    address: int = whole(low=0, high=65535, help="First register, counted from 0.", example="0")
    count: int = whole(
        1, low=1, high=_MODBUS_MAX_REGISTERS, help="Registers: 1 for u16 and s16, otherwise 2."
    )
    type: str = choice(
        "u16",
        of=("u16", "s16", "u32", "s32", "f32"),
        help="How the registers are read; two registers: high word first.",
    )
    scale: float = number(1, low=-1e6, high=1e6, help="The value is multiplied by this.")
    senml_unit: str = text(
        "",
        form=_UNIT_FORM,
        rule="a SenML unit (RFC 8428 section 12.1), at most 16 characters",
        help="Unit of the scaled value.",
        example='"Cel"',
    )
    period_s: float = number(1, low=0.05, high=3600, help="Seconds between two reads.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """One serial port and what speaks on it."""

    name: str = text(help="The sensor's name in readings and in status.", example='"gps"')
    port: str = path(
        help="Device file; prefer /dev/serial/by-path, which does not change at boot.",
        example='"/dev/serial/by-path/platform-fd500000.pcie-usb-0:1.2:1.0-port0"',
    )
    baud: int = choice(
        9600,
        of=(1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600),
        help="Speed in baud.",
    )
    data_bits: int = choice(8, of=(8, 7), help="Bits of a character; Modbus RTU needs 8.")
    parity: str = choice(
        "none",
        of=("none", "even", "odd"),
        help="Parity bit. Modbus RTU's own default is even; many devices come with none.",
    )
    stop_bits: int = choice(1, of=(1, 2), help="Stop bits.")
    rs485: str = choice(
        "adapter",
        of=("adapter", "rts"),
        help="Who turns an RS-485 line around. adapter: the adapter itself, as USB adapters do; "
        "also right for RS-232. rts: the kernel drives RTS while it sends (TIOCSRS485), as boards "
        "with a transceiver on a UART need it.",
    )
    format: str = choice(of=("nmea", "jsonlines", "modbus-rtu"), help="How bytes become readings.")
    silent_s: float = number(
        10, low=1, high=86400, help="After this time without a good frame the sensor is silent."
    )
    modbus: tuple[ModbusRegister, ...] = tables(
        ModbusRegister, most=64, help="The registers to read; with format modbus-rtu only."
    )


_REGISTERS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "f32": 2}


def register_rules(register: ModbusRegister) -> Iterator[Broken]:
    """What one Modbus register must keep."""
    needed = _REGISTERS[register.type]
    if register.count != needed:
        yield ("count",), f"type {register.type} needs count = {needed}", CONTRADICTION
    if register.address + register.count > 65536:
        yield ("address",), "the last register lies beyond 65535", CONTRADICTION


def serial_rules(serial: Serial) -> Iterator[Broken]:
    """What one serial port must keep."""
    if serial.format == "modbus-rtu" and not serial.modbus:
        yield (), "format modbus-rtu needs at least one [[serial.modbus]]", MISSING
    if serial.format != "modbus-rtu" and serial.modbus:
        yield ("modbus",), f"format {serial.format} has no registers to read", CONTRADICTION
    if serial.format == "modbus-rtu" and serial.data_bits != 8:
        yield ("data_bits",), "Modbus RTU sends characters of 8 bits", CONTRADICTION
