"""Make nmea-noisy.log: what a receiver on a bad cable sends, with a known number of good sentences.

Synthesised, not recorded: a drive of 100 seconds on a circle near 48.117 N 11.517 E, one epoch of
GGA, RMC, VTG and GSA per second, as a u-blox receiver words them. Into this stream go, from a
seeded generator:

* noise bursts without a newline in front of good sentences (the case that line splitting loses),
* noise with newlines and dollar signs of its own,
* sentences cut short, with their newline and without (then the next good one hangs on to them),
* whole sentences with one character changed and the old checksum.

The file starts with ``#`` lines that say so and, after ``expect:``, how many good sentences it
holds. Run ``python hw/rigs/data/make_nmea_noisy.py`` to write the file again; a test holds the
file to this script.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

SEED = 20_010_109
EPOCHS = 100
NOISE_EVERY, CUT_EVERY, FLIP_EVERY = 20, 23, 29
"""Every n-th good sentence is preceded by this kind of damage; coprime, so that they also meet."""


def checksum(body: str) -> int:
    """XOR of all characters."""
    total = 0
    for character in body:
        total ^= ord(character)
    return total


def sentence(body: str) -> bytes:
    """``body`` as it goes over the wire."""
    return f"${body}*{checksum(body):02X}\r\n".encode("ascii")


def epoch(second: int) -> list[bytes]:
    """The sentences of one second."""
    angle = 2 * math.pi * second / EPOCHS
    latitude, longitude = 48.117 + 0.002 * math.sin(angle), 11.517 + 0.003 * math.cos(angle)
    lat = f"{int(latitude):02d}{latitude % 1 * 60:08.5f},N"
    lon = f"{int(longitude):03d}{longitude % 1 * 60:08.5f},E"
    clock = f"12{second // 60:02d}{second % 60:02d}.00"
    knots = 12.0 + 3.0 * math.sin(3 * angle)
    course = (360.0 - math.degrees(angle)) % 360
    altitude = 545.4 + 2 * math.sin(angle)
    return [
        sentence(f"GPGGA,{clock},{lat},{lon},1,08,0.94,{altitude:.1f},M,46.9,M,,"),
        sentence(f"GPRMC,{clock},A,{lat},{lon},{knots:.3f},{course:.2f},090126,,,A"),
        sentence(f"GPVTG,{course:.2f},T,,M,{knots:.3f},N,{knots * 1.852:.3f},K,A"),
        sentence("GPGSA,A,3,04,05,09,12,24,25,29,31,,,,,1.80,0.94,1.53"),
    ]


def make() -> bytes:
    """The whole file."""
    chance = random.Random(SEED)
    quiet = [b for b in range(256) if b not in b"\r\n$"]
    good = [line for second in range(EPOCHS) for line in epoch(second)]
    out, bursts, cut, flipped = [], 0, 0, 0
    for number, line in enumerate(good, start=1):
        if number % NOISE_EVERY == 0:
            out.append(bytes(chance.choices(quiet, k=chance.randrange(3, 60))))
            bursts += 1
        if number % (3 * NOISE_EVERY) == 0:
            out.append(b"\r\n" + chance.randbytes(80) + b"$" + chance.randbytes(12) + b"\n")
        if number % CUT_EVERY == 0:
            out.append(line[: chance.randrange(5, 40)] + (b"\r\n" if cut % 2 else b""))
            cut += 1
        if number % FLIP_EVERY == 0:
            at = chance.randrange(7, len(line) - 6)
            out.append(line[:at] + (b"8" if line[at] != ord("8") else b"3") + line[at + 1 :])
            flipped += 1
        out.append(line)
    header = (
        f"# NMEA 0183, 9600 baud, made by make_nmea_noisy.py with seed {SEED}, not recorded\n"
        f"# expect: good={len(good)} bursts={bursts} cut={cut} flipped={flipped}\n"
    )
    return header.encode("ascii") + b"".join(out)


if __name__ == "__main__":
    Path(__file__).with_name("nmea-noisy.log").write_bytes(make())
