"""Acceptance 15 of the data plane: ten minutes by default, a day with --minutes 1440.

bash tests/run.sh --tier soak [--minutes N]
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from tests.soak.ordeal import Day, ordeal, slope_mb

pytestmark = pytest.mark.needs("root", "loop-mount", "mosquitto", "gcc")

SLOPE_MB = 0.5
"""What the issue allows, over the whole time."""


def report(day: Day) -> str:
    """The figures of a day, for a person."""
    rss = [s.rss_mb for s in day.samples]
    fds = [s.descriptors for s in day.samples]
    last = day.samples[-1]
    tenth = max(1, len(rss) // 10)
    course = " ".join(f"{sum(rss[i : i + tenth]) / tenth:.1f}" for i in range(0, 10 * tenth, tenth))
    return (
        f"soak: {last.at_s:.0f} s, {len(day.told)} disturbances; "
        f"resident {min(rss):.1f} to {max(rss):.1f} MB, slope {slope_mb(day.samples):+.2f} MB "
        f"({course}); "
        f"descriptors {min(fds)} to {max(fds)}, threads to {max(s.threads for s in day.samples)}; "
        f"{100 * last.cpu_s / last.at_s:.2f} % of a core"
    )


def test_a15_soak(minutes: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    with (
        tempfile.TemporaryDirectory(prefix="ew-soak-") as folder,
        ordeal(Path(folder), seed) as day,
    ):
        day.run(60.0 * minutes)
        seen = day.account()
    with capsys.disabled():
        print(f"\n{report(day)}\nsoak: seed {seed}; {seen}")
    assert seen.twice == ()
    assert seen.holes == ()
    assert not seen.in_silence(), day.told
    assert not seen.findings & {"fork", "clone", "older_state"}
    assert abs(slope_mb(day.samples)) <= SLOPE_MB
    calm, end = day.samples[: len(day.samples) // 2], day.samples[len(day.samples) // 2 :]
    assert max(s.descriptors for s in end) <= max(s.descriptors for s in calm) + 2
    assert max(s.threads for s in end) <= max(s.threads for s in calm) + 1
