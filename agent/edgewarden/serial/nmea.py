"""NMEA 0183 sentences from a noisy line to readings.

Decides which bytes are a sentence and what GGA, RMC and VTG say. Leaves to others the port
(serialport.py) and whether a position is plausible (judge/). Pure: no I/O, no clock.

Rules, in order:

1. A sentence starts at the LAST ``$`` before its newline: line splitting alone loses the first
   sentence after every noise burst (research: 380 of 400 against 400 of 400).
2. The checksum ``*HH`` is required and must match; without it the bytes are counted in ``crc_bad``
   and unused.
3. A sentence type that is not read here is a good frame that yields no reading.
4. Numbers are ASCII decimal digits with at most one point: ``nan``, ``inf``, ``1e9``, signs where
   none belong and values outside the physical range refuse the whole sentence, by name.
5. No fix, no position: GGA quality 0, 6 (dead reckoning), 7 (manual input) and 8 (simulator), RMC
   status other than A and modes N, E, M and S yield no latitude, longitude, altitude or speed.

Source of the sentence layouts: NMEA 0183 v4.11, as described by gpsd's "NMEA Revealed"
(https://gpsd.gitlab.io/gpsd/NMEA.html).

    NmeaDecoder("gps").feed(b"$GPVTG,,T,,M,0.0,N,0.0,K,A*23\\r\\n", seen_mono_ns=7)
    == [Reading("gps", "speed", "m/s", 0.0, 7)]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgewarden.serial.framing import FrameCounters
from edgewarden.wire.burst import Burst
from edgewarden.wire.facts import Reading

MAX_SENTENCE_BYTES = 255
"""The standard says 82; receivers' own sentences ($PUBX, $PSTM) reach about 200. Also what
``xor8`` folds."""

SPEED_MAX_MPS = 600.0
"""Receivers under the export rules stop at 515 m/s (1,000 knots)."""
ALTITUDE_MIN_M, ALTITUDE_MAX_M = -1_000.0, 50_000.0
SATELLITES_MAX = 255

MPS_PER_KNOT = 1852.0 / 3600.0
MPS_PER_KMH = 1000.0 / 3600.0

GGA_FIX_QUALITIES = frozenset("123459")
"""1 GPS, 2 differential, 3 PPS, 4 RTK, 5 float RTK, 9 SBAS by some makers. Not 0, 6, 7, 8: rule
5."""
NO_FIX_MODES = frozenset("NEMS")
"""No fix, estimated, manual, simulator."""

_FOLDS, _SHORT_FOLDS = (1024, 512, 256, 128, 64, 32, 16, 8), (256, 128, 64, 32, 16, 8)
_SHORT_BYTES = 64
"""Most sentences: two steps less."""

Channel = tuple[str, str, float | bool]
"""Name, SenML unit, value."""

_UNSIGNED = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_SIGNED = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?")
_LATITUDE = re.compile(r"([0-9]{2})([0-9]{2}(?:\.[0-9]{1,9})?)")
_LONGITUDE = re.compile(r"([0-9]{3})([0-9]{2}(?:\.[0-9]{1,9})?)")


class Refused(Exception):
    """A whole sentence whose content is not used; ``args[0]`` is the stable name."""


def xor8(body: bytes) -> int:
    """XOR of all bytes of ``body`` (at most 256): the checksum of NMEA 0183.

    Folds one big integer in at most eight steps; a loop over the bytes costs four times as much.
    """
    folded = int.from_bytes(body, "big")
    for shift in _FOLDS if len(body) > _SHORT_BYTES else _SHORT_FOLDS:
        folded ^= folded >> shift
    return folded & 0xFF


class NmeaFramer:
    """Sentences out of noise: ``feed(bytes)`` returns sentence bodies without ``$`` and ``*HH``.

    Holds at most ``MAX_SENTENCE_BYTES`` between calls.
    """

    def __init__(self, counters: FrameCounters) -> None:
        self.counters = counters
        self._rest = b""
        self._lost_start = False

    @property
    def held_bytes(self) -> int:
        """Bytes kept of the sentence that is still open."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the sentences with a right checksum that ``data`` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        bodies = []
        for line in whole:
            body = self._body(line)
            if body is not None:
                bodies.append(body)
            self._lost_start = False
        self._keep(rest)
        return bodies

    def _body(self, line: bytes) -> bytes | None:
        counters = self.counters
        noise, dollar, sentence = line.rpartition(b"$")
        if not dollar:
            self._skip(sentence.removesuffix(b"\r"))
            return None
        self._skip(noise)
        if len(sentence) > MAX_SENTENCE_BYTES:
            self._overrun(dollar + sentence)
            return None
        body, star, checksum = sentence.rstrip(b"\r ").rpartition(b"*")
        if not star or checksum.upper() != b"%02X" % xor8(body):
            counters.crc_bad += 1
            counters.dropped_bytes += len(dollar + sentence)
            return None
        counters.frames += 1
        return body

    def _keep(self, rest: bytes) -> None:
        """Keep only what can still become a sentence."""
        noise, dollar, sentence = rest.rpartition(b"$")
        if not dollar:
            if sentence != b"\r":
                self._skip(sentence)
                sentence = b""
            self._rest = sentence
            return
        self._skip(noise)
        self._rest = dollar + sentence
        if len(sentence) > MAX_SENTENCE_BYTES:
            self._overrun(self._rest)
            self._rest = b""

    def _skip(self, noise: bytes) -> None:
        if noise and not self._lost_start:
            self.counters.resync += 1
            self._lost_start = True
        self.counters.dropped_bytes += len(noise)

    def _overrun(self, sentence: bytes) -> None:
        self.counters.overrun += 1
        self.counters.dropped_bytes += len(sentence)
        self._lost_start = True


class NmeaDecoder:
    """Bytes in, readings out, for one sensor.

    Args:
        source: name of the sensor in the settings.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.counters = FrameCounters()
        self._framer = NmeaFramer(self.counters)

    def feed(self, data: bytes, seen_mono_ns: int) -> Sequence[Reading]:
        """Return the readings that ``data`` completes, all stamped ``seen_mono_ns``."""
        out: list[Channel] = []
        for body in self._framer.feed(data):
            try:
                channels = read_sentence(body)
            except Refused as refusal:
                self.counters.refuse(refusal.args[0])
                continue
            out += channels
        return Burst.of(self._source, out, seen_mono_ns)


def read_sentence(body: bytes) -> list[Channel]:
    """Return what one sentence body says, [] for a type that is not read here.

    Raises:
        Refused: not ASCII, too few fields, a number that is none, or a value out of range.
    """
    if not body.isascii():
        raise Refused("not_ascii")
    fields = body.decode("ascii").split(",")
    address = fields[0]
    # Proprietary sentences ($P...) have no talker; everything else is a two-letter talker and a
    # type.
    if len(address) != 5 or address.startswith("P"):
        return []
    reader = _READERS.get(address[2:])
    return reader(fields) if reader else []


def _gga(fields: list[str]) -> list[Channel]:
    _at_least(fields, 12)
    out: list[Channel] = []
    if fields[7]:
        out.append(("satellites", "count", _number(fields[7], _UNSIGNED, 0, SATELLITES_MAX)))
    if fields[6] not in GGA_FIX_QUALITIES:
        return [*out, ("fix", "", False)]
    out += [("fix", "", True), *_position(fields[2:6])]
    if fields[9]:
        if fields[10] != "M":
            raise Refused("bad_unit")
        metres = _number(fields[9], _SIGNED, ALTITUDE_MIN_M, ALTITUDE_MAX_M)
        out.append(("alt", "m", metres))
    return out


def _rmc(fields: list[str]) -> list[Channel]:
    _at_least(fields, 10)
    mode = fields[12] if len(fields) > 12 else ""
    if fields[2] != "A" or mode in NO_FIX_MODES:
        return []
    out = _position(fields[3:7])
    if fields[7]:
        knots = _number(fields[7], _UNSIGNED, 0, SPEED_MAX_MPS / MPS_PER_KNOT)
        out.append(("speed", "m/s", round(knots * MPS_PER_KNOT, 4)))
    return out


def _vtg(fields: list[str]) -> list[Channel]:
    _at_least(fields, 9)
    mode = fields[9] if len(fields) > 9 else ""
    if mode in NO_FIX_MODES:
        return []
    if fields[7] and fields[8] == "K":
        kmh = _number(fields[7], _UNSIGNED, 0, SPEED_MAX_MPS / MPS_PER_KMH)
        return [("speed", "m/s", round(kmh * MPS_PER_KMH, 4))]
    if fields[5] and fields[6] == "N":
        knots = _number(fields[5], _UNSIGNED, 0, SPEED_MAX_MPS / MPS_PER_KNOT)
        return [("speed", "m/s", round(knots * MPS_PER_KNOT, 4))]
    return []


_READERS: dict[str, Callable[[list[str]], list[Channel]]] = {"GGA": _gga, "RMC": _rmc, "VTG": _vtg}


def _position(fields: list[str]) -> list[Channel]:
    latitude = _degrees(fields[0], _LATITUDE, 90.0)
    longitude = _degrees(fields[2], _LONGITUDE, 180.0)
    if fields[1] not in ("N", "S") or fields[3] not in ("E", "W"):
        raise Refused("bad_hemisphere")
    return [
        ("lat", "lat", -latitude if fields[1] == "S" else latitude),
        ("lon", "lon", -longitude if fields[3] == "W" else longitude),
    ]


def _degrees(text: str, shape: re.Pattern[str], limit_deg: float) -> float:
    match = shape.fullmatch(text)
    if match is None:
        raise Refused("bad_number")
    minutes = float(match[2])
    degrees = int(match[1]) + minutes / 60.0
    if minutes >= 60.0 or degrees > limit_deg:
        raise Refused("out_of_range")
    return round(degrees, 8)


def _number(text: str, shape: re.Pattern[str], low: float, high: float) -> float:
    if shape.fullmatch(text) is None:
        raise Refused("bad_number")
    value = float(text)
    if not low <= value <= high:
        raise Refused("out_of_range")
    return value


def _at_least(fields: list[str], count: int) -> None:
    if len(fields) < count:
        raise Refused("too_few_fields")
