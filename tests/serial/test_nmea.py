"""NMEA 0183: what is recovered from noise, what is refused, and that nothing breaks the decoder."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import random
import re
import runpy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.nmea import (
    MAX_SENTENCE_BYTES,
    NmeaDecoder,
    NmeaFramer,
    Refused,
    read_sentence,
    xor8,
)
from edgewarden.wire.facts import Reading
from hw.rigs.board import LOG, recorded

GGA = b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"
RMC = b"GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W"
VTG = b"GPVTG,054.7,T,034.4,M,005.5,N,010.2,K"


def sealed(body: bytes) -> bytes:
    return b"$" + body + b"*%02X\r\n" % functools.reduce(operator.xor, body, 0)


def by_name(readings: list[Reading]) -> dict[str, tuple[object, str]]:
    return {r.name: (r.value, r.unit) for r in readings}


def refusal(body: bytes) -> str:
    decoder = NmeaDecoder("gps")
    assert decoder.feed(sealed(body), 0) == []
    assert decoder.counters.frames == decoder.counters.refused == 1
    return next(iter(decoder.counters.refusals))


def test_the_checksum_of_a_published_sentence() -> None:
    # gpsd, "NMEA Revealed", section RMC and GGA examples.
    assert xor8(GGA) == 0x47
    assert xor8(RMC) == 0x6A


@given(st.binary(max_size=MAX_SENTENCE_BYTES))
def test_folding_is_the_xor_of_all_bytes(body: bytes) -> None:
    assert xor8(body) == functools.reduce(operator.xor, body, 0)


def test_gga_gives_position_altitude_and_satellites() -> None:
    readings = NmeaDecoder("gps").feed(sealed(GGA), 7)
    assert by_name(readings) == {
        "satellites": (8.0, "count"),
        "fix": (True, ""),
        "lat": (pytest.approx(48.1173), "lat"),
        "lon": (pytest.approx(11.516667, abs=1e-6), "lon"),
        "alt": (545.4, "m"),
    }
    assert {(r.source, r.seen_mono_ns) for r in readings} == {("gps", 7)}


def test_south_and_west_are_negative() -> None:
    body = GGA.replace(b",N,", b",S,").replace(b",E,", b",W,")
    named = by_name(NmeaDecoder("gps").feed(sealed(body), 0))
    assert named["lat"][0] == pytest.approx(-48.1173)
    assert named["lon"][0] == pytest.approx(-11.516667, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "metres_per_second"),
    [
        (RMC, 22.4 * 1852 / 3600),
        (VTG, 10.2 / 3.6),
        (b"GPVTG,,T,,M,10.0,N,,K,A", 10 * 1852 / 3600),
    ],
)
def test_speed_is_in_metres_per_second(body: bytes, metres_per_second: float) -> None:
    named = by_name(NmeaDecoder("gps").feed(sealed(body), 0))
    assert named["speed"] == (pytest.approx(metres_per_second, abs=1e-3), "m/s")


@pytest.mark.parametrize("quality", [b"0", b"6", b"7", b"8", b"", b"x"])
def test_gga_without_a_real_fix_gives_no_position(quality: bytes) -> None:
    body = GGA.replace(b",E,1,", b",E," + quality + b",")
    assert by_name(NmeaDecoder("gps").feed(sealed(body), 0)) == {
        "satellites": (8.0, "count"),
        "fix": (False, ""),
    }


@pytest.mark.parametrize(
    "body",
    [
        RMC.replace(b",A,", b",V,"),
        RMC + b",S",
        RMC + b",N",
        b"GPVTG,,T,,M,0.0,N,0.0,K,N",
        b"GPGSA,A,3,04",
        b"PUBX,00,081350.00",
        b"",
    ],
)
def test_good_frames_that_say_nothing_here(body: bytes) -> None:
    decoder = NmeaDecoder("gps")
    assert decoder.feed(sealed(body), 0) == []
    assert (decoder.counters.frames, decoder.counters.bad) == (1, 0)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        (b"4807.038", b"nan", "bad_number"),
        (b"4807.038", b"inf", "bad_number"),
        (b"4807.038", b"4.8e3", "bad_number"),
        (b"4807.038", b"-4807.038", "bad_number"),
        (b"4807.038", b"4807.038.1", "bad_number"),
        (b"4807.038", b"48 7.038", "bad_number"),
        (b"4807.038", b"4_07.038", "bad_number"),
        (b"4807.038", b"", "bad_number"),
        (b"4807.038", b"9000.001", "out_of_range"),
        (b"4807.038", b"4860.000", "out_of_range"),
        (b"01131.000", b"18000.001", "out_of_range"),
        (b"01131.000", b"1131.000", "bad_number"),
        (b",N,", b",Q,", "bad_hemisphere"),
        (b"545.4,M", b"545.4,F", "bad_unit"),
        (b"545.4", b"99999.0", "out_of_range"),
        (b"545.4", b"NaN", "bad_number"),
        (b",08,", b",999,", "out_of_range"),
        (b",08,", b",-1,", "bad_number"),
        (b",46.9,M,,", b"", "too_few_fields"),
        (b"545.4", "54५.4".encode(), "not_ascii"),
    ],
)
def test_absurd_fields_refuse_the_sentence_by_name(old: bytes, new: bytes, name: str) -> None:
    assert refusal(GGA.replace(old, new)) == name


def test_absurd_speed_is_refused() -> None:
    assert refusal(RMC.replace(b"022.4", b"2000.0")) == "out_of_range"
    assert refusal(VTG.replace(b"010.2", b"1e3")) == "bad_number"


@pytest.mark.parametrize(
    "line",
    [
        b"$" + GGA + b"*46\r\n",
        b"$" + GGA + b"\r\n",
        b"$" + GGA + b"*\r\n",
        b"$" + GGA + b"*4\r\n",
        b"$" + GGA + b"* 7\r\n",
        b"$" + GGA + b"*+7\r\n",
        b"$" + GGA + b"*047\r\n",
    ],
)
def test_a_wrong_or_missing_checksum_is_counted_and_unused(line: bytes) -> None:
    decoder = NmeaDecoder("gps")
    assert decoder.feed(line, 0) == []
    assert (decoder.counters.crc_bad, decoder.counters.frames) == (1, 0)


def test_every_single_bit_error_is_caught() -> None:
    good = sealed(GGA)
    for bit in range(8 * (len(good) - 2)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        decoder = NmeaDecoder("gps")
        readings = decoder.feed(bytes(bad), 0)
        # A flip in the checksum's case bit ("A" to "a") is the same checksum; GGA's is digits.
        assert readings == [], (bit, bytes(bad))


def log_promise() -> int:
    match = re.search(rb"expect: good=(\d+)", LOG.read_bytes())
    assert match
    return int(match[1])


def test_the_log_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(LOG.with_name("make_nmea_noisy.py")))["make"]()
    assert made == LOG.read_bytes()
    assert log_promise() == 400


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 4096, 10**6])
def test_all_400_good_sentences_come_out_of_the_noise(chunk_bytes: int) -> None:
    decoder, data = NmeaDecoder("gps"), recorded()
    readings = []
    for start in range(0, len(data), chunk_bytes):
        readings += decoder.feed(data[start : start + chunk_bytes], 0)
    assert decoder.counters.frames == log_promise()
    # Per epoch: GGA 5 channels, RMC 3, VTG 1, GSA none.
    assert len(readings) == 100 * 9
    assert decoder.counters.crc_bad > 0
    assert decoder.counters.resync > 0


def test_line_splitting_alone_would_lose_sentences() -> None:
    """The finding behind rule 1: if this fails, the log no longer holds the hard case."""
    whole = [
        line
        for line in recorded().split(b"\r\n")
        if re.fullmatch(rb"\$[^$*]+\*[0-9A-F]{2}", line) and xor8(line[1:-3]) == int(line[-2:], 16)
    ]
    assert len(whole) < log_promise()


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_any_bytes_leave_the_decoder_standing_and_memory_flat(parts: list[bytes]) -> None:
    counters = FrameCounters()
    framer = NmeaFramer(counters)
    fed = good = 0
    for part in parts:
        fed += len(part)
        good += sum(len(body) for body in framer.feed(part))
        assert framer.held_bytes <= MAX_SENTENCE_BYTES + 1
    assert counters.dropped_bytes + good + framer.held_bytes <= fed


@given(
    st.binary(max_size=200).map(lambda b: b.replace(b"\n", b"").replace(b"$", b"")),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_a_sentence_right_behind_any_noise_is_recovered(noise: bytes, cuts: list[int]) -> None:
    data = noise + sealed(GGA)
    edges = [0, *sorted(c % len(data) for c in cuts), len(data)]
    decoder, readings = NmeaDecoder("gps"), []
    for a, b in itertools.pairwise(edges):
        readings += decoder.feed(data[a:b], 0)
    assert len(readings) == 5
    assert decoder.counters.dropped_bytes == len(noise)
    assert decoder.counters.resync == (1 if noise else 0)


@given(
    st.lists(st.one_of(st.binary(max_size=300), st.just(sealed(GGA)), st.just(b"$")), max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_chunking_never_changes_which_sentences_come_out(
    parts: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(parts)
    whole, cut = NmeaFramer(FrameCounters()), NmeaFramer(FrameCounters())
    expected = whole.feed(stream)
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    got = []
    for start, end in itertools.pairwise(edges):
        got += cut.feed(stream[start:end])
        assert cut.held_bytes <= MAX_SENTENCE_BYTES + 1
    assert got == expected
    assert cut.counters.frames == whole.counters.frames == len(got)


@given(st.text(alphabet="GPRMCVTA0123456789.,-NSEWKMeinfx", max_size=120))
def test_any_fields_are_read_or_refused(text: str) -> None:
    for head in ("GPGGA,", "GPRMC,", "GPVTG,", ""):
        channels = []
        with contextlib.suppress(Refused):
            channels = read_sentence((head + text).encode())
        for name, _, value in channels:
            assert isinstance(value, bool) or abs(value) <= 50_000, name


def test_a_flood_of_noise_holds_no_memory() -> None:
    chance = random.Random(1)
    decoder, counters = NmeaDecoder("gps"), FrameCounters()
    framer = NmeaFramer(counters)
    for _ in range(500):
        noise = chance.randbytes(4096).replace(b"\n", b"\x00")
        decoder.feed(noise, 0)
        framer.feed(noise)
        assert framer.held_bytes <= MAX_SENTENCE_BYTES + 1
    assert decoder.counters.frames == 0
    assert decoder.feed(sealed(GGA), 0) != []


@pytest.mark.parametrize("checksum", [b"4A", b"4a"])
def test_a_checksum_may_be_spelt_in_small_letters(checksum: bytes) -> None:
    counters = FrameCounters()
    assert NmeaFramer(counters).feed(b"$AB" + b"\x49" + b"*" + checksum + b"\n") == [b"ABI"]


@pytest.mark.parametrize("checksum", [b"\t\t", b"0x", b"+0", b"00\t", b"0", b"000", b""])
def test_a_checksum_is_two_digits_and_nothing_else(checksum: bytes) -> None:
    counters = FrameCounters()
    assert NmeaFramer(counters).feed(b"$AA*" + checksum + b"\n") == []
    assert (counters.frames, counters.crc_bad) == (0, 1)
