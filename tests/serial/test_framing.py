"""Lines out of a stream: every byte accounted for, memory flat."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.serial.framing import MAX_REFUSAL_NAMES, FrameCounters, LineFramer

MAX = 32


def framer() -> LineFramer:
    return LineFramer(MAX, FrameCounters())


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_lines_end_at_newline_and_lose_their_carriage_return() -> None:
    assert framer().feed(b"one\r\ntwo\n\n\r\nthr") == [b"one", b"two"]


def test_a_line_of_exactly_the_maximum_passes_and_one_byte_more_does_not() -> None:
    lines = framer()
    assert lines.feed(b"x" * MAX + b"\r\n") == [b"x" * MAX]
    assert lines.feed(b"x" * (MAX + 1) + b"\n") == []
    assert (lines.counters.overrun, lines.counters.dropped_bytes) == (1, MAX + 2)


def test_an_endless_line_is_one_overrun_and_the_next_line_is_whole() -> None:
    lines = framer()
    for _ in range(1000):
        assert lines.feed(b"y" * 4096) == []
        assert lines.held_bytes <= MAX + 1
    assert lines.feed(b"tail\nnext\n") == [b"next"]
    assert lines.counters.overrun == 1
    assert lines.counters.dropped_bytes == 1000 * 4096 + len(b"tail\n")


@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=8))
def test_chunking_never_changes_what_comes_out(data: bytes, cuts: list[int]) -> None:
    whole, cut = framer(), framer()
    expected = whole.feed(data)
    got = [line for chunk in chunks_of(data, cuts) for line in cut.feed(chunk)]
    assert got == expected
    assert cut.counters == whole.counters
    assert cut.held_bytes <= MAX + 1


@given(st.binary(max_size=400))
def test_lines_are_those_that_splitting_finds_and_fit(data: bytes) -> None:
    whole = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
    assert framer().feed(data) == [line for line in whole if 0 < len(line) <= MAX]


def test_refusal_names_are_bounded() -> None:
    counters = FrameCounters()
    for i in range(10 * MAX_REFUSAL_NAMES):
        counters.refuse(f"name-{i}")
    assert len(counters.refusals) == MAX_REFUSAL_NAMES
    assert counters.refused == counters.bad == 10 * MAX_REFUSAL_NAMES


def test_a_maximum_below_one_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="positive"):
        LineFramer(0, FrameCounters())
