"""What bytes of an unknown line look like: the right rate, a wrong one, seven bits, an inverted
line."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.probe.guess import (
    ECHO,
    NO_ANSWER,
    NOTHING,
    PTY,
    RETURN,
    WRONG_RATE,
    Sample,
    best,
    hints,
    look,
    overheard,
)  # fmt: skip
from edgewarden.probe.listening import RATES
from edgewarden.serial.binary import CHECKS
from edgewarden.serial.modbus import read, seal
from tests.probe.uart import heard, line, received
from tests.serial.frames import cobs, slip
from tests.serial.test_nmea import GGA, sealed

NMEA = sealed(GGA) * 6
JSON = b"".join(json.dumps({"t": i / 7, "door": True}).encode() + b"\n" for i in range(20))
MODBUS = b"".join(read(1, 3, i, 2).adu() + seal(bytes((1, 3, 4, 0, i, 2, 9))) for i in range(8))
PAYLOADS = [b"\x01%c%c\xc0\xdb\0\x41\xf7" % (i, 255 - i) for i in range(16)]
LINES = b"".join(b"%d;%d\r\n" % (i, 3 * i) for i in range(40))


@pytest.mark.parametrize(
    ("data", "name"),
    [(NMEA, "nmea"), (JSON, "jsonlines"), (MODBUS, "modbus-rtu"), (LINES, "lines")],
)
@pytest.mark.parametrize("sent", [4800, 9600, 19200, 115200])
def test_of_all_rates_the_one_that_was_sent_is_found(data: bytes, name: str, sent: int) -> None:
    guesses = [look(Sample(at, heard(data, sent, at))) for at in RATES]
    chosen = best(guesses)
    assert chosen is not None
    assert (chosen.format, chosen.sample.baud, chosen.bad) == (name, sent, 0)
    assert [g for g in guesses if g.sure and g is not chosen] == []
    assert hints(guesses) == []


def framed(kind: str, check: str) -> bytes:
    stuff, whose = (slip, CHECKS[check]) if kind == "slip" else (cobs, CHECKS[check])
    return b"".join(stuff(payload, whose) for payload in PAYLOADS)


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "none"])
@pytest.mark.parametrize("kind", ["slip", "cobs"])
def test_stuffed_frames_are_told_with_their_checksum(kind: str, check: str) -> None:
    guesses = [look(Sample(at, heard(framed(kind, check), 19200, at))) for at in RATES]
    chosen = best(guesses)
    assert chosen is not None
    assert (chosen.format, chosen.check, chosen.sample.baud) == (kind, check, 19200)
    assert (chosen.frames, chosen.bad, chosen.sure) == (len(PAYLOADS), 0, True)
    assert [g for g in guesses if g.sure and g is not chosen] == []


def test_a_line_of_zeros_and_delimiters_is_no_frame() -> None:
    """The checksum of nothing but zeros is zero, for some."""
    for data in (b"\xc0\0\0\0\0" * 20, b"\x01\x01\x01\x01\0" * 20):
        assert look(Sample(9600, data)).format == ""


@pytest.mark.parametrize("parity", ["even", "odd"])
def test_seven_bits_are_told_with_their_parity(parity: str) -> None:
    data = received(line(NMEA, 7, parity), 9600, 9600)
    guess = look(Sample(9600, data))
    assert (guess.format, guess.seven, guess.frames) == ("nmea", parity, 6)
    assert hints([guess]) == [f"characters have seven bits and {parity} parity"]


@pytest.mark.parametrize("inverted", [False, True])
def test_a_rate_that_was_not_tried_and_an_inverted_line_are_a_hint(inverted: bool) -> None:
    sent = 9600 if inverted else 14400
    guesses = [look(Sample(at, heard(NMEA, sent, at, inverted=inverted))) for at in RATES]
    assert best(guesses) is None
    assert hints(guesses) == [WRONG_RATE]


@pytest.mark.parametrize(
    ("row", "encoding", "name"),
    [
        ("Temp: 21.5 \u00b0C\r\n", "utf-8", "lines"),
        ("Temp: 21.5 \u00b0C\r\n", "latin-1", "lines"),
        ('{"t": 21.5, "unit": "\u00b0C"}\n', "utf-8", "jsonlines"),
    ],
)
def test_a_letter_beyond_ascii_is_no_parity(row: str, encoding: str, name: str) -> None:
    guess = look(Sample(9600, row.encode(encoding) * 9))
    assert (guess.format, guess.seven, guess.bad) == (name, "", 0)
    assert hints([guess]) == []


def test_lines_that_end_with_a_return_alone_have_their_own_hint() -> None:
    guess = look(Sample(9600, b"ST,GS,  12.50,kg\r" * 9))
    assert (guess.format, hints([guess])) == ("", [RETURN])
    mixed = [guess, look(Sample(9600, random.Random(1).randbytes(300)))]
    assert hints(mixed) == [RETURN]


def test_framing_errors_of_the_kernel_are_told() -> None:
    said = hints([look(Sample(9600, b"\x80\xf0" * 50, 37))])
    assert said == [WRONG_RATE, "the kernel counted 37 framing errors: a wrong rate, most likely"]


def test_silence_echo_and_a_pty_have_their_own_words() -> None:
    silent = [look(Sample(9600, b""))]
    assert hints(silent) == [NOTHING]
    assert hints(silent, pty=True, echo=True) == [ECHO, NOTHING, PTY]
    assert hints(silent, answered=True) == []
    assert hints(silent, asked=True) == [NO_ANSWER]
    assert hints(silent, asked=True, answered=True) == []


def test_noise_beside_good_frames_is_told() -> None:
    broken = sealed(GGA).replace(b"*", b"0*", 1)
    (said,) = hints([look(Sample(9600, (sealed(GGA) + broken) * 6))])
    assert said.startswith("6 bad frames beside 6 good ones")


@given(st.binary(max_size=600))
def test_any_bytes_are_looked_at_without_a_fault(data: bytes) -> None:
    look(Sample(9600, data))


def test_noise_is_no_format() -> None:
    chance = random.Random(11)
    samples = [Sample(9600, chance.randbytes(512)) for _ in range(200)]
    assert [guess.format for guess in map(look, samples) if guess.format] == []


def test_a_bus_is_overheard_from_the_middle_of_a_frame() -> None:
    assert overheard(MODBUS[5:]) == 15
