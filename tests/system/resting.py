"""A whole gateway that has nothing to do, and what each of its processes does meanwhile, as JSON.

    unshare --pid --net --fork --mount-proc --kill-child python tests/system/resting.py SECONDS

To be run in namespaces of its own: gate hears of every process of the machine (the proc connector
belongs to the first network namespace) and link looks at each, so that on a machine at work no
gateway rests. Nothing is timed: wake-ups and reads are counted by the kernel.

    {"gate": {"wakes": 40, "reads": 3}, ...}    wakes: voluntary context switches, all threads
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "agent")]

from tests.bench.place import Place  # noqa: E402
from tests.bench.standing import Standing  # noqa: E402

WARM_UP_S = 16.0
"""Evidence, the first batches, and what link gives back ten seconds after its start."""


def counts(pid: int) -> dict[str, int]:
    """What the kernel has counted of a process so far."""
    wakes = reads = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                wakes += int(line.split()[1])
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("syscr:"):
            reads = int(line.split()[1])
    return {"wakes": wakes, "reads": reads}


def main(seconds: float) -> None:
    """Stand, rest, print, end."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, stdin=subprocess.DEVNULL)
    with Place() as place, Standing(place) as standing:
        supervisor = standing.start()
        standing.await_connected()
        parts = standing.parts(supervisor)
        standing.enforce()
        standing.talker.send_signal(signal.SIGUSR1)
        time.sleep(WARM_UP_S)
        before = {name: counts(pid) for name, pid in parts.items()}
        time.sleep(seconds)
        after = {name: counts(pid) for name, pid in parts.items()}
    found = {n: {k: after[n][k] - before[n][k] for k in before[n]} for n in parts}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
