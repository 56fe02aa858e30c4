"""A whole gateway that has nothing to do, and what each of its processes does meanwhile, as JSON.

    unshare --mount --pid --net --fork --mount-proc --kill-child python resting.py SECONDS
    ... python resting.py SECONDS COMMIT_S         with [spool] bulk_commit_s

To be run in namespaces of its own: gate hears of every process of the machine (the proc connector
belongs to the first network namespace) and link looks at each, so that on a machine at work no
gateway rests. Nothing is timed: wake-ups and reads are counted by the kernel. In that mount
namespace no time of reading is kept: with relatime the first look a day at any file, a module that
is loaded late for one, has 4 kB of inodes written.

    {"gate": {"wakes": 40, "faults": 0, "reads": 3, "writes": 0, "written": 0}, ...}

    wakes: voluntary context switches, all threads; faults: those of them that waited for a page of
    a file which the kernel had taken back; writes: calls of write and its kind, on any
    descriptor; written: bytes that the process had a disk given. "before" has the latter as it was
    when the rest began, "commits" how many records became durable meanwhile, "uevents" how often
    the kernel told of a device meanwhile: it tells every network namespace, and gate is in one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "agent")]

from edgewarden.kernel.uevent import Uevents, open_uevents  # noqa: E402
from edgewarden.probe.control import ask_link  # noqa: E402
from edgewarden.wire.control import Command  # noqa: E402
from tests.bench.place import Place, await_  # noqa: E402
from tests.bench.standing import Standing  # noqa: E402

WARM_UP_S = 16.0
"""The first batches, and what link gives back ten seconds after its start."""
VERDICT_S = 90.0
"""The verdict on the first evidence brings a token that is written down: 4 kB that are no part of a
rest. The next comes five minutes later."""
TRIES = 3
"""Rests until one is without a commit, where that is asked for: an alarm waits for nobody."""


def counts(pid: int) -> dict[str, int]:
    """What the kernel has counted of a process so far."""
    wakes = 0
    faults = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[9])  # majflt
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    wakes += int(line.split()[1])
    io = {}
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, number = line.split(":")
        io[name] = int(number)
    return {
        "wakes": wakes, "faults": faults, "reads": io["syscr"], "writes": io["syscw"],
        "written": io["write_bytes"],
    }  # fmt: skip


def durable(run_dir: str) -> int:
    """Records of all classes that survive a power cut."""
    spool = ask_link(run_dir, Command.STATUS)["spool"]
    return sum(c["durable"] for c in spool.values())


def judged(run_dir: str) -> bool:
    """Whether the verifier has answered the first evidence."""
    return ask_link(run_dir, Command.STATUS)["attestation"]["age_s"] is not None


def note_no_reading() -> None:
    """Mount what the gateway reads with noatime, in this process's mount namespace."""
    for path in {Path("/"), ROOT, Path(tempfile.gettempdir()).resolve()}:
        point = next(p for p in (path, *path.parents) if p.is_mount())
        subprocess.run(
            ["mount", "-o", "remount,bind,noatime", point], check=True, stdin=subprocess.DEVNULL
        )


def told(plugged: Uevents) -> int:
    """How many messages of the kernel have come since the last call."""
    number = 0
    while heard := plugged.read().events:
        number += len(heard)
    return number


def main(seconds: float, commit_s: str) -> None:
    """Stand, rest, print, end."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, stdin=subprocess.DEVNULL)
    note_no_reading()
    with Place() as place, Standing(place) as standing:
        settings = standing.gateway.settings
        if commit_s:
            settings.write_text(f"{settings.read_text()}[spool]\nbulk_commit_s = {commit_s}\n")
        supervisor = standing.start()
        standing.await_connected()
        parts = standing.parts(supervisor)
        standing.enforce()
        standing.talker.send_signal(signal.SIGUSR1)
        run_dir = str(settings.parent / "run")
        await_("verdict", lambda: judged(run_dir), VERDICT_S)
        time.sleep(WARM_UP_S)
        plugged = open_uevents()
        for _ in range(TRIES if commit_s else 1):
            told(plugged)
            kept = durable(run_dir)
            before = {name: counts(pid) for name, pid in parts.items()}
            time.sleep(seconds)
            after = {name: counts(pid) for name, pid in parts.items()}
            uevents = told(plugged)
            if not (kept := durable(run_dir) - kept):
                break
        plugged.close()
    found = {n: {k: after[n][k] - before[n][k] for k in before[n]} for n in parts}
    written = {n: one["written"] for n, one in before.items()}
    print(json.dumps({**found, "before": written, "commits": kept, "uevents": uevents}), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), "".join(sys.argv[2:3]))
