"""What a watched exec costs: gate and guard alone, enforcing on a filesystem of ours.

    A  an ext4 nobody watches          B  an ext4 with gate's exec permission mark

Both in loop-mounted files of this bench: on a tmpfs gate never believes its cache (a store through
a mapping leaves no trace there, act/exec_marks.py), so that every exec would be hashed anew.

The same static program lies on both. One pair = one spawn and wait on each; the order flips with
every pair, so that whatever else the machine does meets both. The verdict comes from gate's cache
(that it did is read from gate's own counters), link's side of the facts socket is read by a process
that throws them away. Before anything counts, a program that is not listed must be denied on B and
run on A: a gate that answers without judging measures nothing.

    gate.exec-cached        p50 B / p50 A, median of the runs
    gate.exec-cached-p10    p10 of the pairs' difference: the answer's own cost in quiet moments
    gate.exec-fapolicyd     the same of fapolicyd: a row with a reason, see REASON
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

from edgewarden.act.policy_compile import write_policy
from edgewarden.judge.exec_table import compile_table
from edgewarden.probe.control import ask_gate
from edgewarden.wire.gate_files import compile_gate_config
from edgewarden.wire.local import Answer, GateStats, Request
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.bench.rows import Figure, Spec, middle

RUNS = 5
PAIRS = 1000
WARM_UP = 50
PROGRAM = "/sbin/ldconfig"
"""Static in Debian's libc-bin, 0.9 MB: the exec itself, no loader and no libraries after it."""
FAPOLICYD_X = 1.083
"""p50 ratio of fapolicyd 1.1.7, integrity=none, three runs on this kind of machine."""
REASON = (
    "not measured: Debian's fapolicyd cannot be confined by a script: it watches filesystem types,"
    " not mounts, and its shipped rule denies every program; docs/performance.md has the figure of"
    " a machine set up for it by hand"
)

SPECS = (
    Spec("gate.exec-cached", "p50 of spawn and wait of a static program, watched / unwatched,"
         " cached verdict, enforcing", "x", 1.08),
    Spec("gate.exec-cached-p10", "p10 of the same pairs' difference", "us", 40.0),
    Spec("gate.exec-fapolicyd", "the same ratio of fapolicyd", "x", FAPOLICYD_X),
)  # fmt: skip

_SINK = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
while s.recv(65536):
    pass
"""


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    yield Figure("gate.exec-fapolicyd", None, note=REASON)
    plain, watched = place.mount_ext4("plain"), place.mount_ext4("watched")
    for folder in (plain, watched):
        shutil.copy(PROGRAM, folder / "listed")
        shutil.copy(PROGRAM, folder / "unlisted")
        with (folder / "unlisted").open("ab") as program:
            program.write(b"another program")
    run = stand_up(place, watched)
    check_judges(plain, watched)
    before = stats(run)
    ratios, deltas, bare_us = [], [], []
    pairs(plain / "listed", watched / "listed", WARM_UP)
    for _ in range(RUNS):
        a, b = pairs(plain / "listed", watched / "listed", PAIRS)
        ratios.append(middle(b) / middle(a))
        bare_us.append(middle(a) * 1e6)
        deltas.append(quantiles((y - x for x, y in zip(a, b, strict=True)), n=10)[0] * 1e6)
    after = stats(run)
    expected = RUNS * PAIRS
    if after.cached - before.cached < expected or after.denied != before.denied:
        raise CannotMeasure(f"{after.cached - before.cached} of {expected} verdicts were cached")
    against = f"{middle(bare_us):.0f} us unwatched; fapolicyd {FAPOLICYD_X} (by hand)"
    spread = f"runs {min(ratios):.3f} to {max(ratios):.3f}, tier {after.tier}"
    yield Figure("gate.exec-cached", middle(ratios), against, RUNS, spread)
    yield Figure("gate.exec-cached-p10", middle(deltas), against, RUNS)


def stand_up(place: Place, watched: Path) -> Path:
    """Policy, tier proof, guard, gate, somebody who reads the facts; returns the run folder."""
    state, run = place.folder / "state", place.folder / "run"
    for folder in (state, run):
        folder.mkdir()
    digest = hashlib.sha256((watched / "listed").read_bytes()).digest()
    table = compile_table([("listed", digest)])
    write_policy(str(state), table, compile_gate_config([str(watched)], "observe", link_uid=0))
    lean = [sys.executable, "-I", "-S"]
    agent = ROOT / "agent" / "edgewarden"
    canary = place.start(*lean, agent / "act" / "exec_canary.py", run, name="canary")
    await_("proof of the tier", lambda: canary.poll() is not None, 30)
    _guard(place, run, lean, agent)
    gate = place.start(*lean, agent / "daemon" / "gate.py", state, run, name="gate")
    facts = run / "gate-facts.sock"
    await_("gate", lambda: facts.exists() or gate.poll() is not None, 10)
    if gate.poll() is not None:
        raise CannotMeasure(f"gate ended: {place.log('gate')}")
    place.start(sys.executable, "-I", "-S", "-c", _SINK, facts, name="sink")
    answer = ask_gate(str(run), Request("mode", "enforce"))
    if not isinstance(answer, Answer) or not answer.ok:
        raise CannotMeasure(f"gate does not enforce: {answer}")
    if not stats(run).armed:
        raise CannotMeasure(f"this kernel arms nothing: {place.log('canary')}")
    return run


def _guard(place: Place, run: Path, lean: list[str], agent: Path) -> None:
    """guard with its listening socket as descriptor 3, as a service manager hands it over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(run / "guard.sock"))
        listener.listen(4)
        fd = listener.fileno()
        place.start(*lean, agent / "daemon" / "guard.py", str(fd), name="guard", pass_fds=(fd,))


def stats(run: Path) -> GateStats:
    """gate's own picture."""
    answer = ask_gate(str(run), Request("status", "learn"))
    if not isinstance(answer, GateStats):
        raise CannotMeasure(f"gate does not say how it is: {answer}")
    return answer


def check_judges(plain: Path, watched: Path) -> None:
    """A program that is not listed runs unwatched and is denied watched."""
    spawn(plain / "unlisted")
    try:
        spawn(watched / "unlisted")
    except PermissionError:
        return
    raise CannotMeasure("an unlisted program ran: gate does not judge")


def spawn(program: Path) -> None:
    """Run it to its end; PermissionError when it was denied."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(program, [program.name, "--version"], {}, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    if status:
        raise CannotMeasure(f"{program} ended with {status}")


def pairs(plain: Path, watched: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each spawn, unwatched and watched, taking turns."""
    took: dict[Path, list[float]] = {plain: [], watched: []}
    gc.collect()
    gc.disable()
    try:
        for i in range(count):
            for program in (plain, watched) if i % 2 else (watched, plain):
                began = time.perf_counter()
                spawn(program)
                took[program].append(time.perf_counter() - began)
    finally:
        gc.enable()
    return took[plain], took[watched]
