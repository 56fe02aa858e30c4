"""What Modbus registers mean, and which of them one question can ask for.

Decides how bits and registers become values and how registers are grouped into questions. Leaves to
others bytes on the line (modbus.py) and when to ask (modbus_bus.py). Pure: no I/O, no clock.

Rules, in order:

1. Registers of one unit, function and period whose ranges touch or overlap are asked for together,
   as many as the protocol allows. A gap is never read over: a device may refuse a whole question
   for one address that it does not have.
2. A value that is not a finite number, or text that is not printable ASCII, is refused by name and
   costs only itself, not its neighbours in the answer.
3. Numbers of up to 32 bits keep 12 digits after scaling, those of 64 bits 15: 217 * 0.1 reads 21.7
   again. Unscaled ones are exact up to 2**53.

    blocks([ModbusRegister("a", 1, 0), ModbusRegister("b", 1, 1)])[0].count == 2
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from enum import StrEnum

from edgewarden.errors import OperatorFault
from edgewarden.plain import dataclass
from edgewarden.serial.modbus import BIT_FUNCTIONS, MAX_READ, UNIT_MAX, UNIT_MIN, Function


class RegisterType(StrEnum):
    """How bits or registers become a value."""

    BOOL = "bool"
    U16 = "u16"
    S16 = "s16"
    U32 = "u32"
    S32 = "s32"
    F32 = "f32"
    U64 = "u64"
    S64 = "s64"
    F64 = "f64"
    TEXT = "text"


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
    RegisterType.U64: struct.Struct(">Q"),
    RegisterType.S64: struct.Struct(">q"),
    RegisterType.F64: struct.Struct(">d"),
}
_DIGITS = {2: 12, 4: 12, 8: 15}
"""Size in bytes -> digits that survive scaling: more than any 32-bit value holds."""

Value = float | str | bool


@dataclass(frozen=True, slots=True)
class ModbusRegister:
    """One value, or one run of values of one type, to poll.

    Attributes:
        name: channel; with more than one value ``name.0``, ``name.1``, ...
        unit: slave address, 1 to 247.
        address: first bit or register as on the wire (0-based).
        count: bits or registers; a multiple of the type's width.
        function: 1 and 2 read bits, 3 and 4 registers.
        scale: the number is multiplied with it.
        senml_unit: SenML unit of the scaled number.
        period_s: how often to ask.
        bit: of a bool in a register: which bit, 0 the lowest.

    Raises OperatorFault (EW-SET-001) when the values contradict each other.
    """

    name: str
    unit: int
    address: int
    count: int = 1
    type: RegisterType = RegisterType.U16
    function: int = Function.READ_HOLDING_REGISTERS
    scale: float = 1.0
    senml_unit: str = ""
    period_s: float = 1.0
    word_order: Order = Order.BIG
    byte_order: Order = Order.BIG
    bit: int = 0

    def __post_init__(self) -> None:
        bits = self.function in BIT_FUNCTIONS
        checks = {
            "function": self.function in MAX_READ,
            "unit": UNIT_MIN <= self.unit <= UNIT_MAX,
            "address": 0 <= self.address <= 0xFFFF and self.address + self.count <= 0x10000,
            "count": 1 <= self.count <= MAX_READ.get(self.function, 0)
            and self.count % width(self.type) == 0,
            "type": self.type is RegisterType.BOOL or not bits,
            "scale": math.isfinite(self.scale) and self.scale != 0,
            "period_s": 0.01 <= self.period_s < math.inf,
            "bit": 0 <= self.bit <= 15,
        }
        for name, holds in checks.items():
            if not holds:
                raise OperatorFault(
                    f"modbus register {self.name!r} cannot have {name} = {getattr(self, name)}",
                    next_step=f"correct {name} in the [[serial.modbus]] section",
                )


def width(kind: RegisterType) -> int:
    """Registers (or bits) of one value; text takes as many as it is given."""
    return _STRUCT[kind].size // 2 if kind in _STRUCT else 1


def channel_names(wanted: ModbusRegister) -> list[str]:
    """Names of the register's values, in order."""
    one = wanted.type is RegisterType.TEXT
    number = 1 if one else wanted.count // width(wanted.type)
    return [wanted.name] if number == 1 else [f"{wanted.name}.{i}" for i in range(number)]


@dataclass(frozen=True, slots=True)
class Block:
    """Registers that one question asks for; they share unit, function and period."""

    registers: tuple[ModbusRegister, ...]

    @property
    def first(self) -> ModbusRegister:
        """The one with the lowest address."""
        return self.registers[0]

    @property
    def count(self) -> int:
        """Bits or registers of the whole range."""
        return max(r.address + r.count for r in self.registers) - self.first.address

    def cut(self, data: bytes, wanted: ModbusRegister) -> bytes:
        """What of the answer is ``wanted``'s: registers as on the wire, or a byte for each bit."""
        start = wanted.address - self.first.address
        if self.first.function in BIT_FUNCTIONS:
            picked = range(start, start + wanted.count)
            return bytes(data[i // 8] >> i % 8 & 1 for i in picked)
        return data[2 * start : 2 * (start + wanted.count)]


def blocks(registers: Iterable[ModbusRegister]) -> list[Block]:
    """Return the questions for ``registers``, by unit and address (rule 1)."""
    out: list[Block] = []
    key = lambda r: (r.unit, r.function, r.period_s, r.address)  # noqa: E731
    for wanted in sorted(registers, key=key):
        last = out[-1] if out else None
        if last is not None and _joins(last, wanted):
            out[-1] = Block((*last.registers, wanted))
        else:
            out.append(Block((wanted,)))
    return out


def _joins(block: Block, wanted: ModbusRegister) -> bool:
    first = block.first
    same = (first.unit, first.function, first.period_s) == (
        wanted.unit,
        wanted.function,
        wanted.period_s,
    )
    reach = wanted.address + wanted.count - first.address
    touches = wanted.address <= first.address + block.count
    return same and touches and reach <= MAX_READ[first.function]


def decode_registers(data: bytes, wanted: ModbusRegister) -> list[Value]:
    """Return the values in ``data`` (``Block.cut``), in the order of ``channel_names``.

    Raises:
        ValueError: the length is not the register's (``bad_length``), a number is not finite
        (``not_finite``) or text is not printable ASCII (``bad_text``).
    """
    bits = wanted.function in BIT_FUNCTIONS
    if len(data) != wanted.count * (1 if bits else 2):
        raise ValueError("bad_length")
    if bits:
        return [bool(byte) for byte in data]
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if wanted.byte_order is Order.LITTLE:
        words = [word[::-1] for word in words]
    if wanted.type is RegisterType.BOOL:
        return [bool(int.from_bytes(word, "big") >> wanted.bit & 1) for word in words]
    if wanted.type is RegisterType.TEXT:
        return [_text(b"".join(words))]
    step = width(wanted.type)
    return [_number(words[i : i + step], wanted) for i in range(0, len(words), step)]


def _number(words: list[bytes], wanted: ModbusRegister) -> float:
    shape = _STRUCT[wanted.type]
    if wanted.word_order is Order.LITTLE:
        words = words[::-1]
    raw: float = shape.unpack(b"".join(words))[0]
    value = float(raw * wanted.scale)
    if not math.isfinite(value):
        raise ValueError("not_finite")
    if wanted.scale == 1.0 and shape.size == 8:
        return value
    return float(f"{value:.{_DIGITS[shape.size]}g}")


def _text(data: bytes) -> str:
    """Text ends at its first zero byte; makers pad with zeros or blanks."""
    text = data.split(b"\0", 1)[0].decode("ascii", "replace").rstrip(" ")
    if not text.isascii() or not text.isprintable():
        raise ValueError("bad_text")
    return text
