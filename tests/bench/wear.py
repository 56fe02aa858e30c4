"""What the record room costs the flash, beside a bare SQLite table: target 4.4 of the data plane.

    data.4.4-16k      device bytes / record bytes, commits of 16 kB   against   bare SQLite
    data.4.4-10k      the same, commits of 10 kB   against   the same
    data.4.4-fsyncs   fsync and fdatasync per commit, of the same runs
    data.4.4-idle     device bytes in a day of a gateway of which nothing is asked

Bytes and calls are counted by the kernel, nothing is timed. What works is wear_worker.py, on an
ext4 of its own over a loop device; the peer gets an ext4 of its own, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import Figure, Spec
from tests.bench.wear_worker import SYNTHETIC_S

HOUR = 3600 // SYNTHETIC_S
"""Commits of an hour."""
SPAN = HOUR * 5 // 2
"""What is measured: over less the first segment and the growth of its log are much of it."""
DAY_S = 86_400
BYTES_16K, BYTES_10K = 16_000, 10_000
WA_16K, WA_10K, FSYNCS, IDLE_GB_DAY = 3.5, 5.5, 1.35, 0.2
"""Target 4.4."""
WORK_S = 300

SPECS = (
    Spec("data.4.4-16k", "bytes written to the device / bytes of records, commits of 16 kB", "x",
         WA_16K),
    Spec("data.4.4-10k", "bytes written to the device / bytes of records, commits of 10 kB", "x",
         WA_10K),
    Spec("data.4.4-fsyncs", "fsync and fdatasync calls per commit of 16 kB", "calls", FSYNCS),
    Spec("data.4.4-idle", "bytes written to the device in a day of an idle gateway (10 s samples,"
         " 10 s commits)", "GB", IDLE_GB_DAY),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run.

    Attributes:
        payload_bytes: records as they were signed.
        device_bytes: what the block device was given.
        commits: how many.
        fsyncs: calls of fsync and fdatasync; those of a run without a commit are taken off.
    """

    payload_bytes: int
    device_bytes: int
    commits: int
    fsyncs: int

    @property
    def amplification(self) -> float:
        """Device bytes for each byte of a record."""
        return self.device_bytes / self.payload_bytes

    @property
    def fsyncs_each(self) -> float:
        """Calls per commit."""
        return self.fsyncs / self.commits

    @property
    def gb_day(self) -> float:
        """Of a day like this."""
        return self.device_bytes / self.commits * (DAY_S / SYNTHETIC_S) / 1e9


def cost(disk: Path, log: Path, kind: str, commits: int, size_bytes: int = 0) -> Cost:
    """Run the worker on a filesystem of its own, mounted at disk; raises CannotMeasure."""
    started = _work(disk / "none", log, kind, 0, size_bytes)[1]
    told, calls = _work(disk / kind, log, kind, commits, size_bytes)
    calls -= started + told["own_fsyncs"]
    return Cost(told["payload"], told["device"], commits, calls)


def _work(
    folder: Path, log: Path, kind: str, commits: int, size_bytes: int
) -> tuple[dict[str, int], int]:
    command = [
        "strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(log),
        sys.executable, "-m", "tests.bench.wear_worker", str(folder), kind, str(commits),
        str(size_bytes),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=WORK_S
    )
    if done.returncode != 0:
        raise CannotMeasure(f"{kind} ended with {done.returncode}: {done.stderr.decode()[-300:]}")
    return json.loads(done.stdout), sum("sync(" in line for line in log.read_text().splitlines())


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    if shutil.which("strace") is None:
        raise CannotMeasure("strace is not installed")
    log = place.folder / "strace"
    for name, size_bytes in (("16k", BYTES_16K), ("10k", BYTES_10K)):
        own = cost(place.mount_ext4(f"ours-{name}"), log, "ours", SPAN, size_bytes)
        peer = cost(place.mount_ext4(f"bare-{name}"), log, "bare", SPAN, size_bytes)
        against = f"x {peer.amplification:.2f} of a bare table, {peer.fsyncs_each:.2f} fsyncs"
        yield Figure(f"data.4.4-{name}", own.amplification, against, 1, f"{SPAN} commits")
        if name == "16k":
            yield Figure(
                "data.4.4-fsyncs", own.fsyncs_each, f"{peer.fsyncs_each:.2f} of a bare table", 1
            )
    idle = cost(place.mount_ext4("idle"), log, "idle", SPAN)
    yield Figure(
        "data.4.4-idle", idle.gb_day, f"{idle.payload_bytes * 24 / 1e6:.1f} MB of records", 1,
        f"x {idle.amplification:.1f} of its records",
    )  # fmt: skip
