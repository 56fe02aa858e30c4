"""Registers: what they mean in every type and order, and which one question asks for."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault
from edgewarden.serial.modbus import MAX_READ
from edgewarden.serial.registers import (
    Block,
    ModbusRegister,
    Order,
    RegisterType,
    blocks,
    channel_names,
    decode_registers,
    width,
)

# The same four bytes 41 42 43 44 on the wire, read in all four orders (as ABCD, CDAB, BADC, DCBA
# in makers' manuals), and the corners of every type.
WIRE = bytes.fromhex("41424344")


@pytest.mark.parametrize(
    ("kind", "words", "octets", "expected"),
    [
        ("u32", "big", "big", 0x41424344),
        ("u32", "little", "big", 0x43444142),
        ("u32", "big", "little", 0x42414443),
        ("u32", "little", "little", 0x44434241),
        ("f32", "big", "big", struct.unpack(">f", bytes.fromhex("41424344"))[0]),
        ("f32", "little", "big", struct.unpack(">f", bytes.fromhex("43444142"))[0]),
        ("f32", "big", "little", struct.unpack(">f", bytes.fromhex("42414443"))[0]),
        ("f32", "little", "little", struct.unpack(">f", bytes.fromhex("44434241"))[0]),
    ],
)
def test_word_and_byte_order(kind: str, words: str, octets: str, expected: float) -> None:
    wanted = ModbusRegister(
        "x",
        1,
        0,
        2,
        RegisterType(kind),
        word_order=Order(words),
        byte_order=Order(octets),
    )
    assert decode_registers(WIRE, wanted) == [pytest.approx(expected, rel=1e-11)]


@pytest.mark.parametrize(
    ("kind", "count", "wire", "expected"),
    [
        ("u16", 1, "0000", 0),
        ("u16", 1, "ffff", 65535),
        ("s16", 1, "ffff", -1),
        ("s16", 1, "8000", -32768),
        ("s16", 1, "7fff", 32767),
        ("u32", 2, "ffffffff", 4294967295),
        ("s32", 2, "ffffffff", -1),
        ("s32", 2, "80000000", -2147483648),
        ("s32", 2, "7fffffff", 2147483647),
        ("f32", 2, "00000000", 0.0),
        ("f32", 2, "bf800000", -1.0),
        ("f32", 2, "42f6e979", 123.456001282),
        ("u64", 4, "0020000000000000", 2**53),
        ("u64", 4, "001fffffffffffff", 2**53 - 1),
        ("s64", 4, "ffffffffffffffff", -1),
        ("f64", 4, "400921fb54442d18", 3.141592653589793),
        ("bool", 1, "0001", True),
        ("bool", 1, "fffe", False),
    ],
)
def test_corners_of_every_type(kind: str, count: int, wire: str, expected: float) -> None:
    wanted = ModbusRegister("x", 1, 0, count, RegisterType(kind))
    near = expected if count != 2 else pytest.approx(expected, rel=1e-11)
    assert decode_registers(bytes.fromhex(wire), wanted) == [near]


def test_scale_leaves_no_binary_dust() -> None:
    wanted = ModbusRegister("x", 1, 0, 1, RegisterType.U16, scale=0.1)
    assert decode_registers((217).to_bytes(2, "big"), wanted) == [21.7]
    assert 217 * 0.1 != 21.7


@pytest.mark.parametrize("wire", ["7fc00000", "7f800000", "ff800000"])
def test_nan_and_infinity_are_refused(wire: str) -> None:
    wanted = ModbusRegister("x", 1, 0, 2, RegisterType.F32)
    with pytest.raises(ValueError, match="not_finite"):
        decode_registers(bytes.fromhex(wire), wanted)


def test_a_block_of_several_values_has_numbered_channels() -> None:
    wanted = ModbusRegister("phase", 1, 0, 6, RegisterType.U32)
    assert channel_names(wanted) == ["phase.0", "phase.1", "phase.2"]
    assert decode_registers(struct.pack(">3I", 1, 2, 3), wanted) == [1.0, 2.0, 3.0]
    assert channel_names(ModbusRegister("volts", 1, 0)) == ["volts"]


@pytest.mark.parametrize(
    "fields",
    [
        {"unit": 0},
        {"unit": 248},
        {"address": -1},
        {"address": 65536},
        {"address": 65535, "count": 2},
        {"count": 0},
        {"count": 126},
        {"count": 3, "type": RegisterType.U32},
        {"function": 6},
        {"type": RegisterType.U16, "function": 1},
        {"type": RegisterType.TEXT, "function": 2},
        {"bit": 16, "type": RegisterType.BOOL},
        {"count": 3, "type": RegisterType.F64},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"period_s": 0.0},
        {"period_s": float("inf")},
    ],
)
def test_impossible_registers_are_the_operators_fault(fields: dict[str, object]) -> None:
    arguments: dict[str, object] = {"name": "x", "unit": 1, "address": 0, **fields}
    named = next(iter(fields))
    with pytest.raises(OperatorFault, match=f"'x' cannot have {named} "):
        ModbusRegister(**arguments)  # type: ignore[arg-type]


def test_bits_of_a_register_are_counted_from_the_lowest() -> None:
    word = bytes.fromhex("8002")
    bits = [
        decode_registers(word, ModbusRegister("x", 1, 0, type=RegisterType.BOOL, bit=bit))
        for bit in (0, 1, 15)
    ]
    assert bits == [[False], [True], [True]]


def test_bits_of_a_coil_answer_are_cut_from_the_lowest() -> None:
    """V1.1b3 §6.1: the first coil is the lowest bit of the first byte."""
    coil = [
        ModbusRegister(f"c{i}", 1, 0x13 + i, type=RegisterType.BOOL, function=1) for i in (0, 1, 9)
    ]
    block = Block(tuple(coil))
    data = bytes.fromhex("cd6b05")
    assert block.count == 10
    assert [decode_registers(block.cut(data, one), one) for one in coil] == [
        [True],
        [False],
        [True],
    ]


@pytest.mark.parametrize(
    ("wire", "order", "text"),
    [
        ("414243000000", "big", "ABC"),
        ("41422020", "big", "AB"),
        ("42410043", "little", "ABC"),
        ("0000", "big", ""),
    ],
)
def test_text(wire: str, order: str, text: str) -> None:
    data = bytes.fromhex(wire)
    wanted = ModbusRegister("x", 1, 0, len(data) // 2, RegisterType.TEXT, byte_order=Order(order))
    assert decode_registers(data, wanted) == [text]
    assert channel_names(wanted) == ["x"]


@pytest.mark.parametrize("wire", ["41ff", "1b5b", "0a41", "417f"])
def test_text_that_is_not_printable_ascii_is_refused(wire: str) -> None:
    wanted = ModbusRegister("x", 1, 0, 1, RegisterType.TEXT)
    with pytest.raises(ValueError, match="bad_text"):
        decode_registers(bytes.fromhex(wire), wanted)


def test_an_answer_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="bad_length"):
        decode_registers(b"\0\0", ModbusRegister("x", 1, 0, 2, RegisterType.U32))


# --- grouping ---


def at(
    address: int, count: int = 1, unit: int = 1, function: int = 3, period_s: float = 1.0
) -> ModbusRegister:
    kind = RegisterType.BOOL if function in (1, 2) else RegisterType.U16
    name = f"r{unit}.{function}.{address}"
    return ModbusRegister(name, unit, address, count, kind, function=function, period_s=period_s)


def ranges(registers: list[ModbusRegister]) -> list[tuple[int, int, int]]:
    return [(b.first.unit, b.first.address, b.count) for b in blocks(registers)]


def test_neighbours_are_asked_for_together() -> None:
    assert ranges([at(2), at(0), at(1), at(3, 4)]) == [(1, 0, 7)]


def test_a_gap_is_never_read_over() -> None:
    assert ranges([at(0), at(2)]) == [(1, 0, 1), (1, 2, 1)]


def test_others_are_asked_apart() -> None:
    registers = [at(0), at(1, unit=2), at(1, function=4), at(1, period_s=2.0)]
    assert len(blocks(registers)) == 4


def test_two_names_for_one_register_cost_one_question() -> None:
    assert ranges([at(5), at(5), at(4, 2)]) == [(1, 4, 2)]


@pytest.mark.parametrize(("function", "most"), sorted(MAX_READ.items()))
def test_a_question_is_never_longer_than_the_protocol_allows(function: int, most: int) -> None:
    registers = [at(i, function=function) for i in range(most + 1)]
    assert ranges(registers) == [(1, 0, most), (1, most, 1)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(1, 60),
            st.integers(1, 2),
            st.sampled_from([3, 4]),
        ),
        max_size=30,
    )
)
def test_every_register_is_in_one_block_and_no_other_address_is_asked(
    wanted: list[tuple[int, int, int, int]],
) -> None:
    registers = [at(a, n, unit, function) for a, n, unit, function in wanted]
    found = blocks(registers)
    members = list(itertools.chain.from_iterable(b.registers for b in found))
    assert sorted(members, key=repr) == sorted(registers, key=repr)
    for block in found:
        asked = set(range(block.first.address, block.first.address + block.count))
        assert asked == {r.address + i for r in block.registers for i in range(r.count)}
        assert block.count <= 125
        data = b"".join(i.to_bytes(2, "big") for i in sorted(asked))
        for one in block.registers:
            assert decode_registers(block.cut(data, one), one) == list(
                range(one.address, one.address + one.count)
            )


def test_width_of_every_type() -> None:
    widths = [width(kind) for kind in RegisterType]
    assert widths == [1, 1, 1, 2, 2, 2, 4, 4, 4, 1]
