"""Policies: what learning this whole machine takes, what an upgrade costs, how a large policy
compiles.

The peer of learning is sha256sum over the same files with as many processes as there are cores, in
turns with ours, both with the files in memory if they fit. The real command is run as a person
runs it, into a state folder of its own; this machine's own policy is not touched.

    policy.learn             seconds of `policy learn --full`, the whole Debian that this runs on
    policy.learn-sha256sum   the same as a ratio to sha256sum of the same files
    policy.rebaseline        seconds of what dpkg's hook does when little has changed
    policy.learn-rss         the most memory that learning had
    policy.compile-5000      processor seconds for 5,000 rules on 20,000 files
    policy.table-5000        what they come to in gate's table
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edgewarden.judge.critical import Critical, with_critical
from edgewarden.judge.exec_table import compile_table
from edgewarden.judge.programs import select
from edgewarden.settings.policy_programs import Program
from edgewarden.wire.baseline import Baseline, Entry
from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import Figure, Spec, middle

RUNS = 3
SPECS = (
    Spec("policy.learn", "`policy learn --full` of this whole Debian, wall clock", "s", 30.0),
    Spec(
        "policy.learn-sha256sum",
        "`policy learn --full` (dpkg, walk, SHA-256, MD5, compiling) / sha256sum of its files",
        "x",
        2.0,
    ),
    Spec("policy.rebaseline", "what dpkg's hook does when nothing has changed", "s", 8.0),
    Spec("policy.learn-rss", "resident memory of learning at its highest", "MB", 256.0),
    Spec("policy.compile-5000", "5,000 rules on 20,000 files, processor time", "s", 3.0),
    Spec("policy.table-5000", "size of the table of those 5,000 rules", "MB", 1.5),
)


def measure(place: Place) -> Iterator[Figure]:
    """Every figure of this area."""
    yield from _compile()
    if not Path("/var/lib/dpkg/status").exists():
        raise CannotMeasure("this machine has no dpkg database")
    settings = place.folder / "edgewarden.toml"
    settings.write_text(
        f'[paths]\nstate = "{place.folder}/state"\nrun = "{place.folder}/run"\n'
        f'[exec]\npolicy = "{place.folder}/policy.toml"\nlink_user = "no-such-user"\n'
    )
    ours, peers, most_kib = [], [], 0.0
    files = b""
    for _ in range(RUNS):
        spent_s, kib = _command(settings, "learn", "--full")
        ours.append(spent_s)
        most_kib = max(most_kib, kib)
        files = files or _files(place.folder / "state/policy/baseline")
        peers.append(_sha256sum(files))
    count = files.count(b"\0")
    note = f"{count} files"
    yield Figure("policy.learn", middle(ours), "30 s", RUNS, note)
    ratio = middle(a / b for a, b in zip(ours, peers, strict=True))
    yield Figure("policy.learn-sha256sum", ratio, f"{middle(peers):.1f} s", RUNS, note)
    hooks = [_command(settings, "rebaseline", "--from-dpkg")[0] for _ in range(RUNS)]
    yield Figure("policy.rebaseline", middle(hooks), "no other", RUNS, note)
    yield Figure("policy.learn-rss", most_kib / 1000, "no other", RUNS, note)


def _command(settings: Path, *verb: str) -> tuple[float, float]:
    """Seconds and highest resident KiB of one `edgewarden policy` command."""
    code = (
        "import resource, sys; from edgewarden.cli.main import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "policy", *verb, "--json", "--settings", str(settings)]
    began = time.monotonic()
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=600, check=False,
        env={"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    spent_s = time.monotonic() - began
    if done.returncode != 0:
        raise CannotMeasure(f"policy {verb[0]}: {done.stderr[-300:]}")
    body = json.loads(done.stdout)
    if body["files"] < 1000 or (verb[0] == "learn" and body["hashed"] < body["files"]):
        raise CannotMeasure(f"policy {verb[0]} read {body['hashed']} of {body['files']} files")
    return spent_s, float(done.stderr.split()[-1])


def _files(baseline: Path) -> bytes:
    paths = [entry.path for entry in Baseline.load(baseline.read_bytes()).entries]
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _sha256sum(files: bytes) -> float:
    began = time.monotonic()
    cores = str(len(os.sched_getaffinity(0)))
    words = ["xargs", "-0", "-n", "64", "-P", cores, "sha256sum", "-b", "--"]
    subprocess.run(words, input=files, stdout=subprocess.DEVNULL, check=True, timeout=600)
    return time.monotonic() - began


def _compile() -> Iterator[Figure]:
    entries = tuple(
        Entry(f"/usr/bin/p{i:05}", i.to_bytes(32, "big"), 1, "program", f"pkg{i % 900}")
        for i in range(20_000)
    )
    rules = [
        Program(name=f"rule-{i}", path=(f"/usr/bin/p{i:05}",), uid=("0", "1000-1999"))
        for i in range(4_000)
    ] + [Program(name=f"package-{i}", package=(f"pkg{i % 900}",)) for i in range(1_000)]
    spent, size = [], 0
    for _ in range(RUNS):
        began = time.process_time()
        found = select(rules, Baseline(entries, {}), {}.get)
        size = len(compile_table(*with_critical(found, Critical((), (), ()))))
        spent.append(time.process_time() - began)
    yield Figure("policy.compile-5000", middle(spent), "no other", RUNS)
    yield Figure("policy.table-5000", size / 1e6, "16 MiB, gate's limit", RUNS)
