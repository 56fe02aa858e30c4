"""[[serial]]: the ports, how they are set up and what speaks on them.

Part of the settings' tree (schema.py), with the rules between their keys; what the bytes become is
for serial/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edgewarden.plain import dataclass
from edgewarden.settings.channels import SerialChannel
from edgewarden.settings.faults import CONTRADICTION, MISSING
from edgewarden.settings.fields import choice, number, path, tables, text, whole
from edgewarden.settings.tree import Broken

BAUDS = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
_UNIT_FORM = re.compile(r"[A-Za-z0-9%/().*-]{0,16}")
_START_FORM = re.compile(r"(?:[0-9a-fA-F]{2}){0,8}")
# A device that sends nothing but false starts costs one checksum of a whole frame for each byte:
# 7 to 10 us with this one, a tenth of a core at 115,200 baud; the others are computed in C.
_CRC16_MODBUS_MOST = 256
_SIZES = {"u8": 1, "s8": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4, "u64": 8, "s64": 8}
_SIZES |= {"f32": 4, "f64": 8}

# Modbus Application Protocol V1.1b3 §6.3: function 3 reads at most 125 registers.
_MODBUS_MAX_REGISTERS = 125
# Modbus over Serial Line V1.02 §2.2: slave addresses 1 to 247.
_MODBUS_MAX_UNIT = 247


def _scale() -> Any:
    return number(1, low=-1e6, high=1e6, help="The value is multiplied by this.")


def _senml_unit(example: str) -> Any:
    return text(
        "",
        form=_UNIT_FORM,
        rule="a SenML unit (RFC 8428 section 12.1), at most 16 characters",
        help="Unit of the scaled value.",
        example=example,
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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
    scale: float = _scale()
    senml_unit: str = _senml_unit('"Cel"')
    period_s: float = number(1, low=0.05, high=3600, help="Seconds between two reads.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SerialField:
    """One value in every frame or line of a port."""

    name: str = text(help="The channel's name in readings.", example='"level"')
    at: int = whole(
        low=0,
        high=1023,
        help="Its first byte in the payload, or its column in a line, counted from 0.",
        example="0",
    )
    type: str = choice(
        of=("number", "bool", "text", *_SIZES),
        help="How it is read. Columns of lines are number, bool or text; a payload holds the sized "
        "numbers, bool and text.",
    )
    size: int = whole(1, low=1, high=256, help="Bytes of a text in a payload.")
    bit: int = whole(0, low=0, high=7, help="Of a bool in a payload: which bit, 0 is the lowest.")
    scale: float = _scale()
    senml_unit: str = _senml_unit('"m"')


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Serial:
    """One serial port and what speaks on it."""

    name: str = text(help="The sensor's name in readings and in status.", example='"gps"')
    port: str = path(
        help="Device file; prefer /dev/serial/by-path, which does not change at boot.",
        example='"/dev/serial/by-path/platform-fd500000.pcie-usb-0:1.2:1.0-port0"',
    )
    baud: int = choice(9600, of=BAUDS, help="Speed in baud.")
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
    format: str = choice(
        of=("nmea", "jsonlines", "lines", "slip", "cobs", "length-crc", "modbus-rtu"),
        help="How bytes become readings: NMEA 0183 sentences, one JSON object a line, columns of a "
        "line, binary frames between delimiters (SLIP, COBS) or with a length and a checksum, "
        "Modbus RTU. A frame of slip, cobs or length-crc holds what [[serial.field]] says, or one "
        "JSON object where there is none.",
    )
    silent_s: float = number(
        10,
        low=1,
        high=86400,
        help="After this time without a good frame the sensor is silent; a Modbus bus after three "
        "of its slowest device's shortest periods at least.",
    )
    max_frame_bytes: int = whole(
        256,
        low=1,
        high=1024,
        help="The longest line or payload of lines, slip, cobs and length-crc; what is longer is "
        "dropped and counted.",
    )
    check: str = choice(
        "none",
        of=("none", "sum8", "xor8", "crc16-modbus", "crc16-ccitt", "crc16-xmodem", "crc32"),
        help="Checksum at the end of a frame of slip, cobs and length-crc; the last one needs one. "
        "With cobs prefer crc32: a crc16 does not see a zero appended to its frame.",
    )
    check_order: str = choice(
        "usual",
        of=("usual", "big", "little"),
        help="Its byte order; usual: little for crc16-modbus and crc32, big for the others.",
    )
    check_from: str = choice(
        "start",
        of=("start", "length", "payload"),
        help="Where what it covers begins, with length-crc.",
    )
    start: str = text(
        "",
        form=_START_FORM,
        rule="one to eight bytes as pairs of hexadecimal digits",
        help="How every frame of length-crc begins.",
        example='"aa55"',
    )
    length_bytes: int = choice(1, of=(1, 2), help="Size of the length that follows it.")
    length_counts: str = choice(
        "payload",
        of=("payload", "rest", "frame"),
        help="What the length counts: the payload, payload and checksum, or everything.",
    )
    byte_order: str = choice(
        "big", of=("big", "little"), help="Of the length, and of the numbers in a frame."
    )
    separator: str = choice(
        "comma",
        of=("comma", "semicolon", "tab", "space"),
        help="What stands between two columns of lines; space: any run of blanks.",
    )
    field: tuple[SerialField, ...] = tables(
        SerialField, most=64, help="What a frame or a line holds; not with nmea and modbus-rtu."
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
    fingerprint: str = choice(
        "on",
        of=("on", "off"),
        help="Learn at each start how often this sensor speaks, how long its frames are or how "
        "soon it answers (256 frames; each device of a Modbus bus by itself), and tell when that "
        "changes. off for a sensor whose pace is nobody's: one that speaks when a person presses "
        "a button.",
    )
    channel: tuple[SerialChannel, ...] = tables(
        SerialChannel, most=64, help="What its values can be."
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


def field_rules(field: SerialField) -> Iterator[Broken]:
    """What one field must keep."""
    if field.scale == 0:
        yield ("scale",), "0 leaves nothing of the value", CONTRADICTION


def serial_rules(serial: Serial) -> Iterator[Broken]:
    """What one serial port must keep."""
    if serial.format == "lines" and not serial.field:
        yield (), "format lines needs at least one [[serial.field]]", MISSING
    if serial.format in ("nmea", "jsonlines", "modbus-rtu") and serial.field:
        yield ("field",), f"format {serial.format} has no fields to name", CONTRADICTION
    columns = serial.format == "lines"
    for one in serial.field:
        sized = one.type in _SIZES
        if sized == columns and one.type not in ("bool", "text"):
            kinds = "number, bool or text" if columns else "a sized number, bool or text"
            text = f"{one.name}: a field of format {serial.format} is {kinds}"
            yield ("field",), text, CONTRADICTION
        last = one.at + _SIZES.get(one.type, one.size if one.type == "text" else 1)
        if not columns and last > serial.max_frame_bytes:
            text = f"{one.name} ends at byte {last}, beyond max_frame_bytes"
            yield ("field",), text, CONTRADICTION
    if serial.format == "length-crc" and serial.check == "none":
        yield ("check",), "a length alone cannot be told from noise: name a checksum", MISSING
    if serial.check == "crc16-modbus" and serial.max_frame_bytes > _CRC16_MODBUS_MOST:
        text = f"{_CRC16_MODBUS_MOST} at most with crc16-modbus, the slowest checksum"
        yield ("max_frame_bytes",), text, CONTRADICTION
    if serial.format == "length-crc" and not serial.start:
        yield ("start",), "frames without a start cannot be found again after noise", MISSING
    if serial.format == "modbus-rtu" and not serial.modbus:
        yield (), "format modbus-rtu needs at least one [[serial.modbus]]", MISSING
    if serial.format != "modbus-rtu" and serial.modbus:
        yield ("modbus",), f"format {serial.format} has no registers to read", CONTRADICTION
    if serial.format == "modbus-rtu" and serial.data_bits != 8:
        yield ("data_bits",), "Modbus RTU sends characters of 8 bits", CONTRADICTION
