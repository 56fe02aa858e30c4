"""Modbus RTU as pure functions: bytes against published frames, replies out of noise, 32-bit
tables."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU

from edgewarden.errors import OperatorFault
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import (
    EXCEPTIONS,
    MAX_ADU_BYTES,
    ModbusRegister,
    Order,
    RegisterType,
    Reply,
    ReplyParser,
    channel_names,
    crc16,
    decode_registers,
    encode_read,
    seal,
)

UNIT, COUNT = 17, 3
GOOD = seal(bytes((UNIT, 3, 2 * COUNT)) + bytes.fromhex("022b00000064"))


def parser(counters: FrameCounters | None = None) -> ReplyParser:
    return ReplyParser(UNIT, COUNT, counters or FrameCounters())


def test_request_bytes() -> None:
    assert encode_read(1, 0, 2) == bytes.fromhex("010300000002c40b")
    # Unit 17, registers 40108-40110: the example of Modbus V1.1b3 §6.3, with address and CRC.
    assert encode_read(17, 0x6B, 3) == bytes.fromhex("1103006b00037687")


def test_crc_check_value_of_the_catalogue() -> None:
    assert crc16(b"123456789") == 0x4B37  # CRC RevEng: CRC-16/MODBUS


@given(st.binary(max_size=256))
def test_crc_agrees_with_pymodbus(data: bytes) -> None:
    assert crc16(data).to_bytes(2, "little") == FramerRTU.compute_CRC(data).to_bytes(2, "big")


@given(st.lists(st.integers(0, 300), max_size=6))
def test_the_reply_is_found_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(c % len(GOOD) for c in cuts), len(GOOD)]
    under_test, replies = parser(), []
    for a, b in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        replies.append(under_test.feed(GOOD[a:b]))
    assert [r for r in replies if r] == [Reply(registers=bytes.fromhex("022b00000064"))]


@pytest.mark.parametrize("number", [*EXCEPTIONS, 77])
def test_exception_replies_are_named(number: int) -> None:
    reply = parser().feed(seal(bytes((UNIT, 0x83, number))))
    assert reply == Reply(exception=EXCEPTIONS.get(number, "exception_77"))


@pytest.mark.parametrize(
    "bytes_before",
    [
        b"\x00\xff\x11\x03",
        bytes((UNIT, 3, 6)),  # a start that promises more than comes
        encode_read(UNIT, 0, COUNT),  # our own request, echoed by the adapter
        seal(bytes((18, 3, 6)) + bytes(6)),  # another unit
        seal(bytes((UNIT, 4, 6)) + bytes(6)),  # another function
        seal(bytes((UNIT, 3, 4)) + bytes(4)),  # another length
        GOOD[:-1] + bytes((GOOD[-1] ^ 1,)),  # wrong checksum
        bytes(range(256)) * 8,
    ],
)
def test_the_reply_is_found_behind_what_does_not_answer(bytes_before: bytes) -> None:
    counters = FrameCounters()
    under_test = parser(counters)
    assert under_test.feed(bytes_before) is None
    assert under_test.feed(GOOD) == Reply(registers=bytes.fromhex("022b00000064"))
    assert counters.dropped_bytes == len(bytes_before)
    assert under_test.held_bytes == 0


def test_noise_that_promises_a_long_reply_does_not_hide_a_short_one() -> None:
    """The exception reply is whole while the false start before it still waits for more."""
    start = bytes((UNIT, 3, 2 * COUNT))
    reply = parser().feed(start + seal(bytes((UNIT, 0x83, 2))))
    assert reply == Reply(exception="illegal_data_address")


@pytest.mark.parametrize(
    "answer",
    [
        seal(bytes((18, 3, 6)) + bytes(6)),
        seal(bytes((UNIT, 4, 6)) + bytes(6)),
        seal(bytes((UNIT, 3, 4)) + bytes(4)),
        GOOD[:-1] + bytes((GOOD[-1] ^ 1,)),
        seal(bytes((UNIT, 0x84, 2))),
        GOOD[:-1],
    ],
)
def test_what_does_not_answer_this_request_is_no_answer(answer: bytes) -> None:
    assert parser().feed(answer) is None


def test_every_single_bit_error_is_caught() -> None:
    for bit in range(8 * len(GOOD)):
        bad = bytearray(GOOD)
        bad[bit // 8] ^= 1 << bit % 8
        assert parser().feed(bytes(bad)) is None, bit


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_any_bytes_leave_the_parser_standing_and_memory_flat(parts: list[bytes]) -> None:
    under_test = ReplyParser(1, 125, FrameCounters())
    for part in parts:
        under_test.feed(part)
        assert under_test.held_bytes <= MAX_ADU_BYTES
    under_test.abandon()
    assert under_test.held_bytes == 0


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
    ],
)
def test_corners_of_every_type(kind: str, count: int, wire: str, expected: float) -> None:
    wanted = ModbusRegister("x", 1, 0, count, RegisterType(kind))
    assert decode_registers(bytes.fromhex(wire), wanted) == [pytest.approx(expected, rel=1e-11)]


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
        {"scale": 0.0},
        {"scale": float("nan")},
        {"period_s": 0.0},
        {"period_s": float("inf")},
    ],
)
def test_impossible_registers_are_the_operators_fault(fields: dict[str, object]) -> None:
    arguments: dict[str, object] = {"name": "x", "unit": 1, "address": 0, **fields}
    with pytest.raises(OperatorFault, match="'x'"):
        ModbusRegister(**arguments)  # type: ignore[arg-type]
