"""Modbus RTU as pure functions: questions against published frames, answers out of noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU

from edgewarden.errors import OurFault
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.modbus import (
    EXCEPTIONS,
    MAX_ADU_BYTES,
    Reply,
    ReplyParser,
    Request,
    crc16,
    read,
    seal,
)
from edgewarden.serial.modbus_writes import (
    write_coil,
    write_coils,
    write_register,
    write_registers,
)

UNIT, COUNT = 17, 3
GOOD = seal(bytes((UNIT, 3, 2 * COUNT)) + bytes.fromhex("022b00000064"))


def parser(counters: FrameCounters | None = None) -> ReplyParser:
    return ReplyParser(read(UNIT, 3, 0, COUNT), counters or FrameCounters())


# The examples of Modbus V1.1b3 §6.1 to §6.12, with unit 17: question, answer, what it holds.
EXAMPLES: list[tuple[Request, str, str, str]] = [
    (read(17, 1, 0x13, 19), "01 0013 0013", "01 03 cd6b05", "cd6b05"),
    (read(17, 2, 0xC4, 22), "02 00c4 0016", "02 03 acdb35", "acdb35"),
    (read(17, 3, 0x6B, 3), "03 006b 0003", "03 06 022b00000064", "022b00000064"),
    (read(17, 4, 8, 1), "04 0008 0001", "04 02 000a", "000a"),
    (write_coil(17, 0xAC, True), "05 00ac ff00", "05 00ac ff00", ""),
    (write_coil(17, 0xAC, False), "05 00ac 0000", "05 00ac 0000", ""),
    (write_register(17, 1, 3), "06 0001 0003", "06 0001 0003", ""),
    (
        write_coils(17, 0x13, [bool(0x1CD >> i & 1) for i in range(10)]),
        "0f 0013 000a 02 cd01",
        "0f 0013 000a",
        "",
    ),
    (write_registers(17, 1, [10, 258]), "10 0001 0002 04 000a0102", "10 0001 0002", ""),
]


@pytest.mark.parametrize(("question", "asked", "answered", "data"), EXAMPLES)
def test_the_examples_of_the_specification(
    question: Request, asked: str, answered: str, data: str
) -> None:
    assert question.adu() == seal(bytes((17,)) + bytes.fromhex(asked))
    answer = seal(bytes((17,)) + bytes.fromhex(answered))
    assert question.answer_bytes == len(answer)
    assert ReplyParser(question, FrameCounters()).feed(answer) == Reply(bytes.fromhex(data))


@pytest.mark.parametrize(("question", "asked", "answered", "data"), EXAMPLES)
def test_an_answer_that_differs_in_one_byte_answers_nothing(
    question: Request, asked: str, answered: str, data: str
) -> None:
    """Each byte that the question fixes, with a CRC that is right for the forgery."""
    body = bytes((17,)) + bytes.fromhex(answered)
    for at in range(1 + len(question.answer)):
        forged = bytearray(body)
        forged[at] ^= 1
        assert ReplyParser(question, FrameCounters()).feed(seal(bytes(forged))) is None, at


def test_request_bytes() -> None:
    assert read(1, 3, 0, 2).adu() == bytes.fromhex("010300000002c40b")
    assert write_register(17, 1, 3).adu() == bytes.fromhex("1106000100039a9b")


@pytest.mark.parametrize(
    "make",
    [
        lambda: read(0, 3, 0, 1),
        lambda: read(248, 3, 0, 1),
        lambda: read(1, 5, 0, 1),
        lambda: read(1, 3, 0, 0),
        lambda: read(1, 3, 0, 126),
        lambda: read(1, 1, 0, 2001),
        lambda: read(1, 3, 65535, 2),
        lambda: read(1, 3, -1, 1),
        lambda: write_coil(0, 0, True),
        lambda: write_register(1, 65536, 0),
        lambda: write_register(1, 0, 65536),
        lambda: write_register(1, 0, -1),
        lambda: write_coils(1, 0, []),
        lambda: write_coils(1, 0, [True] * 1969),
        lambda: write_registers(1, 0, [0] * 124),
        lambda: write_registers(1, 65535, [0, 0]),
        lambda: write_registers(1, 0, [65536]),
        lambda: write_registers(248, 0, [1]),
    ],
)
def test_what_the_protocol_cannot_ask_is_our_mistake(make: Callable[[], Request]) -> None:
    with pytest.raises(OurFault):
        make()


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
    assert [r for r in replies if r] == [Reply(bytes.fromhex("022b00000064"))]


@pytest.mark.parametrize("number", [*EXCEPTIONS, 77])
def test_exception_replies_are_named(number: int) -> None:
    reply = parser().feed(seal(bytes((UNIT, 0x83, number))))
    assert reply == Reply(exception=EXCEPTIONS.get(number, "exception_77"))


@pytest.mark.parametrize(
    "bytes_before",
    [
        b"\x00\xff\x11\x03",
        bytes((UNIT, 3, 6)),  # a start that promises more than comes
        read(UNIT, 3, 0, COUNT).adu(),  # our own request, echoed by the adapter
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
    assert under_test.feed(GOOD) == Reply(bytes.fromhex("022b00000064"))
    assert counters.dropped_bytes == len(bytes_before)
    assert under_test.held_bytes == 0


@pytest.mark.parametrize(
    ("request_", "glitch"),
    [
        (read(UNIT, 1, 0x0305, 21), b""),  # an address whose high byte is the answer's byte count
        (read(UNIT, 2, 0x03FF, 24), b""),
        (read(UNIT, 3, 0x0406, 2), b"\0"),  # and a zero as the line turns around: no CRC sees it
        (read(UNIT, 4, 0x0608, 3), b"\0\0\0"),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 100])
def test_our_own_question_is_never_its_answer(request_: Request, glitch: bytes, step: int) -> None:
    """An adapter that hears itself: some echoes have the head, the length and the CRC."""
    answer = seal(bytes((UNIT,)) + request_.answer + bytes(range(1, request_.data_bytes + 1)))
    stream = request_.adu() + glitch
    counters = FrameCounters()
    under_test = ReplyParser(request_, counters)
    for at in range(0, len(stream), step):
        assert under_test.feed(stream[at : at + step]) is None
    assert under_test.feed(answer) == Reply(bytes(range(1, request_.data_bytes + 1)))
    assert counters.frames == 1
    assert counters.dropped_bytes == len(stream)


@given(st.integers(1, 247), st.integers(1, 4), st.integers(0, 0xFF00), st.integers(1, 125))
def test_no_question_is_lost_to_its_echo(unit: int, function: int, address: int, n: int) -> None:
    """Byte by byte, the answer in one piece with it or not."""
    asked = read(unit, function, address, n)
    data = bytes(range(255, 255 - asked.data_bytes, -1))
    stream = asked.adu() + seal(bytes((unit,)) + asked.answer + data)
    whole, counters = ReplyParser(asked, FrameCounters()), FrameCounters()
    assert whole.feed(stream) == Reply(data)
    cut = ReplyParser(asked, counters)
    *none, last = [cut.feed(stream[at : at + 1]) for at in range(len(stream))]
    assert none == [None] * len(none)
    assert last == Reply(data)


@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=12))
def test_garbage_never_loses_the_answer_behind_it(garbage: bytes, cuts: list[int]) -> None:
    """Cut anywhere; heads of the answer in the garbage, too: every second byte is made one's."""
    for noise in (garbage, GOOD[:3].join(garbage[i : i + 1] for i in range(0, len(garbage), 2))):
        stream = noise + GOOD
        edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
        counters = FrameCounters()
        under_test = parser(counters)
        found = []
        for start, end in itertools.pairwise(edges):
            found.append(under_test.feed(stream[start:end]))
            assert under_test.held_bytes <= MAX_ADU_BYTES
            if found[-1]:
                break
        assert found[-1] == Reply(bytes.fromhex("022b00000064"))
        assert counters.frames == 1


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
    under_test = ReplyParser(read(1, 3, 0, 125), FrameCounters())
    for part in parts:
        under_test.feed(part)
        assert under_test.held_bytes <= MAX_ADU_BYTES
    under_test.abandon()
    assert under_test.held_bytes == 0
