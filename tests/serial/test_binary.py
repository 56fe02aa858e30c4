"""Binary frames out of noise: cut anywhere, bounded, and never one lost behind garbage."""

from __future__ import annotations

import binascii
import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgewarden.serial.binary import (
    CHECKS,
    CountedFramer,
    Counts,
    Start,
    StuffedFramer,
    Stuffing,
    uncobs,
    unslip,
)
from edgewarden.serial.framing import FrameCounters
from tests.serial.frames import CRC, CRC32, FORMATS, LAYOUT, MAX, cobs, counted, slip, summed

every_format = pytest.mark.parametrize("name", FORMATS)
PAYLOADS = st.lists(st.binary(min_size=1, max_size=MAX), min_size=1, max_size=6)


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@every_format
@given(payloads=PAYLOADS)
def test_what_was_sent_comes_out(name: str, payloads: list[bytes]) -> None:
    send, make = FORMATS[name]
    framer = make(FrameCounters())
    assert framer.feed(b"".join(map(send, payloads))) == payloads
    assert framer.counters.frames == len(payloads)
    assert framer.counters.bad == framer.counters.dropped_bytes == 0


@every_format
@given(
    data=st.binary(max_size=600),
    payloads=PAYLOADS,
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_chunking_never_changes_what_comes_out(
    name: str, data: bytes, payloads: list[bytes], cuts: list[int]
) -> None:
    """Any noise with frames in it, cut anywhere: the same frames, the same counts, flat memory."""
    send, make = FORMATS[name]
    half = len(data) // 2
    stream = data[:half] + b"".join(map(send, payloads)) + data[half:]
    whole, cut = make(FrameCounters()), make(FrameCounters())
    expected = whole.feed(stream)
    got = []
    for chunk in chunks_of(stream, cuts):
        got += cut.feed(chunk)
        assert cut.held_bytes <= 2 * (MAX + 8)  # type: ignore[attr-defined]
    assert got == expected
    assert cut.counters == whole.counters


@every_format
@given(garbage=st.binary(max_size=300), payloads=PAYLOADS)
def test_garbage_never_loses_a_good_frame_behind_it(
    name: str, garbage: bytes, payloads: list[bytes]
) -> None:
    """Enough bytes behind the frames decide every false start in front of them."""
    send, make = FORMATS[name]
    framer = make(FrameCounters())
    filler = b"\0" * (2 * MAX)
    got = framer.feed(garbage + b"".join(map(send, payloads)) + filler)
    assert got[-len(payloads) :] == payloads


@every_format
@given(payload=st.binary(min_size=1, max_size=MAX), at=st.integers(0, 10_000))
def test_no_single_flipped_bit_is_let_through(name: str, payload: bytes, at: int) -> None:
    send, make = FORMATS[name]
    sent = bytearray(send(payload))
    bit = at % (8 * len(sent))
    sent[bit // 8] ^= 1 << bit % 8
    got = make(FrameCounters()).feed(bytes(sent) + b"\0" * (2 * MAX))
    # A delimiter in front that is hit is noise: the frame behind it may be whole.
    assert got == [] or (got == [payload] and bit < 8)


@every_format
def test_a_frame_of_exactly_the_maximum_passes_and_one_byte_more_does_not(name: str) -> None:
    send, make = FORMATS[name]
    framer = make(FrameCounters())
    most, good = b"x" * MAX, b"good"
    assert framer.feed(send(most)) == [most]
    assert framer.feed(send(most + b"x") + send(good) + b"\0" * (2 * MAX)) == [good]
    assert framer.counters.overrun == 1


@every_format
def test_an_endless_frame_leaves_memory_flat_and_the_next_one_whole(name: str) -> None:
    send, make = FORMATS[name]
    framer = make(FrameCounters())
    for _ in range(500):
        assert framer.feed(b"\x55" * 4096) == []
        assert framer.held_bytes <= 2 * (MAX + 8)  # type: ignore[attr-defined]
    assert framer.feed(send(b"good")) == [b"good"]
    assert framer.counters.dropped_bytes == 500 * 4096


def test_slip_as_rfc_1055_has_it() -> None:
    assert unslip(bytes.fromhex("01dbdc02dbdd03")) == bytes.fromhex("01c002db03")
    assert unslip(bytes.fromhex("dbdddc")) == bytes.fromhex("dbdc")
    for broken in ("db", "01db02", "dbdb", "dbdbdc", "dbdcdb"):
        with pytest.raises(ValueError, match="bad_stuffing"):
            unslip(bytes.fromhex(broken))


@pytest.mark.parametrize(
    ("stuffed", "plain"),
    [
        ("01", ""),
        ("0101", "00"),
        ("010101", "0000"),
        ("0311220233", "11220033"),
        ("0511223344", "11223344"),
        ("0211010101", "11000000"),
    ],
)
def test_cobs_by_the_examples_of_its_paper(stuffed: str, plain: str) -> None:
    assert uncobs(bytes.fromhex(stuffed)) == bytes.fromhex(plain)


def test_a_full_cobs_block_brings_no_zero() -> None:
    full = bytes(range(1, 255))
    assert uncobs(b"\xff" + full) == full
    assert uncobs(b"\xff" + full + b"\x02\xff") == full + b"\xff"
    assert uncobs(b"\xff" + full + b"\x01\x01") == full + b"\0"


@pytest.mark.parametrize("broken", ["02", "05112233", "0102"])
def test_a_cobs_block_beyond_its_end_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="bad_stuffing"):
        uncobs(bytes.fromhex(broken))


def test_broken_stuffing_is_counted_by_name_and_costs_its_frame_alone() -> None:
    framer = StuffedFramer(Stuffing.SLIP, CRC32, MAX, FrameCounters())
    assert framer.feed(b"\xc0\x01\xdb\x02\xc0" + slip(b"ok")) == [b"ok"]
    assert framer.counters.refusals == {"bad_stuffing": 1}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_zeros_between_delimiters_are_no_frame(size: int) -> None:
    """The checksum of nothing is 0: a line at rest must not make a port live."""
    framer = StuffedFramer(Stuffing.SLIP, CRC32, MAX, FrameCounters())
    assert framer.feed(b"\xc0" + bytes(size) + b"\xc0") == []
    assert (framer.counters.frames, framer.counters.crc_bad) == (0, 1)


def test_a_frame_far_too_long_is_an_overrun_also_when_it_comes_at_once() -> None:
    """Whatever else is wrong with it: the counts must not depend on how the stream was cut."""
    framer = StuffedFramer(Stuffing.SLIP, CRC32, MAX, FrameCounters())
    assert framer.feed(b"\xdb" * 5 * MAX + b"\xc0") == []
    assert (framer.counters.overrun, framer.counters.refused) == (1, 0)


@pytest.mark.parametrize("size", [0, 3])
def test_a_frame_shorter_than_its_checksum_is_a_bad_one(size: int) -> None:
    framer = StuffedFramer(Stuffing.SLIP, CRC32, MAX, FrameCounters())
    assert framer.feed(b"\xc0" + b"x" * size + b"\xc0") == []
    assert framer.counters.crc_bad == bool(size)


def test_what_a_crc_without_a_final_xor_cannot_tell() -> None:
    """One flipped bit of a COBS delimiter appends a zero, which such a CRC does not see: the reason
    why the settings' help advises crc32 there."""
    body = summed(b"ab")
    assert CRC.of(body + b"\0") == CRC.of(body) == 0
    assert CRC32.of(summed(b"ab", CRC32) + b"\0") != CRC32.of(summed(b"ab", CRC32))


def test_a_frame_inside_a_payload_is_not_taken_for_one() -> None:
    inner = counted(b"evil")
    framer = CountedFramer(LAYOUT, MAX, FrameCounters())
    assert framer.feed(counted(inner)) == [inner]


@pytest.mark.parametrize("counts", Counts)
@pytest.mark.parametrize("check_from", Start)
@pytest.mark.parametrize(("length_bytes", "order"), [(1, "big"), (2, "big"), (2, "little")])
def test_every_layout(counts: Counts, check_from: Start, length_bytes: int, order: str) -> None:
    layout = replace(
        LAYOUT,
        counts=counts,
        check_from=check_from,
        length_bytes=length_bytes,
        length_order=order,
    )
    payload = b"payload"
    length = {
        Counts.PAYLOAD: len(payload),
        Counts.REST: len(payload) + CRC.size,
        Counts.FRAME: 2 + length_bytes + len(payload) + CRC.size,
    }[counts]
    field = length.to_bytes(length_bytes, "little" if order == "little" else "big")
    covered = {
        Start.START: layout.start + field + payload,
        Start.LENGTH: field + payload,
        Start.PAYLOAD: payload,
    }[check_from]
    frame = layout.start + field + payload + CRC.of(covered).to_bytes(2, "big")
    framer = CountedFramer(layout, MAX, FrameCounters())
    assert framer.feed(b"noise" + frame + frame) == [payload, payload]
    assert framer.counters.dropped_bytes == 5
    assert framer.counters.resync == 1


@pytest.mark.parametrize("counts", [Counts.REST, Counts.FRAME])
def test_a_length_that_leaves_no_room_for_the_checksum_is_refused(counts: Counts) -> None:
    framer = CountedFramer(replace(LAYOUT, counts=counts), MAX, FrameCounters())
    assert framer.feed(LAYOUT.start + b"\x01" + b"\0" * 80) == []
    assert framer.counters.overrun == 1
    assert framer.held_bytes < len(LAYOUT.start)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=MAX))
def test_noise_that_looks_like_a_start_costs_no_frame(noise: bytes, payload: bytes) -> None:
    """False starts everywhere, their lengths reaching into and over the good frame."""
    starts = LAYOUT.start.join(noise[i : i + 1] for i in range(0, len(noise), 7))
    framer = CountedFramer(LAYOUT, MAX, FrameCounters())
    got = framer.feed(starts + counted(payload) + b"\0" * 2 * MAX)
    assert got[-1:] == [payload]


@given(st.binary(max_size=700))
def test_checks_against_other_peoples(data: bytes) -> None:
    folded = 0
    for byte in data:
        folded ^= byte
    assert CHECKS["xor8"].of(data) == folded
    assert CHECKS["crc32"].of(data) == binascii.crc32(data)


def test_check_values_of_the_catalogue() -> None:
    """CRC RevEng: the CRC of "123456789"."""
    values = {name: check.of(b"123456789") for name, check in CHECKS.items()}
    assert values == {
        "none": 0,
        "sum8": 0xDD,
        "xor8": 0x31,
        "crc16-modbus": 0x4B37,
        "crc16-ccitt": 0x29B1,
        "crc16-xmodem": 0x31C3,
        "crc32": 0xCBF43926,
    }


@given(st.binary(max_size=MAX))
def test_a_senders_stuffing_is_the_readers(payload: bytes) -> None:
    assume(payload)
    assert uncobs(cobs(payload)[1:-1]) == unslip(slip(payload)[1:-1]) == summed(payload, CRC32)
