"""What the bytes of an unknown serial line look like: which format, at which rate, what is wrong.

Pure. Decides from what was heard at each rate; leaves to others how it was heard (listening.py) and
how it is shown (cli/sensors_probe.py). Bytes are judged by the very decoders that link uses: a
format is named only when whole frames with a right checksum, or whole JSON objects, were found.

Rules, in order:

1. NMEA 0183, Modbus RTU (overheard: two frames whose CRC is right) and JSON lines are facts; lines
   of printable text are a format too, and stand behind them.
2. Where nothing is found, the same bytes without their highest bit are tried: text then means seven
   data bits with parity where nearly every byte has the same one, and else text with letters beyond
   ASCII (a degree sign).
3. SLIP and COBS are found by their checksum alone, each of those that the settings know: two good
   frames of 16 or 32 bits, eight of 8 bits, and fewer bad ones. Without a checksum a delimiter
   proves nothing; frames with a length have too many layouts to be tried.
4. Else the bytes are a wrong rate, an inverted line or a format that is not known: WRONG_RATE says
   it, more surely when the kernel counted framing errors or many bytes have high bits.

    best(Sample(9600, b"$GPGGA,...*47\\r\\n") ...).format == "nmea"
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.plain import dataclass, field
from edgewarden.serial.binary import CHECKS, StuffedFramer, Stuffing
from edgewarden.serial.framing import FrameCounters
from edgewarden.serial.jsonlines import JsonLinesDecoder
from edgewarden.serial.modbus import crc16
from edgewarden.serial.nmea import NmeaDecoder
from edgewarden.wire.facts import Reading

NOTHING = (
    "nothing was heard: no power, TX and RX swapped, or a device that speaks only when it is asked "
    "(Modbus: --modbus asks)"
)
NO_ANSWER = (
    "nothing answered: no power, TX and RX or A and B swapped, another UNIT, or another rate or "
    "parity than those tried"
)
WRONG_RATE = (
    "bytes come and make no sense: another rate than those tried, an inverted line (RS-232 levels "
    "at a TTL input, or A and B of RS-485 swapped), or a binary format"
)
ECHO = "what we send comes back: a loopback, or an RS-485 adapter that hears itself"
RETURN = (
    "text comes whose lines end with a carriage return alone: set the device to CR LF or LF, "
    "a line ends with a line feed here"
)
PTY = "this is a pseudo-terminal: it has no rate, so the rate could not be found out"
FEW = 16
"""Fewer bytes say nothing about a format."""
TEXT_SHARE = 0.97
PARITY_SHARE = 0.9
"""Of text with eight bits about half has either."""
ENOUGH = 2
"""Frames with a right checksum: chance makes one in 256 (NMEA) or 65,536 (CRC) of them."""
ENOUGH_OF_A_BYTE = 8
"""Of a checksum of eight bits."""
MOST_FRAME_BYTES = 1024
"""As the settings allow (max_frame_bytes)."""
_READS = (1, 2, 3, 4)
_ECHOED = (5, 6)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was heard at one rate.

    Attributes:
        baud: the rate.
        data: the bytes.
        framing_errors: as the kernel counted them; None where it does not (a pty).
        parity: none, even or odd: how the line was set up.
    """

    baud: int
    data: bytes
    framing_errors: int | None = None
    parity: str = "none"


@dataclass(frozen=True, slots=True)
class Guess:
    """What a sample is.

    Attributes:
        sample: what was heard.
        format: as the settings call it; "" for none.
        frames: good frames.
        bad: frames with a wrong checksum, or lines that are no object.
        text: share of printable characters, 0 to 1.
        seven: parity when it is seven bits wide: even, odd; "" for eight bits.
        check: of slip and cobs, as the settings call it.
        readings: the first values.
    """

    sample: Sample
    format: str = ""
    frames: int = 0
    bad: int = 0
    text: float = 0.0
    seven: str = ""
    readings: tuple[Reading, ...] = field(default=())
    check: str = ""

    @property
    def sure(self) -> bool:
        """No other rate needs to be tried."""
        kinds = ("nmea", "modbus-rtu", "jsonlines", "slip", "cobs")
        return self.format in kinds and self.frames >= ENOUGH


def look(sample: Sample) -> Guess:
    """Judge one sample."""
    found = _decoded(sample, sample.data)
    if found.format or len(sample.data) < FEW:
        return found
    narrow = _decoded(sample, bytes(byte & 0x7F for byte in sample.data))
    if not narrow.format:
        return _stuffed(sample, found.text)
    odd = sum(byte.bit_count() & 1 for byte in sample.data) / len(sample.data)
    if 1 - PARITY_SHARE < odd < PARITY_SHARE:
        wide = _decoded(sample, sample.data, narrow.text)
        return wide if wide.format else _stuffed(sample, found.text)
    seven = "odd" if odd >= PARITY_SHARE else "even"
    return Guess(
        sample, narrow.format, narrow.frames, narrow.bad, narrow.text, seven, narrow.readings
    )


def best(guesses: Sequence[Guess]) -> Guess | None:
    """The one to believe; None when no format was found."""
    found = [guess for guess in guesses if guess.format]
    return max(found, key=lambda g: (g.sure, g.frames - g.bad, g.text), default=None)


def hints(
    guesses: Sequence[Guess], *, pty: bool = False, echo: bool = False, asked: bool = False,
    answered: bool = False,
) -> list[str]:  # fmt: skip
    """What a person at the terminal should look at, most likely first.

    Args:
        pty: the port has no rate.
        echo: our own question came back.
        asked: a Modbus device was.
        answered: it did: what its bytes look like is no matter.
    """
    out, chosen = [], best(guesses)
    heard = sum(len(guess.sample.data) for guess in guesses)
    if echo:
        out.append(ECHO)
    if answered:
        pass
    elif not heard:
        out.append(NO_ANSWER if asked else NOTHING)
    elif chosen is None and any(map(_returns, guesses)):
        out.append(RETURN)
    elif chosen is None:
        out.append(WRONG_RATE)
        errors = sum(guess.sample.framing_errors or 0 for guess in guesses)
        if errors:
            out.append(f"the kernel counted {errors} framing errors: a wrong rate, most likely")
    elif chosen.bad * 4 > chosen.frames:
        out.append(f"{chosen.bad} bad frames beside {chosen.frames} good ones: noise, a long line, "
                   "no common ground, or two that speak at once")  # fmt: skip
    if chosen is not None and chosen.seven:
        out.append(f"characters have seven bits and {chosen.seven} parity")
    if pty:
        out.append(PTY)
    return out


def _returns(guess: Guess) -> bool:
    """Whether it is text without a line feed."""
    data = guess.sample.data
    return guess.text >= TEXT_SHARE and data.count(b"\r") >= ENOUGH and b"\n" not in data


def overheard(data: bytes) -> int:
    """Modbus RTU frames in the bytes of a bus that others speak on."""
    at = found = 0
    while at + 5 <= len(data):
        for size in _sizes(data, at):
            if at + size <= len(data) and crc16(data[at : at + size]) == 0:
                found += 1
                at += size
                break
        else:
            at += 1
    return found


def _sizes(data: bytes, at: int) -> tuple[int, ...]:
    """How long a frame that begins here could be: question, answer, exception."""
    unit, function = data[at], data[at + 1]
    if unit > 247:
        return ()
    if function in _READS:
        return 8, 5 + data[at + 2]
    if function in _ECHOED:
        return (8,)
    return (5,) if function & 0x7F in (*_READS, *_ECHOED, 15, 16) and function & 0x80 else ()


def _stuffed(sample: Sample, text: float) -> Guess:
    """SLIP or COBS, by a checksum that holds."""
    found = Guess(sample, text=text)
    for stuffing in Stuffing:
        for name, check in CHECKS.items():
            counters = FrameCounters()
            framer = StuffedFramer(stuffing, check, MOST_FRAME_BYTES, counters)
            # Of zeros some checksums are zero: a line at rest is no frame.
            good = sum(any(payload) for payload in framer.feed(sample.data))
            enough = ENOUGH_OF_A_BYTE if check.size == 1 else ENOUGH
            if check.size and good >= enough and good > max(found.frames, counters.bad):
                found = Guess(sample, str(stuffing), good, counters.bad, text, check=name)
    return found


def _decoded(sample: Sample, data: bytes, text: float | None = None) -> Guess:
    if text is None:
        printable = sum(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in data)
        text = printable / len(data) if data else 0.0
    nmea = NmeaDecoder("probe")
    readings = nmea.feed(data, 0)
    if nmea.counters.frames:
        bad = nmea.counters.bad
        return Guess(sample, "nmea", nmea.counters.frames, bad, text, "", tuple(readings[:16]))
    if text >= TEXT_SHARE:
        objects = JsonLinesDecoder("probe")
        # The first line began before we listened.
        readings = objects.feed(data.partition(b"\n")[2], 0)
        if objects.counters.frames:
            count, bad = objects.counters.frames, objects.counters.bad
            return Guess(sample, "jsonlines", count, bad, text, "", tuple(readings[:16]))
    frames = overheard(data)
    if frames >= ENOUGH:
        return Guess(sample, "modbus-rtu", frames, 0, text)
    lines = data.count(b"\n")
    if text >= TEXT_SHARE and lines >= ENOUGH:
        return Guess(sample, "lines", lines, 0, text)
    return Guess(sample, "", 0, 0, text)
