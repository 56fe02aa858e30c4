"""What sensors of a site say, for benches in which it matters how like one another readings are.

A bench that stores the same text over and over again flatters whatever makes text shorter. Here
four ports speak as such instruments do: with the digits that they have, and noise in the last ones.
What is not noise (names, units) is as long as in tests/vectors and docs/serial.md.

    site = Site(seed=1)
    site.look(boot_ns)          # one read of each port
"""

from __future__ import annotations

import random

from edgewarden.wire.burst import Burst

Channel = tuple[str, str, float, float, int]
"""Name, unit, first value, greatest step from read to read, decimals."""

PORTS: dict[str, tuple[Channel, ...]] = {
    "gps": (
        ("lat", "lat", 48.117312, 0.00004, 6), ("lon", "lon", 11.516731, 0.00004, 6),
        ("alt", "m", 545.4, 0.6, 1), ("speed", "m/s", 3.19, 0.4, 2),
        ("course", "deg", 84.4, 3.0, 1), ("hdop", "", 0.94, 0.03, 2),
        ("satellites", "", 9.0, 1.0, 0),
    ),
    "meter": (
        *((f"u{n}", "V", 229.6 + n, 0.5, 1) for n in (1, 2, 3)),
        *((f"i{n}", "A", 4.113 + n, 0.2, 3) for n in (1, 2, 3)),
        *((f"p{n}", "W", 931.0 + n, 40.0, 1) for n in (1, 2, 3)),
        ("frequency", "Hz", 50.01, 0.01, 2), ("energy", "J", 81_234_556.0, 900.0, 0),
    ),
    "climate": (
        ("temperature", "Cel", 21.43, 0.04, 2), ("humidity", "%RH", 44.81, 0.1, 2),
        ("pressure", "Pa", 96_412.0, 4.0, 0), ("co2", "ppm", 612.0, 8.0, 0),
    ),
    "line4": (
        ("level", "m", 2.4117, 0.002, 4), ("flow", "m3/s", 0.013345, 0.0004, 6),
        ("turbidity", "NTU", 1.207, 0.05, 3), ("ph", "pH", 7.31, 0.02, 2),
    ),
}  # fmt: skip
JITTER_NS = 40_000_000
"""A port is read when the loop comes to it."""


class Site:
    """A walk from the first values, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._values = {(port, c[0]): c[2] for port, channels in PORTS.items() for c in channels}

    def look(self, boot_ns: int) -> list[Burst]:
        """What one read of each port brings."""
        return [self._read(port, boot_ns) for port in PORTS]

    def _read(self, port: str, boot_ns: int) -> Burst:
        values = []
        for name, _, _, step, decimals in PORTS[port]:
            value = self._values[port, name] + self._chance.uniform(-step, step)
            self._values[port, name] = value
            values.append(round(value, decimals))
        channels = tuple((c[0], c[1]) for c in PORTS[port])
        return Burst(port, channels, tuple(values), boot_ns + self._chance.randrange(JITTER_NS))
