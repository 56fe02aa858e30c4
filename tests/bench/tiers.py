"""What a start costs at tier T2: stopped by BPF, judged, let go.

    A  the program outside the cgroup, where nobody is stopped
    B  inside it, on the ext4 that is watched: stopped, judged from gate's cache, let go
    C  inside it, on another ext4: stopped, seen to lie elsewhere, let go at once

One process takes turns; between two starts, untimed, it moves itself into the cgroup or out of it.
The canary and gate run with fanotify's permission events masked (tests/system/masked.py), so that
T2 is what they prove and use. Before anything counts, a program that is not listed must be killed
in B and run in A.

    tiers.stop-cached       p50 B / p50 A, median of the runs
    tiers.stop-spared       p50 C / p50 A
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgewarden.exec.policy_files import write_policy
from edgewarden.judge.exec_table import compile_list
from edgewarden.probe.control import ask_gate
from edgewarden.wire.gate_files import StopConfig, compile_gate_config
from edgewarden.wire.local import Answer, Request
from tests.bench.gate import PROGRAM, RUNS, WARM_UP, _guard, spawn, stats
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.bench.rows import Figure, Spec, middle

ROUNDS = 400

SPECS = (
    Spec("tiers.stop-cached", "p50 of spawn and wait of a static program, stopped by BPF and judged"
         " from the cache / not stopped", "x", 1.15),
    Spec("tiers.stop-spared", "the same of a program that lies on no watched filesystem", "x",
         1.15),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in lines if " - cgroup2 " in line]
    if not roots:
        raise CannotMeasure("no cgroup v2 hierarchy here")
    outside = Path(roots[0]) / "cgroup.procs"
    cgroup = Path(tempfile.mkdtemp(prefix="ew-bench-", dir=roots[0]))
    try:
        yield from _measure(place, outside, cgroup)
    finally:
        outside.write_text("0")
        cgroup.rmdir()


def _measure(place: Place, outside: Path, cgroup: Path) -> Iterator[Figure]:
    plain, watched = place.mount_ext4("plain"), place.mount_ext4("watched")
    for folder in (plain, watched):
        shutil.copy(PROGRAM, folder / "listed")
        shutil.copy(PROGRAM, folder / "unlisted")
        with (folder / "unlisted").open("ab") as program:
            program.write(b"another program")
    run = stand_up(place, watched, cgroup)
    inside = cgroup / "cgroup.procs"
    check_judges(watched / "unlisted", inside, outside)
    ways = [
        (outside, watched / "listed"),
        (inside, watched / "listed"),
        (inside, plain / "listed"),
    ]
    rounds(ways, WARM_UP)
    before = stats(run)
    taken = [rounds(ways, ROUNDS) for _ in range(RUNS)]
    after = stats(run)
    expected = RUNS * ROUNDS
    if after.cached - before.cached < expected or after.denied != before.denied:
        raise CannotMeasure(f"{after.cached - before.cached} of {expected} verdicts were cached")
    p50 = [[middle(each) * 1e6 for each in one] for one in taken]
    against = f"{middle(a for a, _, _ in p50):.0f} us not stopped, tier {after.tier}"
    for name, which in (("tiers.stop-cached", 1), ("tiers.stop-spared", 2)):
        ratios = [one[which] / one[0] for one in p50]
        spread = f"runs {min(ratios):.3f} to {max(ratios):.3f}"
        yield Figure(name, middle(ratios), against, RUNS, spread)


def stand_up(place: Place, watched: Path, cgroup: Path) -> Path:
    """As the bench of gate, at tier T2; returns the run folder."""
    state, run = place.folder / "state", place.folder / "run"
    for folder in (state, run):
        folder.mkdir()
    digest = hashlib.sha256((watched / "listed").read_bytes()).digest()
    stop = StopConfig(f"/{cgroup.name}", ())
    config = compile_gate_config([str(watched)], "observe", link_uid=0, stop=stop)
    write_policy(str(state), compile_list([("listed", digest)]), config)
    agent = ROOT / "agent" / "edgewarden"
    lean = [sys.executable, "-I", "-S"]
    masked = [sys.executable, str(ROOT / "tests/system/masked.py"), "no-permission", *lean]
    canary = place.start(*masked, agent / "exec" / "canary.py", run, state, name="canary")
    await_("proof of the tier", lambda: canary.poll() is not None, 30)
    _guard(place, run, lean)
    gate = place.start(*masked, agent / "daemon" / "gate.py", state, run, name="gate")
    facts = run / "gate-facts.sock"
    await_("gate", lambda: facts.exists() or gate.poll() is not None, 10)
    if gate.poll() is not None:
        raise CannotMeasure(f"gate ended: {place.log('gate')}")
    answer = ask_gate(str(run), Request("mode", "enforce"))
    if not isinstance(answer, Answer) or not answer.ok or not stats(run).armed:
        raise CannotMeasure(f"gate stops nobody: {answer}: {place.log('canary')}")
    return run


def check_judges(unlisted: Path, inside: Path, outside: Path) -> None:
    """A program that is not listed runs outside and is killed inside."""
    outside.write_text("0")
    spawn(unlisted)
    inside.write_text("0")
    try:
        spawn(unlisted)
    except CannotMeasure:  # it ended by a signal
        return
    raise CannotMeasure("an unlisted program ran: gate does not judge")


def rounds(ways: list[tuple[Path, Path]], count: int) -> list[list[float]]:
    """Seconds of each spawn per way, taking turns."""
    took: list[list[float]] = [[] for _ in ways]
    for i in range(count):
        for step in range(len(ways)):
            which = (i + step) % len(ways)
            where, program = ways[which]
            where.write_text("0")
            began = time.perf_counter()
            spawn(program)
            took[which].append(time.perf_counter() - began)
    return took
