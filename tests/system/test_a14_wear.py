"""Data plane, acceptance 14: what an hour of commits costs the flash (target 4.4).

Written sectors of a loop device with nothing else on it, and fsync calls as strace counts them: the
kernel's own figures, not times, so that they hold on a machine at work. The hour is synthetic
(tests/bench/wear_worker.py), on blocks of 4 kB as a card has; by default half of it. ``--runs N``
makes it N / 40 hours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import wear
from tests.bench.wear import Cost, cost
from tests.system import loopfs

pytestmark = pytest.mark.needs("loop-mount", "strace")

DISK_MB = 96


def spent(folder: Path, kind: str, commits: int, size_bytes: int = 0) -> Cost:
    with loopfs.made(folder / kind, DISK_MB) as disk:
        found = cost(disk.root, folder / "strace", kind, commits, size_bytes)
    assert found.payload_bytes >= 0.98 * commits * size_bytes, "less was stored than was to be"
    return found


@pytest.mark.parametrize(
    ("size_bytes", "most"), [(wear.BYTES_16K, wear.WA_16K), (wear.BYTES_10K, wear.WA_10K)]
)
def test_a14_an_hour_of_commits(size_bytes: int, most: float, tmp_path: Path, runs: int) -> None:
    found = spent(tmp_path, "ours", wear.HOUR * max(runs, 20) // 40, size_bytes)
    assert 1.0 < found.amplification <= most, found
    assert 1.0 <= found.fsyncs_each <= wear.FSYNCS, found


def test_a14_an_hour_without_work(tmp_path: Path, runs: int) -> None:
    found = spent(tmp_path, "idle", wear.HOUR * max(runs, 40) // 40)
    assert 0.0 < found.gb_day <= wear.IDLE_GB_DAY, found


def test_a14_the_harness_sees_commits_that_are_too_small(tmp_path: Path) -> None:
    """Negative control: the same way with 1 kB a commit is far beyond both bounds."""
    found = spent(tmp_path, "ours", wear.HOUR // 4, 1000)
    assert found.amplification > 2 * wear.WA_10K, found


def test_a14_the_harness_sees_an_fsync_too_many(tmp_path: Path) -> None:
    """Negative control: a table that is no log pays several for each commit."""
    found = spent(tmp_path, "rollback", wear.HOUR // 12, wear.BYTES_10K)
    assert found.fsyncs_each > wear.FSYNCS, found
