"""An alarm with a backlog in front of it on a link of 64 kbit/s (issue 6): a second later than on
an idle one at most. Small here; slow_link.py takes any number of records and alarms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKLOG, ALARMS = 1000, 30
TRIES = 3

pytestmark = [pytest.mark.alone, pytest.mark.needs("mosquitto", "root", "net-namespaces")]


def measured(folder: Path, *words: str) -> dict[str, dict[str, float]]:
    folder.mkdir()
    line = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.system.slow_link"]
    done = subprocess.run(
        [*line, str(folder), str(BACKLOG), str(ALARMS), "1", *words],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}", "PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told: dict[str, dict[str, float]] = json.loads(done.stdout)
    return told


def test_alarm_latency_with_a_backlog_is_a_second_above_idle_at_most(tmp_path: Path) -> None:
    """Of thirty the 99th percentile is the slowest: one that meets a stall of the processor or of
    the disk, to which it goes first, is measured again. A queue delays them each time."""
    seen: list[tuple[float, float]] = []
    while len(seen) < TRIES:
        told = measured(tmp_path / str(len(seen)))
        idle, full = told["idle"], told["full"]
        assert (idle["heard"], full["heard"]) == (ALARMS, ALARMS)
        assert full["waiting"] > BACKLOG / 2, "a backlog that is gone delays nothing"
        assert full["rss_most"] - full["rss_first"] <= 4 << 20
        seen.append((idle["p99_s"], full["p99_s"]))
        if full["p99_s"] <= idle["p99_s"] + 1.0:
            break
    assert seen[-1][1] <= seen[-1][0] + 1.0, seen


def test_alarm_latency_shows_a_window_that_does_not_follow_the_link(tmp_path: Path) -> None:
    """Negative control: the same wire, what flies fixed at 64 kB. The first alarms go before it is
    full, so that it shows in the slowest."""
    told = measured(tmp_path / "fixed", "fixed")
    assert told["full"]["p99_s"] > told["idle"]["p50_s"] + 1.0, told
