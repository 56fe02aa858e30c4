"""Questions that change a machine: Modbus functions 5, 6, 15 and 16. Nothing of the agent imports
this.

Decides how a write is written and what its answer must repeat. Leaves to others whether one may be
sent at all: an import contract (law 11, pyproject.toml) holds that no part of the agent,
the command line included, reaches this file, so that neither settings nor a fleet nor a captured
link can move a machine with code that is already here. A master of one's own may use it; ADR 31
says what a command that writes would have to bring. Pure: no I/O, no clock.

A slave answers functions 5 and 6 with the request itself, byte for byte: on a line whose adapter
echoes what it sends, that answer proves nothing. Read the value back.

Source: Modbus application protocol V1.1b3 §6.5, §6.6, §6.11, §6.12.

    write_register(17, 1, 3).adu() == bytes.fromhex("110600010003 9a9b")
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from edgewarden.errors import OurFault
from edgewarden.serial.modbus import UNIT_MAX, UNIT_MIN, Function, Request

ON, OFF = 0xFF00, 0x0000
"""V1.1b3 §6.5: nothing else is a coil's value."""
MAX_WRITE_COILS = 1968
"""V1.1b3 §6.11: 0x7B0."""
MAX_WRITE_REGISTERS = 123
"""V1.1b3 §6.12: 0x7B."""


def write_coil(unit: int, address: int, on: bool) -> Request:
    """Function 5: one coil. Raises OurFault for what the protocol cannot ask."""
    return _single(unit, Function.WRITE_SINGLE_COIL, address, ON if on else OFF)


def write_register(unit: int, address: int, value: int) -> Request:
    """Function 6: one register. Raises OurFault for what the protocol cannot ask."""
    return _single(unit, Function.WRITE_SINGLE_REGISTER, address, value)


def write_coils(unit: int, address: int, values: Sequence[bool]) -> Request:
    """Function 15: several coils. Raises OurFault for what the protocol cannot ask."""
    packed = sum(1 << i for i, on in enumerate(values) if on)
    data = packed.to_bytes((len(values) + 7) // 8, "little")
    number = Function.WRITE_MULTIPLE_COILS
    return _several(unit, number, address, len(values), MAX_WRITE_COILS, data)


def write_registers(unit: int, address: int, values: Sequence[int]) -> Request:
    """Function 16: several registers. Raises OurFault for what the protocol cannot ask."""
    if not all(0 <= value <= 0xFFFF for value in values):
        raise OurFault("a modbus register holds 0 to 65535")
    data = struct.pack(f">{len(values)}H", *values)
    number = Function.WRITE_MULTIPLE_REGISTERS
    return _several(unit, number, address, len(values), MAX_WRITE_REGISTERS, data)


def _single(unit: int, function: int, address: int, value: int) -> Request:
    if not (UNIT_MIN <= unit <= UNIT_MAX and 0 <= address <= 0xFFFF and 0 <= value <= 0xFFFF):
        raise OurFault(f"modbus cannot write {value} to {address} of {unit}")
    pdu = struct.pack(">BHH", function, address, value)
    return Request(unit, pdu, pdu, 0)


def _several(unit: int, function: int, address: int, count: int, most: int, data: bytes) -> Request:
    if not (UNIT_MIN <= unit <= UNIT_MAX and 1 <= count <= most and 0 <= address <= 65536 - count):
        raise OurFault(f"modbus cannot write {count} to {address} of {unit}")
    head = struct.pack(">BHH", function, address, count)
    return Request(unit, head + bytes((len(data),)) + data, head, 0)
