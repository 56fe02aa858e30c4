"""Payloads and columns to values, and every refusal by its name."""

from __future__ import annotations

import contextlib
import math
import re
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewarden.serial.binary import CHECKS, ByteOrder, StuffedFramer, Stuffing
from edgewarden.serial.fields import (
    Field,
    FieldsDecoder,
    FieldType,
    LineReader,
    PayloadReader,
    Refused,
)
from edgewarden.serial.framing import FrameCounters, LineFramer
from edgewarden.serial.jsonlines import JsonLinesDecoder
from edgewarden.wire.facts import Reading
from tests.serial.frames import CRC32, slip

ORDERS: list[ByteOrder] = ["big", "little"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        ("u8", "B", 255),
        ("s8", "b", -128),
        ("u16", "H", 65535),
        ("s16", "h", -32768),
        ("u32", "I", 2**32 - 1),
        ("s32", "i", -(2**31)),
        ("u64", "Q", 2**53),
        ("s64", "q", -(2**53)),
        ("f32", "f", 0.5),
        ("f64", "d", -1e300),
    ],
)
def test_every_sized_number(order: ByteOrder, kind: str, code: str, value: float) -> None:
    sign = ">" if order == "big" else "<"
    payload = b"\xee" + struct.pack(sign + code, value) + b"\xee"
    reader = PayloadReader((Field("x", 1, FieldType(kind), senml_unit="V"),), order)
    assert reader(payload) == [("x", "V", value)]


def test_bits_text_and_scale() -> None:
    fields = (
        Field("open", 0, FieldType.BOOL, bit=7),
        Field("shut", 0, FieldType.BOOL, bit=0),
        Field("id", 1, FieldType.TEXT, size=4),
        Field("level", 5, FieldType.U16, scale=0.1),
    )
    payload = b"\x80ab\0\xff\x00\xd9"
    assert PayloadReader(fields, "big")(payload) == [
        ("open", "", True),
        ("shut", "", False),
        ("id", "", "ab"),
        ("level", "", 21.7),
    ]


@pytest.mark.parametrize(
    ("field", "payload", "name"),
    [
        (Field("x", 3, FieldType.U16), b"1234", "too_short"),
        (Field("x", 0, FieldType.U8), b"", "too_short"),
        (Field("x", 0, FieldType.F32), bytes.fromhex("7fc00000"), "not_finite"),
        (Field("x", 0, FieldType.F64, scale=1e6), struct.pack(">d", 1e307), "not_finite"),
        (Field("x", 0, FieldType.TEXT, size=2), b"a\x1b", "bad_text"),
        (Field("x", 0, FieldType.TEXT, size=2), b"a\xff", "bad_text"),
    ],
)
def test_refusals_of_a_payload(field: Field, payload: bytes, name: str) -> None:
    with pytest.raises(Refused, match=f"^{name}$"):
        PayloadReader((field,), "big")(payload)


NUMBER = Field("x", 1, FieldType.NUMBER)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"a,1", 1.0),
        (b"a, -1.5 ,c", -1.5),
        (b"a,+.5", 0.5),
        (b"a,2.", 2.0),
        (b"a,1e3", 1000.0),
    ],
)
def test_numbers_in_a_line(line: bytes, value: float) -> None:
    assert LineReader((NUMBER,), ",")(line) == [("x", "", value)]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"a", "too_short"),
        (b"a,nan", "bad_number"),
        (b"a,inf", "bad_number"),
        (b"a,1_000", "bad_number"),
        (b"a,0x10", "bad_number"),
        (b"a,1,5;", None),
        (b"a,1 2", "bad_number"),
        (b"a,1e999", "not_finite"),
        (b"a," + b"9" * 40, "bad_number"),
        (b"a,\xd9\xa1", "bad_text"),
        (b"a,\x1b[2J", "bad_text"),
    ],
)
def test_refusals_of_a_line(line: bytes, name: str | None) -> None:
    if name is None:
        assert LineReader((NUMBER,), ",")(line) == [("x", "", 1.0)]
        return
    with pytest.raises(Refused, match=f"^{name}$"):
        LineReader((NUMBER,), ",")(line)


def test_columns_by_every_separator_and_kind() -> None:
    fields = (
        Field("a", 0, FieldType.TEXT),
        Field("b", 1, FieldType.BOOL),
        Field("c", 2, FieldType.NUMBER, scale=0.1),
    )
    expected = [("a", "", "x"), ("b", "", True), ("c", "", 21.7)]
    assert LineReader(fields, ";")(b"x;On;217") == expected
    assert LineReader(fields, " ")(b"  x \t 1   217") == expected
    assert LineReader(fields, ",")(b"x,,217") == [expected[0], expected[2]]
    with pytest.raises(Refused, match="bad_number"):
        LineReader(fields, ",")(b"x,maybe,217")


def test_lines_are_frames_only_when_their_content_is_right() -> None:
    decoder = FieldsDecoder("s", LineFramer(64, FrameCounters()), LineReader((NUMBER,), ","))
    assert decoder.feed(b"a,1\nnoise\na,x\na,2\n", 7) == [
        Reading("s", "x", "", 1.0, 7),
        Reading("s", "x", "", 2.0, 7),
    ]
    counters = decoder.counters
    assert (counters.frames, counters.refusals) == (2, {"too_short": 1, "bad_number": 1})
    assert counters.dropped_bytes == len(b"noisea,x")


def test_a_checked_frame_counts_once_whatever_it_holds() -> None:
    framer = StuffedFramer(Stuffing.SLIP, CRC32, 64, FrameCounters())
    decoder = FieldsDecoder("s", framer, PayloadReader((Field("x", 0, FieldType.F32),), "big"))
    good, nan = slip(struct.pack(">f", 1.5)), slip(bytes.fromhex("7fc00000"))
    assert decoder.feed(good + nan, 7) == [Reading("s", "x", "", 1.5, 7)]
    assert (decoder.counters.frames, decoder.counters.refused) == (2, 1)


def test_an_object_in_a_frame() -> None:
    framer = StuffedFramer(Stuffing.SLIP, CHECKS["none"], 64, FrameCounters())
    decoder = JsonLinesDecoder("s", {"t": "Cel"}, framer)
    assert decoder.feed(b'\xc0{"t": 1.5}\xc0noise\xc0', 7) == [Reading("s", "t", "Cel", 1.5, 7)]
    assert (decoder.counters.frames, decoder.counters.refusals) == (1, {"not_json": 1})


@example(b",")
@example(b"1, ,2")
@given(st.binary(max_size=300))
def test_any_payload_gives_values_or_a_named_refusal(payload: bytes) -> None:
    fields = tuple(Field(kind, i * 8, FieldType(kind)) for i, kind in enumerate(FieldType))[3:]
    names = {"too_short", "not_finite", "bad_text", "bad_number"}
    for read in (PayloadReader(fields, "big"), LineReader((NUMBER,), ",")):
        with contextlib.suppress(Refused):
            values = read(payload)
            # Rule 3: an empty column is no value now, and a line may hold nothing else.
            empty = isinstance(read, LineReader) and not payload.split(b",")[1].strip(b" ")
            assert bool(values) != empty
            continue
        with pytest.raises(Refused) as refused:
            read(payload)
        assert refused.value.args[0] in names


COLUMNS = [b"1", b" -2.5 ", b"3e2", b".5", b"", b"x", b"9e999", b"\t4", b"+7.", b"\xb2"]
BY_TEXT = re.compile(
    r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?"
)


@given(
    st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", " "]),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
)  # fmt: skip
def test_columns_that_are_read_do_not_depend_on_those_behind_them(
    columns: list[bytes], separator: str, wanted: list[int]
) -> None:
    """Against every column split off and read as text."""
    line = separator.encode().join(columns)
    split = line.split(None if separator == " " else separator.encode())
    expected: list[tuple[str, str, float]] | None = []
    for at in wanted:
        text = split[at].decode("latin-1").strip(" ") if at < len(split) else "x"
        if text and (BY_TEXT.fullmatch(text) is None or math.isinf(float(text))):
            expected = None
            break
        if text and expected is not None:
            expected.append((f"c{at}", "m", float(text)))
    fields = tuple(Field(f"c{at}", at, FieldType.NUMBER, senml_unit="m") for at in wanted)
    try:
        found = LineReader(fields, separator)(line)
    except Refused:
        found = None
    assert found == expected


NUMERALS = st.sampled_from(
    [b"1", b"-2.5", b"+7.", b".5", b"-0", b"0.1", b"1" * 20, b"1" * 21, b"9" * 12 + b"." + b"1" * 9,
     b"1-2", b".", b"-", b"", b" 3", b"3 ", b"1e3", b"1e999", b"1_0", b"nan", b"inf", b"x", b"\xb2"]
) | st.text("0123456789+-.", max_size=23).map(str.encode)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.lists(NUMERALS, min_size=1, max_size=4), max_size=6),
    st.sampled_from([",", " "]),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1.0, 0.1, 1e300])), min_size=1, max_size=3
    ),
    st.integers(1, 40),
)  # fmt: skip
def test_lines_read_at_once_are_what_each_is_by_itself(
    rows: list[list[bytes]], separator: str, wanted: list[tuple[int, float]], most: int
) -> None:
    fields = tuple(
        Field(f"c{i}", at, FieldType.NUMBER, scale, "m") for i, (at, scale) in enumerate(wanted)
    )
    reader = LineReader(fields, separator)
    at_once = FieldsDecoder("s", LineFramer(most, FrameCounters()), reader)
    by_itself = FieldsDecoder("s", LineFramer(most, FrameCounters()), lambda line: reader(line))
    sent = b"".join(separator.encode().join(row) + b"\r\n" for row in rows)
    found, expected = at_once.feed(sent, 7), by_itself.feed(sent, 7)
    assert found == expected
    assert [math.copysign(1, r.value) for r in found] == [  # type: ignore[arg-type]  # -0
        math.copysign(1, r.value) for r in expected  # type: ignore[arg-type]
    ]  # fmt: skip
    assert at_once.counters == by_itself.counters


def test_plain_lines_are_read_at_once_and_odd_ones_by_themselves() -> None:
    """What the property above would not notice: that nothing is ever read at once."""
    reader = LineReader((NUMBER, Field("y", 0, FieldType.NUMBER, 0.1, "V")), ",")
    names = (("x", ""), ("y", "V"))
    assert reader.plain([b"217,-3", b"1,.5,z"]) == (names * 2, (-3.0, 21.7, 0.5, 0.1))
    for odd in (b"217", b"217,", b"1, 2", b"1,1e3", b"1," + b"1" * 21):
        assert reader.plain([b"217,-3", odd]) is None
    assert LineReader((NUMBER, Field("t", 0, FieldType.TEXT)), ",").plain([b"5,1"]) is None
    assert LineReader((), ",").plain([b"a,1"]) is None
