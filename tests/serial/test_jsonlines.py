"""JSON lines: what becomes a channel, what is refused by name, and that nothing breaks it."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.serial.jsonlines import (
    MAX_CHANNELS,
    MAX_LINE_BYTES,
    JsonLinesDecoder,
    Refused,
    read_line,
)


def refusal(line: bytes) -> str:
    decoder = JsonLinesDecoder("env")
    assert decoder.feed(line + b"\n", 0) == []
    assert (decoder.counters.refused, decoder.counters.frames) == (1, 0)
    return next(iter(decoder.counters.refusals))


def test_numbers_text_and_truth_become_channels_with_units_from_settings() -> None:
    decoder = JsonLinesDecoder("env", {"temperature": "Cel"})
    line = (
        b'{"temperature": 21.5, "mode": "eco", "door": {"open": true}, "co2": 412, "x": null}\r\n'
    )
    got = {r.name: (r.value, r.unit, r.source, r.seen_mono_ns) for r in decoder.feed(line, 7)}
    assert got == {
        "temperature": (21.5, "Cel", "env", 7),
        "mode": ("eco", "", "env", 7),
        "door.open": (True, "", "env", 7),
        "co2": (412, "", "env", 7),
    }
    assert decoder.counters.frames == 1


def test_no_parser_is_made_for_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(json, "JSONDecoder")
    assert read_line(b'{"t": 1}') == {"t": 1}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b'{"t": NaN}', "not_finite"),
        (b'{"t": Infinity}', "not_finite"),
        (b'{"t": -Infinity}', "not_finite"),
        (b'{"t": 1e999}', "number_range"),
        (b'{"t": -1e999}', "number_range"),
        (b'{"t": 9007199254740993}', "number_range"),
        (b'{"t": ' + b"9" * 4000 + b"}", "number_range"),
        (b'{"t": 1, "t": 2}', "duplicate_key"),
        (b'{"a": {"t": 1, "t": 1}}', "duplicate_key"),
        (b'{"a": {"b": 1}, "a.b": 2}', "duplicate_key"),
        (b'{"t": [1, 2]}', "list_value"),
        (b"[1, 2]", "not_object"),
        (b"17", "not_object"),
        (b'"text"', "not_object"),
        (b"null", "not_object"),
        (b'{"t": 1} trailing', "not_json"),
        (b'{"t": 1}{"t": 2}', "not_json"),
        (b"{'t': 1}", "not_json"),
        (b'{"t": 01}', "not_json"),
        (b'{"t":', "not_json"),
        (b'{"t": "' + b'\\"' * 1500, "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"t\xff": 1}', "not_utf8"),
        (b'{"": 1}', "bad_name"),
        (b'{"a b": 1}', "bad_name"),
        ('{"température": 1}'.encode(), "bad_name"),
        (b'{"' + b"n" * 65 + b'": 1}', "bad_name"),
        (b'{"t": "\\ud800"}', "bad_text"),
        (b'{"t": "\\u0000"}', "bad_text"),
        (b'{"t": "\\u001b[2J"}', "bad_text"),
        (b'{"t": "' + b"x" * 257 + b'"}', "bad_text"),
        (b'{"a":' * 5 + b"1" + b"}" * 5, "too_deep"),
        (b"[" * 4000, "too_deep"),
        (b'{"a":' * 800, "too_deep"),
    ],
)
def test_refused_by_name(line: bytes, name: str) -> None:
    assert refusal(line) == name


def test_brackets_inside_text_are_not_depth() -> None:
    assert read_line(b'{"t": "[[[[[[{{{{{{\\"[[["}') == {"t": '[[[[[[{{{{{{"[[['}


def test_channel_names_are_bounded_over_the_life_of_the_sensor() -> None:
    decoder = JsonLinesDecoder("env")
    for i in range(10 * MAX_CHANNELS):
        decoder.feed(b'{"c%d": 1}\n' % i, 0)
    assert decoder.counters.frames == MAX_CHANNELS
    assert decoder.counters.refusals == {"too_many_channels": 9 * MAX_CHANNELS}
    assert len(decoder.feed(b'{"c1": 2}\n', 0)) == 1


def test_a_line_beyond_the_maximum_is_an_overrun_and_the_next_one_is_read() -> None:
    decoder = JsonLinesDecoder("env")
    assert decoder.feed(b'{"t": "' + b"x" * MAX_LINE_BYTES, 0) == []
    assert [r.value for r in decoder.feed(b'"}\n{"t": 3}\n', 0)] == [3]
    assert (decoder.counters.overrun, decoder.counters.frames) == (1, 1)


@given(st.binary(max_size=600))
def test_any_bytes_leave_the_decoder_standing(data: bytes) -> None:
    decoder = JsonLinesDecoder("env")
    decoder.feed(data, 0)
    decoder.feed(b"\n", 0)
    assert [r.value for r in decoder.feed(b'{"t": 1}\n', 0)] == [1]


plain = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(plain)
def test_any_json_is_read_exactly_or_refused(value: object) -> None:
    line = json.dumps(value).encode()
    try:
        channels = read_line(line)
    except Refused:
        return
    assert isinstance(value, dict)
    for name, got in channels.items():
        node: object = value
        for key in [name] if name in value else name.split("."):
            assert isinstance(node, dict)
            node = node[key]
        assert got == node
        assert not isinstance(got, float) or math.isfinite(got)


def test_the_costliest_line_found_is_linear() -> None:
    """Quotes behind backslashes made the depth scan quadratic before its pattern was closed."""
    whole, quarter = (cheapest_ns(MAX_LINE_BYTES // n) for n in (1, 4))
    assert whole < 10 * quarter, "sixteen times is quadratic"


def cheapest_ns(size: int) -> int:
    """Of twenty readings: the one that nothing disturbed."""
    line, took = b'{"t": "' + b'\\"' * (size // 2 - 8), []
    for _ in range(20):
        started_ns = time.process_time_ns()
        with pytest.raises(Refused):
            read_line(line)
        took.append(time.process_time_ns() - started_ns)
    return min(took)
