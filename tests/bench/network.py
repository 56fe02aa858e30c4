"""What a change of the network table costs, and what it costs a connection: in a namespace of its
own.

    network.change           one address let through, by libnftables in this process, median
    network.change-program   the same, against the nft program started for it
    network.replace-5000     the whole table with 5,000 elements replaced, one transaction
    network.connect-5000     p50 of a TCP connect over loopback's twin, with the table / without

Each change is made in a table that already holds 5,000 elements. The peer of a row was measured in
the same run, in turns. Before anything counts, a connect to a peer that is not listed must fail: a
table that refuses nothing measures nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import Figure, Spec, middle

RUNS = 3
WORKER = Path(__file__).with_name("network_worker.py")

SPECS = (
    Spec("network.change", "one element added to our table of 5,000, libnftables, p50", "ms", 0.2),
    Spec("network.change-program", "the same, libnftables / the nft program", "x", 0.2),
    Spec("network.replace-5000", "a table of 5,000 elements replaced whole, p50", "ms", 100.0),
    Spec("network.connect-5000", "TCP connect of a managed user, with 5,000 elements / no table",
         "x", 1.25),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The rows, from RUNS runs of the worker."""
    del place
    for program in ("nft", "unshare", "ip"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise CannotMeasure(f"{program} is not installed")
    runs = [_run() for _ in range(RUNS)]
    own, other = middle(r["change_ms"] for r in runs), middle(r["program_ms"] for r in runs)
    yield Figure("network.change", own, f"nft program {other:.2f} ms", RUNS)
    ratio = middle(r["change_ms"] / r["program_ms"] for r in runs)
    yield Figure("network.change-program", ratio, f"{other:.2f} ms", RUNS)
    whole = middle(r["replace_ms"] for r in runs)
    yield Figure("network.replace-5000", whole, "100 ms, a bound of ours", RUNS)
    ratio = middle(r["with_us"] / r["without_us"] for r in runs)
    without = middle(r["without_us"] for r in runs)
    yield Figure("network.connect-5000", ratio, f"{without:.0f} us without", RUNS)


def _run() -> dict[str, float]:
    """One run, in a network namespace that ends with it."""
    command = ["unshare", "-n", sys.executable, str(WORKER)]
    env = {"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        raise CannotMeasure(done.stderr[-400:])
    found: dict[str, float] = json.loads(done.stdout)
    return found
