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
    """One value read from a Modbus RTU device. Those of one device, function and period whose
    addresses touch are asked for together; nothing is ever written to a device."""

    name: str = text(help="The channel's name in readings.", example='"temperature"')
    unit: int = whole(low=1, high=_MODBUS_MAX_UNIT, help="Device address.", example="1")
    function: int = choice(
        3,
        of=(1, 2, 3, 4),
        help="1 reads coils, 2 discrete inputs, 3 holding registers, 4 input registers.",
    )
    address: int = whole(
        low=0, high=65535, help="First bit or register, counted from 0.", example="0"
    )
    count: int | None = whole(
        low=1,
        high=_MODBUS_MAX_REGISTERS,
        absent="the type's own",
        help="Registers; needed with type text only: 1 for bool, u16 and s16, 2 for u32, s32 and "
        "f32, 4 for u64, s64 and f64.",
    )
    type: str = choice(
        "u16",
        of=("bool", "u16", "s16", "u32", "s32", "f32", "u64", "s64", "f64", "text"),
        help="How the registers are read. Functions 1 and 2 read bool. Text is ASCII, two "
        "characters to a register, up to the first zero.",
    )
    bit: int | None = whole(
        low=0,
        high=15,
        absent="0",
        help="With type bool in a register: which bit, 0 is the lowest.",
    )
    word_order: str = choice(
        "big", of=("big", "little"), help="Which register comes first where a value has several."
    )
    byte_order: str = choice(
        "big", of=("big", "little"), help="Which byte comes first in a register."
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
    reply_timeout_s: float = number(
        0.5,
        low=0.02,
        high=10,
        help="How long a Modbus device may think; the time on the wire comes on top. It is one "
        "deadline for the whole answer.",
    )
    gap_ms: int | None = whole(
        low=0,
        high=1000,
        absent="3.5 characters",
        help="How long the line rests before a Modbus request. Longer for devices that need it.",
    )
    modbus: tuple[ModbusRegister, ...] = tables(
        ModbusRegister, most=64, help="The registers to read; with format modbus-rtu only."
    )


REGISTERS = {
    "bool": 1,
    "u16": 1,
    "s16": 1,
    "u32": 2,
    "s32": 2,
    "f32": 2,
    "u64": 4,
    "s64": 4,
    "f64": 4,
}
"""Type -> registers of one value; text takes what ``count`` says."""
_BIT_FUNCTIONS = (1, 2)


def register_rules(register: ModbusRegister) -> Iterator[Broken]:
    """What one Modbus register must keep."""
    needed = REGISTERS.get(register.type, register.count)
    if needed is None:
        yield ("count",), "type text needs a count: two characters to a register", MISSING
        return
    if register.count not in (None, needed):
        yield ("count",), f"type {register.type} needs count = {needed}", CONTRADICTION
    if register.address + needed > 65536:
        yield ("address",), "the last register lies beyond 65535", CONTRADICTION
    bits = register.function in _BIT_FUNCTIONS
    if bits and register.type != "bool":
        text = f'function {register.function} reads bits: type = "bool"'
        yield ("type",), text, CONTRADICTION
    if register.bit is not None and (bits or register.type != "bool"):
        yield ("bit",), "only a bool in a register (function 3 or 4) has a bit", CONTRADICTION


def serial_rules(serial: Serial) -> Iterator[Broken]:
    """What one serial port must keep."""
    if serial.format == "modbus-rtu" and not serial.modbus:
        yield (), "format modbus-rtu needs at least one [[serial.modbus]]", MISSING
    if serial.format != "modbus-rtu" and serial.modbus:
        yield ("modbus",), f"format {serial.format} has no registers to read", CONTRADICTION
    if serial.format == "modbus-rtu" and serial.data_bits != 8:
        yield ("data_bits",), "Modbus RTU sends characters of 8 bits", CONTRADICTION
