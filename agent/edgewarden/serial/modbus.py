"""Modbus RTU, master's side, as pure functions: a question to bytes, bytes to its one answer.

Decides whether bytes answer one certain question. Leaves to others what registers mean
(registers.py), the line and its deadlines (modbus_bus.py), and questions that change a machine
(modbus_writes.py, which nothing of the agent imports). Pure: no I/O, no clock.

An answer is found by content and not by silence on the line: USB adapters hold bytes back for 16 ms
and more, so the 3.5 characters of the standard cannot be seen from here. Rules, in order:

1. Unit, function and what the question fixes of its answer (byte count; of a write the address and
   value) must be right, then the CRC must match; otherwise slide by one byte. Noise and the answers
   of other units are slid over in this way.
2. Our own request, byte for byte, is its echo (RS-485 adapters) and passed over whole: where the
   high byte of its address is the byte count of the answer it may have all of rule 1, with a zero
   or two behind it if need be, which no CRC-16 sees. Not of functions 5 and 6, whose answer it is.
3. An exception answer (function | 0x80) with a right CRC answers the question; it is named, never
   guessed at.
4. At most ``MAX_ADU_BYTES`` are held; bytes that can no longer begin the answer are dropped.

What content cannot tell: a late answer of the same unit with the same byte count to an earlier
question. The bus keeps those apart in time.

Sources: Modbus application protocol V1.1b3 §6, §7; Modbus over serial line V1.02 §2.5.1, §6.2.2.

    read(1, Function.READ_HOLDING_REGISTERS, 0, 2).adu() == bytes.fromhex("010300000002c40b")
"""

from __future__ import annotations

import struct
from enum import IntEnum

from edgewarden.errors import OurFault
from edgewarden.plain import dataclass
from edgewarden.serial.framing import FrameCounters


# --- constants of the specification ---
class Function(IntEnum):
    """V1.1b3 §6, those of process data."""

    READ_COILS = 1
    READ_DISCRETE_INPUTS = 2
    READ_HOLDING_REGISTERS = 3
    READ_INPUT_REGISTERS = 4
    WRITE_SINGLE_COIL = 5
    WRITE_SINGLE_REGISTER = 6
    WRITE_MULTIPLE_COILS = 15
    WRITE_MULTIPLE_REGISTERS = 16


BIT_FUNCTIONS = frozenset({Function.READ_COILS, Function.READ_DISCRETE_INPUTS})
MAX_READ: dict[int, int] = {
    Function.READ_COILS: 2000,
    Function.READ_DISCRETE_INPUTS: 2000,
    Function.READ_HOLDING_REGISTERS: 125,
    Function.READ_INPUT_REGISTERS: 125,
}
"""V1.1b3 §6.1 to §6.4: 0x7D0 bits, 0x7D registers. Also: the functions that only read."""
EXCEPTION_BIT = 0x80
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
EXCEPTION_BYTES = 5
CRC_BYTES = 2


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        unit: slave address, 1 to 247.
        pdu: function and what belongs to it.
        answer: how the right answer's PDU begins.
        data_bytes: how many bytes follow that beginning.
    """

    unit: int
    pdu: bytes
    answer: bytes
    data_bytes: int

    def adu(self) -> bytes:
        """The bytes for the line."""
        return seal(bytes((self.unit,)) + self.pdu)

    @property
    def answer_bytes(self) -> int:
        """Length of the whole answer on the line."""
        return 1 + len(self.answer) + self.data_bytes + CRC_BYTES


@dataclass(frozen=True, slots=True)
class Reply:
    """What a slave answered: bits or registers as raw bytes, or the name of an exception."""

    data: bytes = b""
    exception: str = ""


def read(unit: int, function: int, address: int, count: int) -> Request:
    """Return the question for ``count`` bits (functions 1, 2) or registers (3, 4).

    Raises:
        OurFault: another function, or a range that the protocol cannot ask for.
    """
    most = MAX_READ.get(function, 0)
    if not (UNIT_MIN <= unit <= UNIT_MAX and 1 <= count <= most and 0 <= address <= 65536 - count):
        raise OurFault(f"modbus cannot read {count} from {address} of {unit} by {function}")
    size = (count + 7) // 8 if function in BIT_FUNCTIONS else 2 * count
    pdu = struct.pack(">BHH", function, address, count)
    return Request(unit, pdu, bytes((function, size)), size)


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()
_CRC_TABLE_2 = tuple((crc >> 8) ^ _CRC_TABLE[crc & 0xFF] for crc in _CRC_TABLE)
"""What a byte does two bytes later."""


def crc16(data: bytes) -> int:
    """CRC-16/MODBUS of ``data`` (V1.02 §6.2.2).

    Two bytes a step: 7 us for 250 bytes instead of 11, and a flood of false starts costs CRCs.
    """
    crc = 0xFFFF
    for word in struct.unpack_from(f"<{len(data) // 2}H", data):
        mixed = crc ^ word
        crc = _CRC_TABLE_2[mixed & 0xFF] ^ _CRC_TABLE[mixed >> 8]
    if len(data) & 1:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ data[-1]) & 0xFF]
    return crc


def seal(body: bytes) -> bytes:
    """Return ``body`` with its CRC, low byte first."""
    return body + crc16(body).to_bytes(CRC_BYTES, "little")


class ReplyParser:
    """Finds the one answer to one question.

    Args:
        request: the question.
        counters: where noise and wrong checksums are counted.
    """

    def __init__(self, request: Request, counters: FrameCounters) -> None:
        unit = bytes((request.unit,))
        self._unit = unit
        self._heads = (
            (unit + request.answer, request.answer_bytes),
            (unit + bytes((request.pdu[0] | EXCEPTION_BIT,)), EXCEPTION_BYTES),
        )
        self._echo = request.adu() if request.answer != request.pdu else b""
        self._head_bytes = 1 + len(request.answer)
        self._buffer = b""
        self._counters = counters

    @property
    def held_bytes(self) -> int:
        """Bytes kept; never more than ``MAX_ADU_BYTES``."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Reply | None:
        """Return the answer once it is whole, else None. Bytes behind it are dropped, counted."""
        buffer = self._buffer + data
        hold = len(buffer)
        start = buffer.find(self._unit)
        while start >= 0:
            came = buffer[start : start + len(self._echo)]
            if came and came == self._echo:
                start = buffer.find(self._unit, start + len(came))
                continue
            length = self._length_at(buffer, start)
            if (came and self._echo.startswith(came)) or start + length > len(buffer):
                # May still become the answer, but noise may look so too: look on behind it.
                hold = min(hold, start)
            elif length and crc16(buffer[start : start + length]) == 0:  # with its own CRC: 0
                self._drop(len(buffer) - length)
                self._buffer = b""
                self._counters.frames += 1
                return self._reply(buffer[start : start + length])
            elif length and start < hold:  # what lies behind hold is looked at again
                self._counters.crc_bad += 1
            start = buffer.find(self._unit, start + 1)
        self._drop(hold)
        self._buffer = buffer[hold:]
        return None

    def abandon(self) -> int:
        """The deadline passed: drop what is held; return how many bytes that was."""
        held = len(self._buffer)
        self._counters.dropped_bytes += held
        self._buffer = b""
        return held

    def _length_at(self, buffer: bytes, start: int) -> int:
        """Length of the frame that can begin at ``start``, or 0 when none can."""
        for head, length in self._heads:
            if head.startswith(buffer[start : start + len(head)]):
                return length
        return 0

    def _reply(self, frame: bytes) -> Reply:
        if frame[1] & EXCEPTION_BIT:
            return Reply(exception=EXCEPTIONS.get(frame[2], f"exception_{frame[2]}"))
        return Reply(frame[self._head_bytes : -CRC_BYTES])

    def _drop(self, count: int) -> None:
        if count:
            self._counters.resync += 1
            self._counters.dropped_bytes += count
