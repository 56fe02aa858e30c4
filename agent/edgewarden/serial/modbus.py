"""Modbus RTU, master's side, as pure functions: a request to bytes, bytes to a reply, registers to
values.

Decides whether bytes answer one certain request, and what the registers mean. Leaves to others the
line, its deadlines and which slave to ask (modbus_bus.py). Pure: no I/O, no clock. Function 3
(read holding registers) only.

A reply is found by content and not by silence on the line: USB adapters hold bytes back for 16 ms
and more, so the 3.5 characters of the standard cannot be seen from here. Rules, in order:

1. Unit, function and byte count must be those of the request, then the CRC must match; otherwise
   slide by one byte. An echo of our own request (RS-485 adapters), noise and the replies of other
   units are slid over in this way.
2. An exception reply (function | 0x80) with a right CRC answers the request; it is named, never
   guessed at.
3. At most ``MAX_ADU_BYTES`` are held; bytes that can no longer begin the reply are dropped.
4. A value that is not a finite number is refused by name.

What content cannot tell: a late reply of the same unit with the same byte count to an earlier
request. The bus keeps those apart in time.

Sources: Modbus application protocol V1.1b3 §6.3, §7; Modbus over serial line V1.02 §2.5.1, §6.2.2.

    encode_read(unit=1, address=0, count=2) == bytes.fromhex("010300000002c40b")
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum

from edgewarden.errors import OperatorFault
from edgewarden.serial.framing import FrameCounters

# --- constants of the specification ---
READ_HOLDING_REGISTERS = 3
EXCEPTION_BIT = 0x80
MAX_READ_REGISTERS = 125
"""V1.1b3 §6.3: 0x7D."""
MAX_ADU_BYTES = 256
"""V1.02 §2.5.1: address + PDU + CRC."""
UNIT_MIN, UNIT_MAX = 1, 247
"""V1.02 §2.2: 0 is broadcast, 248-255 reserved."""
EXCEPTIONS = {
    1: "illegal_function",
    2: "illegal_data_address",
    3: "illegal_data_value",
    4: "server_device_failure",
    5: "acknowledge",
    6: "server_device_busy",
    8: "memory_parity_error",
    10: "gateway_path_unavailable",
    11: "gateway_target_failed_to_respond",
}


class RegisterType(StrEnum):
    """How registers become a number."""

    U16 = "u16"
    S16 = "s16"
    U32 = "u32"
    S32 = "s32"
    F32 = "f32"


class Order(StrEnum):
    """BIG is the specification's; makers differ for words within 32 bits, and some for bytes
    within a word."""

    BIG = "big"
    LITTLE = "little"


_STRUCT = {
    RegisterType.U16: struct.Struct(">H"),
    RegisterType.S16: struct.Struct(">h"),
    RegisterType.U32: struct.Struct(">I"),
    RegisterType.S32: struct.Struct(">i"),
    RegisterType.F32: struct.Struct(">f"),
}


@dataclass(frozen=True, slots=True)
class ModbusRegister:
    """One block of registers to poll.

    Attributes:
        name: channel; with more than one value in the block ``name.0``, ``name.1``, ...
        unit: slave address, 1 to 247.
        address: first register as on the wire (0-based).
        count: registers to read; a multiple of the type's width (u16, s16: 1; the others: 2).
        scale: the number is multiplied with it.
        senml_unit: SenML unit of the scaled number.
        period_s: how often to ask.

    Raises OperatorFault (EW-SET-001) when the values contradict each other.
    """

    name: str
    unit: int
    address: int
    count: int = 1
    type: RegisterType = RegisterType.U16
    function: int = READ_HOLDING_REGISTERS
    scale: float = 1.0
    senml_unit: str = ""
    period_s: float = 1.0
    word_order: Order = Order.BIG
    byte_order: Order = Order.BIG

    def __post_init__(self) -> None:
        width = _STRUCT[RegisterType(self.type)].size // 2
        checks = {
            "function": self.function == READ_HOLDING_REGISTERS,
            "unit": UNIT_MIN <= self.unit <= UNIT_MAX,
            "address": 0 <= self.address <= 0xFFFF and self.address + self.count <= 0x10000,
            "count": 1 <= self.count <= MAX_READ_REGISTERS and self.count % width == 0,
            "scale": math.isfinite(self.scale) and self.scale != 0,
            "period_s": 0.01 <= self.period_s < math.inf,
        }
        for name, holds in checks.items():
            if not holds:
                raise OperatorFault(
                    f"modbus register {self.name!r} cannot have {name} = {getattr(self, name)}",
                    next_step=f"correct {name} in the [[serial.modbus]] section",
                )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a slave answered: registers as raw bytes (two per register), or the name of an
    exception."""

    registers: bytes = b""
    exception: str = ""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes) -> int:
    """CRC-16/MODBUS of ``data`` (V1.02 §6.2.2)."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def seal(body: bytes) -> bytes:
    """Return ``body`` with its CRC, low byte first."""
    return body + crc16(body).to_bytes(2, "little")


def encode_read(unit: int, address: int, count: int) -> bytes:
    """Return the request "read ``count`` holding registers from ``address``" for ``unit``."""
    return seal(struct.pack(">BBHH", unit, READ_HOLDING_REGISTERS, address, count))


class ReplyParser:
    """Finds the one reply that answers one request.

    Args:
        unit, count: of the request.
        counters: where noise and wrong checksums are counted.
    """

    def __init__(self, unit: int, count: int, counters: FrameCounters) -> None:
        self._head = bytes((unit, READ_HOLDING_REGISTERS, 2 * count))
        self._exception_head = bytes((unit, READ_HOLDING_REGISTERS | EXCEPTION_BIT))
        self._buffer = b""
        self._counters = counters

    @property
    def held_bytes(self) -> int:
        """Bytes kept; never more than ``MAX_ADU_BYTES``."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Reply | None:
        """Return the reply once it is whole, else None. Bytes after it are dropped and counted."""
        buffer = self._buffer + data
        hold = len(buffer)
        for start in range(len(buffer)):
            length = self._length_at(buffer, start)
            if length is None:
                continue
            if start + length > len(buffer):
                # May still become the reply, but noise may look so too: look on behind it.
                hold = min(hold, start)
            elif crc16(buffer[start : start + length]) == 0:  # a frame with its own CRC sums to 0
                self._drop(len(buffer) - length)
                self._buffer = b""
                self._counters.frames += 1
                return self._reply(buffer[start : start + length])
            elif start < hold:  # what lies behind hold is looked at again
                self._counters.crc_bad += 1
        self._drop(hold)
        self._buffer = buffer[hold:]
        return None

    def abandon(self) -> int:
        """The deadline passed: drop what is held; return how many bytes that was."""
        held = len(self._buffer)
        self._counters.dropped_bytes += held
        self._buffer = b""
        return held

    def _length_at(self, buffer: bytes, start: int) -> int | None:
        """Length of the frame that can begin at ``start``, or None when none can."""
        for head, length in (
            (self._head, 3 + self._head[2] + 2),
            (self._exception_head, 5),
        ):
            seen = buffer[start : start + len(head)]
            if head.startswith(seen):
                return length
        return None

    def _reply(self, frame: bytes) -> Reply:
        if frame[1] & EXCEPTION_BIT:
            return Reply(exception=EXCEPTIONS.get(frame[2], f"exception_{frame[2]}"))
        return Reply(registers=frame[3:-2])

    def _drop(self, count: int) -> None:
        if count:
            self._counters.resync += 1
            self._counters.dropped_bytes += count


def decode_registers(registers: bytes, wanted: ModbusRegister) -> list[float]:
    """Return the scaled numbers in ``registers`` (two bytes each, as on the wire).

    Raises:
        ValueError: a number is not finite (``not_finite``) or the length is not the block's
        (``bad_length``).
    """
    if len(registers) != 2 * wanted.count:
        raise ValueError("bad_length")
    shape = _STRUCT[wanted.type]
    values = []
    for start in range(0, len(registers), shape.size):
        words = [registers[i : i + 2] for i in range(start, start + shape.size, 2)]
        if wanted.byte_order is Order.LITTLE:
            words = [word[::-1] for word in words]
        if wanted.word_order is Order.LITTLE:
            words.reverse()
        raw: float = shape.unpack(b"".join(words))[0]
        value = raw * wanted.scale
        if not math.isfinite(value):
            raise ValueError("not_finite")
        # 12 digits: more than any 32-bit value holds, and 217 * 0.1 reads 21.7 again.
        values.append(float(f"{value:.12g}"))
    return values


def channel_names(wanted: ModbusRegister) -> list[str]:
    """Names of the block's values, in order."""
    number = wanted.count // (_STRUCT[wanted.type].size // 2)
    return [wanted.name] if number == 1 else [f"{wanted.name}.{i}" for i in range(number)]
