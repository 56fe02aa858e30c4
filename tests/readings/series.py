"""Series as instruments make them, for the detectors; seeded: a failure can be seen again."""

from __future__ import annotations

import math
import random
import sys
from collections import deque
from collections.abc import Iterator

SECOND = 10**9


def daily_temperature(days: int, seed: int = 1, every_s: int = 10) -> Iterator[tuple[int, float]]:
    """A thermometer of 0.1 degrees outdoors: 14 +- 8 degrees, with clouds; (ns, value)."""
    chance, cloud = random.Random(seed), 0.0
    for i in range(days * 86400 // every_s):
        cloud += chance.gauss(0, 0.02) - cloud * 0.001
        curve = 14 + 8 * math.sin(2 * math.pi * i * every_s / 86400)
        yield i * every_s * SECOND, round(curve + cloud + chance.gauss(0, 0.03), 1)


def gps_at_rest(count: int, seed: int = 2) -> Iterator[tuple[int, float]]:
    """A latitude once a second that wanders by metres, in steps of 0.0001 minutes."""
    chance, off = random.Random(seed), 0.0
    for i in range(count):
        off = 0.98 * off + chance.gauss(0, 3e-6)
        yield i * SECOND, round((48.1173 + off) * 600000) / 600000


def pressure(count: int, seed: int = 3) -> list[float]:
    """A transmitter with four digits of noise."""
    chance = random.Random(seed)
    return [round(1013.2 + 2 * math.sin(i / 700) + chance.gauss(0, 0.05), 3) for i in range(count)]


def door(count: int, seed: int = 4) -> Iterator[tuple[int, bool]]:
    """An input of two states that changes now and then."""
    chance, state = random.Random(seed), False
    for i in range(count):
        state ^= chance.random() < 0.02
        yield i * SECOND, state


def kept_bytes(thing: object, seen: set[int] | None = None) -> int:
    """What an object with slots keeps, itself and all it leads to."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type):
        return 0
    seen.add(id(thing))
    size, left = sys.getsizeof(thing), deque[object]()
    for cls in type(thing).__mro__:
        names = getattr(cls, "__slots__", ())
        left += [getattr(thing, name) for name in names if hasattr(thing, name)]
    if isinstance(thing, dict):
        left += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (tuple, list)):
        left += thing
    return size + sum(kept_bytes(inner, seen) for inner in left)
