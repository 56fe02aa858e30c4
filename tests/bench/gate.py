"""What a watched exec costs: gate and guard alone, enforcing on a filesystem of ours.

    A  an ext4 nobody watches          B  an ext4 with gate's exec permission mark
    F  an ext4 whose mark is answered by bare_responder.py, which allows everything at once: the
       floor that the kernel and two wake-ups cost a responder in Python at this moment
    C  the same in C (bare_responder.c): what nobody who is asked can go below

All in loop-mounted files of this bench: on a tmpfs gate never believes its cache (a store through
a mapping leaves no trace there, exec/marks.py), so that every exec would be hashed anew.

The same static program lies on all. One round = one spawn and wait on each, in an order drawn anew
for every round: whatever else the machine does meets all, and so does what ran before. (In a fixed
order whoever came right after another of the same gate found its caches warm: 20 us at p10.) The
verdict comes from gate's cache (that it did is read from gate's own counters), link's side of the
facts socket is read by a process that throws them away. Before anything counts, a program that is
not listed must be denied on B and run on A: a gate that answers without judging measures nothing.

    gate.exec-cached        p50 B / p50 A, median of the runs
    gate.exec-floor         p50 B / p50 F: what judging and reporting add to the floor
    gate.exec-cached-p10    p10 B - p10 A: what it costs when nothing else happens
    gate.exec-fapolicyd     p50 B / p50 P, P an ext2 that Debian's fapolicyd watches (fapolicyd.py)
    gate.exec-subject       p50 S / p50 A, S an ext4 of B's gate where the rule asks for the user
    gate.exec-asked         p50 B' / p50 A, B' a program on B that others than root may write to
    gate.exec-hogs          p50 B / p50 A while HOGS processes do nothing but compute

What is started again within 20 ms, is root's and is allowed whoever asks, as in B here, starts
without gate being asked, and gate is told (ADR 24). B' and S are what gate is asked for each time.

The start of a Python program in strict mode, and gate's memory: strict.py.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from edgewarden.exec.policy_files import write_policy
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Content, RuleSpec, compile_table
from edgewarden.probe.control import ask_gate
from edgewarden.wire.gate_files import compile_gate_config
from edgewarden.wire.local import Answer, GateStats, Request
from tests.bench import fapolicyd
from tests.bench.place import ROOT, CannotMeasure, Place, await_, stop
from tests.bench.private import Interpreter, environment
from tests.bench.rows import Figure, Spec, middle

RUNS = 5
ROUNDS = 600
WARM_UP = 50
"""Rounds, before anything counts."""
HOGS, HOG_ROUNDS = 2, 150
"""Row P1 of issue 4. A round waits for its turn behind the hogs, so fewer do."""
HOG = "import signal; signal.alarm(100)\nwhile True: pass"
CACHED_AT_LEAST = 0.99
"""gate forgets its cache when somebody here mounts something; a median does not see that."""
COMPILED, ASKED, PEER = 4, 5, 6
"""Places among the programs of a round."""
NOBODY = 65534
PROGRAM = "/sbin/ldconfig"
"""Static in Debian's libc-bin, 0.9 MB: the exec itself, no loader and no libraries after it."""
SPECS = (
    Spec("gate.exec-cached", "p50 of spawn and wait of a static program, watched / unwatched,"
         " cached verdict, enforcing", "x", 1.05),
    Spec("gate.exec-floor", "the same p50, gate / a responder that allows everything at once", "x",
         1.1),
    Spec("gate.exec-cached-p10", "difference of the p10s of the same execs", "us", 60.0),
    Spec("gate.exec-subject", "the same ratio where the rule asks for the user", "x", 1.1),
    Spec("gate.exec-asked", "the same ratio where gate is asked each time: others may write to the"
         " program", "x", 1.1),
    Spec("gate.exec-fapolicyd", "the same p50, gate / fapolicyd", "x", 1.0),
    Spec("gate.exec-hogs", f"the ratio of gate.exec-cached beside {HOGS} processes that only"
         " compute", "x", 1.2),
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
    plain, watched, floor, subject, compiled = (
        place.mount_ext4(name) for name in ("plain", "watched", "floor", "subject", "compiled")
    )
    peer = place.mount_ext2("peer")
    for folder in (plain, watched, floor, subject, compiled, peer):
        shutil.copy(PROGRAM, folder / "listed")
        shutil.copy(PROGRAM, folder / "unlisted")
        with (folder / "unlisted").open("ab") as program:
            program.write(b"another program")
    with (subject / "listed").open("ab") as program:
        program.write(b"a content of its own")
    shutil.copy(watched / "unlisted", watched / "asked")
    with (watched / "asked").open("ab") as program:
        program.write(b"listed all the same")
    os.chown(watched / "asked", NOBODY, NOBODY)
    run = stand_up(place, watched, subject).run
    check_judges(plain, watched)
    check_judges(plain, subject)
    script = ROOT / "tests" / "bench" / "bare_responder.py"
    bare_responder(place, floor, [sys.executable, "-I", "-S", script])
    bare_responder(place, compiled, [built(place)])
    no_peer = ""
    try:
        fapolicyd.start(place, peer, [plain, watched, floor, subject, compiled])
        check_judges(plain, peer)
    except CannotMeasure as fault:
        no_peer = str(fault)
    programs = [folder / "listed" for folder in (plain, watched, floor, subject, compiled)]
    programs += [watched / "asked", peer / "listed"]
    rounds(programs, WARM_UP)
    before = stats(run)
    taken = [rounds(programs, ROUNDS) for _ in range(RUNS)]
    after = stats(run)
    expected = int(3 * RUNS * ROUNDS * CACHED_AT_LEAST)
    if after.cached - before.cached < expected or after.denied != before.denied:
        raise CannotMeasure(f"{after.cached - before.cached} of {expected} verdicts were cached")
    p50 = [[middle(each) * 1e6 for each in one] for one in taken]
    p10 = [[quantiles(each, n=10)[0] * 1e6 for each in one] for one in taken]
    ratios = [one[1] / one[0] for one in p50]
    bare_us, floor_x = middle(one[0] for one in p50), middle(one[2] / one[0] for one in p50)
    peer_x = "-" if no_peer else f"{middle(one[PEER] / one[0] for one in p50):.3f}"
    least_x = middle(one[COMPILED] / one[0] for one in p50)
    against = f"{bare_us:.0f} us unwatched; bare responder {floor_x:.3f}, in C {least_x:.3f}"
    against += f"; fapolicyd {peer_x}"
    spread = f"runs {min(ratios):.3f} to {max(ratios):.3f}, tier {after.tier}"
    yield Figure("gate.exec-cached", middle(ratios), against, RUNS, spread)
    yield Figure("gate.exec-floor", middle(one[1] / one[2] for one in p50), against, RUNS)
    yield Figure("gate.exec-subject", middle(one[3] / one[0] for one in p50), against, RUNS)
    yield Figure("gate.exec-asked", middle(one[ASKED] / one[0] for one in p50), against, RUNS)
    floor_us = middle(one[2] - one[0] for one in p10)
    beside = f"bare responder {floor_us:.0f} us"
    if no_peer:
        yield Figure("gate.exec-fapolicyd", None, note=no_peer)
    else:
        yield Figure(
            "gate.exec-fapolicyd", middle(one[1] / one[PEER] for one in p50), against, RUNS
        )
        beside += f", fapolicyd {middle(one[PEER] - one[0] for one in p10):.0f} us"
    beside += f", rule with a user {middle(one[3] - one[0] for one in p10):.0f} us"
    beside += f", asked each time {middle(one[ASKED] - one[0] for one in p10):.0f} us"
    yield Figure("gate.exec-cached-p10", middle(one[1] - one[0] for one in p10), beside, RUNS)
    yield beside_hogs(place, programs if not no_peer else programs[:PEER])


def beside_hogs(place: Place, programs: list[Path]) -> Figure:
    """The same turns while others want the processors; the hogs are ours and end here."""
    hogs = [
        place.start(sys.executable, "-I", "-S", "-c", HOG, name=f"hog-{i}") for i in range(HOGS)
    ]
    try:
        taken = [rounds(programs, HOG_ROUNDS) for _ in range(RUNS)]
    finally:
        for hog in hogs:
            stop(hog)
    p50 = [[middle(each) * 1e6 for each in one] for one in taken]
    ratios = [one[1] / one[0] for one in p50]
    names = ("bare responder", "rule with a user", "in C", "asked each time", "fapolicyd")
    others = [middle(one[i] / one[0] for one in p50) for i in range(2, len(programs))]
    beside = "; ".join(f"{n} {x:.3f}" for n, x in zip(names, others, strict=False))
    return Figure(
        "gate.exec-hogs", middle(ratios), f"{middle(o[0] for o in p50):.0f} us unwatched; {beside}",
        RUNS, f"runs {min(ratios):.3f} to {max(ratios):.3f}",
    )  # fmt: skip


def built(place: Place) -> Path:
    """The responder in C."""
    program = place.folder / "bare_responder"
    source = ROOT / "tests" / "bench" / "bare_responder.c"
    try:
        subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source], check=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as fault:
        raise CannotMeasure(f"no C compiler here: {fault}") from fault
    return program


def bare_responder(place: Place, floor: Path, command: list[str | Path]) -> None:
    """Start a responder that allows everything; it ends with this place."""
    name = f"on-{floor.name}"
    ready = place.folder / name
    process = place.start(*command, floor, ready, name=name)
    await_("bare responder", lambda: ready.exists() or process.poll() is not None, 10)
    if process.poll() is not None:
        raise CannotMeasure(f"the bare responder ended: {place.log(name)}")


@dataclass(frozen=True, slots=True)
class Standing:
    """gate and guard, enforcing: the run folder and their processes."""

    run: Path
    gate_pid: int
    guard_pid: int


def stand_up(place: Place, watched: Path, subject: Path) -> Standing:
    """One rule for anybody and one that asks for the user, and gate enforcing them."""
    contents, rules = {}, []
    listed = (watched / "listed", ()), (subject / "listed", ((0, 0),)), (watched / "asked", ())
    for i, (program, uids) in enumerate(listed):
        digest = hashlib.sha256(program.read_bytes()).digest()
        contents[digest] = Content((i,), "program", False)
        rules.append(RuleSpec(Rule(f"rule {i}", True, uids, (), ()), False))
    config = compile_gate_config([str(watched), str(subject)], "observe", link_uid=0)
    return enforcing(place, compile_table(rules, contents), config)


def enforcing(
    place: Place, table: bytes, config: bytes, interpreter: Interpreter | None = None
) -> Standing:
    """Policy, tier proof, guard, gate, somebody who reads the facts.

    Args:
        place: theirs.
        table: the compiled rules.
        config: gate's configuration.
        interpreter: of gate and guard; None: the one that runs this.
    """
    state, run = place.folder / "state", place.folder / "run"
    for folder in (state, run):
        folder.mkdir()
    write_policy(str(state), table, config)
    lean = [str(interpreter.python) if interpreter else sys.executable, "-I", "-S"]
    env = environment(interpreter)
    canary = ROOT / "agent" / "edgewarden" / "exec" / "canary.py"
    proof = place.start(*lean, canary, run, name="canary")
    await_("proof of the tier", lambda: proof.poll() is not None, 30)
    guard_pid = _guard(place, run, lean, env)
    gate = place.start(
        *lean, "-c", as_installed("gate", "*sys.argv[1:]"), state, run, name="gate", env=env
    )
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
    return Standing(run, gate.pid, guard_pid)


def as_installed(name: str, arguments: str) -> str:
    """What ``edgewarden gate`` and ``guard`` become (cli/services.py): nothing is compiled at the
    start, which 0.6 MB of gate's memory would show."""
    root = str(ROOT / "agent")
    load = f"from edgewarden.daemon.{name} import main"
    return f"import sys; sys.path.append({root!r}); {load}; sys.exit(main({arguments}))"


def _guard(place: Place, run: Path, lean: list[str], env: dict[str, str] | None = None) -> int:
    """guard with its listening socket as descriptor 3, as a service manager hands it over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(run / "guard.sock"))
        listener.listen(4)
        fd = listener.fileno()
        command = (*lean, "-c", as_installed("guard", str(fd)))
        return place.start(*command, name="guard", env=env, pass_fds=(fd,)).pid


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
    order = list(range(len(programs)))
    chance = random.Random(len(programs))
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            chance.shuffle(order)
            for which in order:
                began = time.perf_counter()
                spawn(programs[which])
                took[which].append(time.perf_counter() - began)
    finally:
        gc.enable()
    return took
