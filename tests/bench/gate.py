"""What a watched exec costs: gate and guard alone, enforcing on a filesystem of ours.

    A  an ext4 nobody watches          B  an ext4 with gate's exec permission mark
    F  an ext4 whose mark is answered by bare_responder.py, which allows everything at once: the
       floor that the kernel and two wake-ups cost anybody on this machine at this moment

All in loop-mounted files of this bench: on a tmpfs gate never believes its cache (a store through
a mapping leaves no trace there, exec/marks.py), so that every exec would be hashed anew.

The same static program lies on all. One round = one spawn and wait on each; the order turns with
every round, so that whatever else the machine does meets both. The verdict comes from gate's cache
(that it did is read from gate's own counters), link's side of the facts socket is read by a process
that throws them away. Before anything counts, a program that is not listed must be denied on B and
run on A: a gate that answers without judging measures nothing.

    gate.exec-cached        p50 B / p50 A, median of the runs
    gate.exec-floor         p50 B / p50 F: what judging and reporting add to the floor
    gate.exec-cached-p10    p10 B - p10 A: what it costs when nothing else happens
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

from edgewarden.exec.policy_files import write_policy
from edgewarden.judge.exec_table import compile_list
from edgewarden.probe.control import ask_gate
from edgewarden.wire.gate_files import compile_gate_config
from edgewarden.wire.local import Answer, GateStats, Request
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.bench.rows import Figure, Spec, middle

RUNS = 5
ROUNDS = 600
WARM_UP = 50
"""Rounds, before anything counts."""
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
    Spec("gate.exec-floor", "the same p50, gate / a responder that allows everything at once", "x",
         1.1),
    Spec("gate.exec-cached-p10", "difference of the p10s of the same execs", "us", 40.0),
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
    plain, watched, floor = (place.mount_ext4(name) for name in ("plain", "watched", "floor"))
    for folder in (plain, watched, floor):
        shutil.copy(PROGRAM, folder / "listed")
        shutil.copy(PROGRAM, folder / "unlisted")
        with (folder / "unlisted").open("ab") as program:
            program.write(b"another program")
    run = stand_up(place, watched)
    check_judges(plain, watched)
    bare_responder(place, floor)
    programs = [folder / "listed" for folder in (plain, watched, floor)]
    rounds(programs, WARM_UP)
    before = stats(run)
    taken = [rounds(programs, ROUNDS) for _ in range(RUNS)]
    after = stats(run)
    expected = RUNS * ROUNDS
    if after.cached - before.cached < expected or after.denied != before.denied:
        raise CannotMeasure(f"{after.cached - before.cached} of {expected} verdicts were cached")
    p50 = [[middle(each) * 1e6 for each in one] for one in taken]
    p10 = [[quantiles(each, n=10)[0] * 1e6 for each in one] for one in taken]
    ratios = [b / a for a, b, _ in p50]
    bare_us, floor_x = middle(a for a, _, _ in p50), middle(f / a for a, _, f in p50)
    against = f"{bare_us:.0f} us unwatched; bare responder {floor_x:.3f}; fapolicyd {FAPOLICYD_X}"
    spread = f"runs {min(ratios):.3f} to {max(ratios):.3f}, tier {after.tier}"
    yield Figure("gate.exec-cached", middle(ratios), against, RUNS, spread)
    yield Figure("gate.exec-floor", middle(b / f for _, b, f in p50), against, RUNS)
    floor_us = middle(f - a for a, _, f in p10)
    yield Figure(
        "gate.exec-cached-p10", middle(b - a for a, b, _ in p10),
        f"bare responder {floor_us:.0f} us", RUNS,
    )  # fmt: skip


def bare_responder(place: Place, floor: Path) -> None:
    """Start the floor's responder; it ends with this place."""
    ready = place.folder / "floor-ready"
    script = ROOT / "tests" / "bench" / "bare_responder.py"
    process = place.start(sys.executable, "-I", "-S", script, floor, ready, name="floor")
    await_("bare responder", lambda: ready.exists() or process.poll() is not None, 10)
    if process.poll() is not None:
        raise CannotMeasure(f"the bare responder ended: {place.log('floor')}")


def stand_up(place: Place, watched: Path) -> Path:
    """Policy, tier proof, guard, gate, somebody who reads the facts; returns the run folder."""
    state, run = place.folder / "state", place.folder / "run"
    for folder in (state, run):
        folder.mkdir()
    digest = hashlib.sha256((watched / "listed").read_bytes()).digest()
    table = compile_list([("listed", digest)])
    write_policy(str(state), table, compile_gate_config([str(watched)], "observe", link_uid=0))
    lean = [sys.executable, "-I", "-S"]
    agent = ROOT / "agent" / "edgewarden"
    canary = place.start(*lean, agent / "exec" / "canary.py", run, name="canary")
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


def rounds(programs: list[Path], count: int) -> list[list[float]]:
    """Seconds of each spawn per program, taking turns."""
    took: list[list[float]] = [[] for _ in programs]
    gc.collect()
    gc.disable()
    try:
        for i in range(count):
            for step in range(len(programs)):
                which = (i + step) % len(programs)
                began = time.perf_counter()
                spawn(programs[which])
                took[which].append(time.perf_counter() - began)
    finally:
        gc.enable()
    return took
