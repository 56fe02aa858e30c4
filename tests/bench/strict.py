"""What strict mode costs a Python program at its start, and what gate and guard take in memory.

    A  an ext4 nobody watches, with a copy of the interpreter and of its standard library
    B  an ext4 with gate's marks and the same bytes, every one of them listed

One round = one start to its end on each, in turns. The program imports nine modules, which makes
about a hundred openings of files; the libraries of the C side (libc, libssl, libsqlite3, ...) lie
on / as always and are not watched. Before anything counts, a module that is not listed must be
refused on B and be imported on A; while it counts nothing may be denied.

    gate.strict-start   p50 B / p50 A, median of the runs
    gate.pss            gate + guard in that state, on the private interpreter (private.py), with as
                        many rules as a whole Debian needs
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Content, RuleSpec, compile_table
from edgewarden.wire.gate_files import compile_gate_config
from tests.bench import proc
from tests.bench.footprint import bare_pss_mb
from tests.bench.gate import enforcing, stats
from tests.bench.place import CannotMeasure, Place
from tests.bench.rows import Figure, Spec, middle

RUNS = 5
STARTS = 25
WARM_UP = 5
PSS_SAMPLES, PSS_SAMPLE_S = 12, 0.5
HASHED_AT_MOST = 0.1
"""Share of the starts: gate forgets its cache when somebody on this machine mounts something, and a
median does not see one start in ten."""
WHOLE_DEBIAN = 20_000
"""Contents of a learned Debian (docs/performance.md, policy.compile-5000)."""
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
LEFT_OUT = (
    "test", "tests", "idlelib", "lib2to3", "ensurepip", "config-*", "tkinter", "turtledemo",
    "pydoc_data", "dist-packages", "distutils", "unittest",
)  # fmt: skip
"""For room on the image; the program imports none of them."""
PROGRAM = (
    "import argparse, email.message, http.client, json, logging, re, socket, sqlite3, subprocess\n"
)
STRANGER = "import stranger\n"
OTHERS_MAY_WRITE = 0o022
SPECS = (
    Spec("gate.strict-start", "p50 of the start of a Python program with nine imports of the"
         " standard library to its end, watched in strict mode / unwatched", "x", 1.15),
    Spec("gate.pss", f"PSS of gate + guard, enforcing in strict mode, {WHOLE_DEBIAN} contents"
         " listed", "MB", 16.0),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    interpreter = place.interpreter
    bare_mb = bare_pss_mb(interpreter)  # before gate and guard share its pages
    plain, watched = place.mount_ext4("plain"), place.mount_ext4("watched")
    for folder in (plain, watched):
        fill(folder)
    standing = enforcing(
        place, whole_debian(watched), compile_gate_config(
            [str(watched)], "observe", link_uid=0, strict=True
        ), interpreter,
    )  # fmt: skip
    check_judges(plain, watched)
    turns(plain, watched, WARM_UP)
    before = stats(standing.run)
    taken = [turns(plain, watched, STARTS) for _ in range(RUNS)]
    after = stats(standing.run)
    hashed = after.hashed - before.hashed
    if after.denied != before.denied or hashed > HASHED_AT_MOST * RUNS * STARTS:
        raise CannotMeasure(f"{after.denied - before.denied} denied, {hashed} starts hashed anew")
    ratios = [with_gate / without for without, with_gate in taken]
    against = f"{middle(without for without, _ in taken) * 1e3:.1f} ms unwatched"
    note = f"runs {min(ratios):.3f} to {max(ratios):.3f}, {hashed} starts hashed anew"
    yield Figure("gate.strict-start", middle(ratios), against, RUNS, note)
    yield memory(standing.gate_pid, standing.guard_pid, bare_mb, interpreter.python)


def memory(gate_pid: int, guard_pid: int, bare_mb: float, python: Path) -> Figure:
    """Medians of PSS_SAMPLES looks."""
    for pid in (gate_pid, guard_pid):
        if str(python.resolve()) not in Path(f"/proc/{pid}/maps").read_text():
            raise CannotMeasure(f"process {pid} does not run on the private interpreter")
    seen = []
    for _ in range(PSS_SAMPLES):
        time.sleep(PSS_SAMPLE_S)
        seen.append((proc.pss_mb(gate_pid), proc.pss_mb(guard_pid)))
    gate_mb, guard_mb = (middle(each) for each in zip(*seen, strict=True))
    return Figure(
        "gate.pss", middle(map(sum, seen)), f"bare interpreter {bare_mb:.1f} MB", PSS_SAMPLES,
        f"gate {gate_mb:.1f}, guard {guard_mb:.1f}",
    )  # fmt: skip


def fill(folder: Path) -> None:
    """An interpreter, its standard library and two programs, writable for root alone."""
    (folder / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), folder / "bin" / "python3")
    shutil.copytree(
        os.path.dirname(os.__file__), folder / "lib" / VERSION,
        ignore=shutil.ignore_patterns(*LEFT_OUT), ignore_dangling_symlinks=True,
    )  # fmt: skip
    (folder / "start.py").write_text(PROGRAM)
    (folder / "strange.py").write_text(f"import sys\nsys.path.append({str(folder)!r})\n{STRANGER}")
    (folder / "stranger.py").write_text("listed = False\n")
    for path in files(folder):
        os.chown(path, 0, 0)
        path.chmod(path.stat().st_mode & ~OTHERS_MAY_WRITE)


def files(folder: Path) -> Iterator[Path]:
    """The regular files below."""
    return (path for path in folder.rglob("*") if path.is_file())


def whole_debian(watched: Path) -> bytes:
    """A table with everything on ``watched`` but the stranger, and with what else a Debian has."""
    digests = [
        hashlib.sha256(path.read_bytes()).digest()
        for path in files(watched)
        if path.name != "stranger.py"
    ]
    others = max(0, WHOLE_DEBIAN - len(set(digests)))
    digests += [hashlib.sha256(b"%d" % i).digest() for i in range(others)]
    rule = RuleSpec(Rule("everything", True, (), (), ()), False)
    return compile_table([rule], {digest: Content((0,), "module", False) for digest in digests})


def check_judges(plain: Path, watched: Path) -> None:
    """A module that is not listed is imported unwatched and refused watched."""
    if start(plain, "strange.py") != 0:
        raise CannotMeasure("the copied interpreter does not run")
    if start(watched, "start.py") != 0:
        raise CannotMeasure("a program whose every file is listed does not run in strict mode")
    if start(watched, "strange.py") == 0:
        raise CannotMeasure("an unlisted module was imported: gate does not judge openings")


def start(folder: Path, program: str) -> int:
    """Run it to its end; its exit code."""
    python = folder / "bin" / "python3"
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)]
    command = [str(python), "-I", "-B", str(folder / program)]
    pid = os.posix_spawn(python, command, {}, file_actions=quiet)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def turns(plain: Path, watched: Path, count: int) -> tuple[float, float]:
    """Median seconds of a start on each, taking turns."""
    took: dict[Path, list[float]] = {plain: [], watched: []}
    for i in range(count):
        for folder in (plain, watched) if i % 2 else (watched, plain):
            began = time.perf_counter()
            if start(folder, "start.py") != 0:
                raise CannotMeasure(f"the program failed on {folder}")
            took[folder].append(time.perf_counter() - began)
    return median(took[plain]), median(took[watched])
