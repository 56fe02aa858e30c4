"""What it costs to judge a reading: all rules of a channel, and who speaks, value by value.

readings.cost        processor time of one value: range, rate, stuck, replay and cadence
readings.cost-loop   the same / a bare loop that compares each value with one limit
readings.bytes       what one channel keeps after 20,000 values
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from edgewarden.readings.channel import Channel
from edgewarden.readings.limits import Limits
from edgewarden.readings.worth import Worth
from edgewarden.wire.facts import FramesSeen, Reading
from tests.bench.place import Place
from tests.bench.rows import Figure, Spec, middle
from tests.readings.series import SECOND, kept_bytes, pressure

RUNS, VALUES = 5, 20_000
LIMITS = Limits(low=900, high=1100, max_rate_per_s=5, stuck_s=60)

SPECS = (
    Spec("readings.cost", "processor time of judging one value by every rule", "us", 10.0),
    Spec("readings.cost-loop", "the same / a loop that compares each value once", "x", 400.0),
    Spec("readings.bytes", "kept of one channel after 20,000 values", "bytes", 4096),
)


def measure(place: Place) -> Iterator[Figure]:
    """The figures."""
    values = pressure(VALUES)
    readings = [Reading("s", "p", "hPa", v, i * SECOND) for i, v in enumerate(values)]
    frames = [FramesSeen("s", i * SECOND, 60, 1, 0) for i in range(VALUES)]
    bare, judged = [], []
    for _ in range(RUNS):
        bare.append(_compared(readings))
        judged.append(_judged(readings, frames))
    cost, loop = middle(judged), middle(bare)
    yield Figure("readings.cost", cost, "the limit of the issue", RUNS)
    yield Figure("readings.cost-loop", cost / loop, f"{loop:.3f} us a value", RUNS)
    channel = Channel(LIMITS)
    for reading in readings:
        channel.judge(reading.value, reading.seen_mono_ns)
    yield Figure("readings.bytes", kept_bytes(channel), "the limit of the issue", 1)


def _compared(readings: list[Reading]) -> float:
    began_ns, above = time.process_time_ns(), 0
    for reading in readings:
        above += reading.value > 1100  # type: ignore[operator]  # numbers all
    return (time.process_time_ns() - began_ns) / VALUES / 1e3


def _judged(readings: list[Reading], frames: list[FramesSeen]) -> float:
    worth = Worth("s", {"p": LIMITS})
    began_ns = time.process_time_ns()
    for reading, seen in zip(readings, frames, strict=True):
        worth.frames(seen)
        worth.reading(reading)
    return (time.process_time_ns() - began_ns) / VALUES / 1e3
