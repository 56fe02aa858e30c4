"""0 escapes: every way of escape_ways.py and escape_variants.py, as root and as an ordinary user.

Each way first runs unwatched, so that a later failure is gate's doing. A run counts as an escape
when its marker is there, whatever the program said. ``--runs 1000`` is the full count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from edgewarden.wire.local import Answer, ExecVerdict
from tests.system import escape_variants
from tests.system.escape_ways import KERNEL_WAYS, PYTHON_CODE, STRICT_WAYS, Way, put, shell_file
from tests.system.exec_world import NOBODY, PYTHON, World, loop_ext4, world

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount", "gcc", "perl")

AS = {
    0: [],
    NOBODY: ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"],
}


@pytest.fixture
def disk(runs: int) -> Iterator[World]:
    with loop_ext4() as where, world(where) as made:
        made.life_s += 2 * runs
        os.chmod(where, 0o755)
        os.chmod(made.state, 0o755)
        yield made


class Attempt:
    """One way of one user; ``escapes`` tries it."""

    def __init__(self, disk: World, way: Way, uid: int) -> None:
        self.here = disk.filesystem / f"of-{uid}"
        self.outside = disk.state / f"outside-{uid}"
        self.marker = disk.markers / f"{way.__name__}-{uid}"
        for folder in (self.here, self.outside):
            folder.mkdir(mode=0o755)
        disk.program("listed", allow=True, image="/bin/true")
        self.command = [*AS[uid], *way(self.here, self.outside)]
        for path in (self.here, self.outside, *self.here.rglob("*"), *self.outside.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)

    def escapes(self) -> bool:
        self.marker.unlink(missing_ok=True)
        environment = {"PATH": os.environ["PATH"], "MARK": str(self.marker)}
        subprocess.run(
            [*self.command, str(self.marker)], env=environment, capture_output=True, timeout=300,
            stdin=subprocess.DEVNULL,
        ) if shutil.which(self.command[0]) else None  # fmt: skip
        return self.marker.exists()


def try_all(disk: World, way: Way, uid: int, runs: int, *, strict: bool) -> None:
    attempt = Attempt(disk, way, uid)
    assert escapes(attempt), "unwatched this way must lead somewhere"
    disk.strict = strict
    disk.enforcing()
    got_out = sum(escapes(attempt) for _ in range(runs))
    assert got_out == 0, f"{got_out} of {runs}"
    assert disk.status().denied >= runs
    assert disk.status().undecidable == 0
    assert disk.status().guard


def escapes(attempt: Attempt) -> bool:
    try:
        return attempt.escapes()
    except PermissionError:
        return attempt.marker.exists()


@pytest.mark.parametrize("uid", [0, NOBODY])
@pytest.mark.parametrize("way", [*KERNEL_WAYS, *escape_variants.KERNEL_WAYS])
def test_a1_a2_nothing_unlisted_is_executed(disk: World, way: Way, uid: int, runs: int) -> None:
    try_all(disk, way, uid, runs, strict=False)


@pytest.mark.parametrize("uid", [0, NOBODY])
@pytest.mark.parametrize("way", [*KERNEL_WAYS, *STRICT_WAYS, *escape_variants.ALL_WAYS])
def test_a7_nothing_unlisted_is_handed_on_in_strict_mode(
    disk: World, way: Way, uid: int, runs: int
) -> None:
    try_all(disk, way, uid, runs, strict=True)


def test_a8_an_interpreter_that_a_user_may_not_start(disk: World) -> None:
    """Inline code cannot be judged: who may run an interpreter is."""
    python = disk.program("python", allow=True, image=os.path.realpath(PYTHON[0]))
    disk.only_for("python", uid=0)
    disk.enforcing()
    inline = [python, "-I", "-S", "-c", PYTHON_CODE]
    environment = {"PYTHONHOME": "/usr"}
    assert subprocess.run([*inline, "/dev/null"], env=environment, timeout=300).returncode == 0
    marker = disk.markers / "a8"
    done = subprocess.run([*AS[NOBODY], *inline, marker], env=environment, capture_output=True)
    assert done.returncode != 0
    assert not marker.exists()


# --- what strict mode lets through ----------------------------------------------------------------


@pytest.fixture
def strict(disk: World) -> World:
    (disk.filesystem / "var").mkdir()
    disk.strict = True
    disk.data = [str(disk.filesystem / "var")]
    return disk


def shell(*command: str) -> int:
    return subprocess.run(["sh", "-c", *command], capture_output=True, timeout=300).returncode


def test_gate_reads_and_writes_its_own_files_where_openings_wait_for_it(strict: World) -> None:
    """state/policy below a watched filesystem, as on any machine with one disk: a gate that opened
    a file there would wait for itself, and guard would end it."""
    outside, strict.state = strict.state, strict.filesystem / "state"
    try:
        (strict.state / "policy").mkdir(parents=True)
        good = strict.program("good", allow=True)
        late = strict.program("late", allow=True)
        late_rule = strict.rules.pop()
        strict.enforcing()
        gate = strict.gate_pid
        assert strict.outcome([late]) == "denied"
        strict.rules.append(late_rule)
        strict.policy("observe")
        answer = strict.ask("reload")
        assert isinstance(answer, Answer)
        assert answer.ok, answer
        assert (strict.outcome([late]), strict.outcome([good])) == ("ran", "ran")
        kept = strict.set_mode("enforce")
        assert "kept over a restart" in kept.text
        assert (strict.state / "policy" / "mode").read_bytes() == b"edgewarden mode enforce\n"
        assert strict.status().armed
        assert (strict.gate_pid, strict.gate_is_gone()) == (gate, False)
        thief = put(strict.state / "policy" / "evil", "#!/bin/sh\nexit 0\n", 0o755)
        assert strict.outcome([thief]) == "denied", "only openings are spared there, no start"
    finally:
        strict.state = outside


def test_listed_code_of_root_is_handed_on(strict: World) -> None:
    path = put(strict.filesystem / "good.sh", "exit 7\n", 0o644)
    strict.listed("good.sh", path)
    strict.enforcing()
    for _ in range(3):
        assert subprocess.run(["sh", path], timeout=300).returncode == 7


def test_listed_code_that_somebody_can_change_is_not(strict: World) -> None:
    """He could exchange it after the verdict."""
    path = put(strict.filesystem / "good.sh", "exit 7\n", 0o644)
    strict.listed("good.sh", path)
    os.chown(path, NOBODY, NOBODY)
    strict.enforcing()
    link = strict.connect("gate-facts.sock")
    assert subprocess.run(["sh", path], capture_output=True, timeout=300).returncode != 7
    denials = [f for f in strict.facts(link) if isinstance(f, ExecVerdict)]
    assert [(d.decision, d.reason, d.path_text()) for d in denials if d.decision == "deny"] == [
        ("deny", "changeable", str(path))
    ]


def test_data_is_data_below_a_data_path_unless_it_looks_like_code(strict: World) -> None:
    var = strict.filesystem / "var"
    text = put(var / "readings.txt", "12.5\n", 0o644)
    code = put(var / "x.py", PYTHON_CODE, 0o644)
    elsewhere = put(strict.filesystem / "readings.txt", "12.5\n", 0o644)
    strict.enforcing()
    assert shell(f"read line < {text} && echo more >> {var}/log") == 0
    assert shell(f"read line < {elsewhere}") != 0
    marker = strict.markers / "data"
    subprocess.run([*PYTHON, code, marker], capture_output=True, timeout=300)
    assert not marker.exists()
    assert subprocess.run(["cat", elsewhere], capture_output=True, timeout=300).returncode == 0


def test_a_data_path_is_the_hosts_not_that_of_somebodys_mounts(strict: World) -> None:
    evil = strict.filesystem / "evil"
    evil.mkdir()
    put(evil / "x", "exit 7\n", 0o644)
    strict.enforcing()
    var = strict.filesystem / "var"
    command = f"mount --bind {evil} {var} && sh {var}/x"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, timeout=300)
    assert done.returncode not in (0, 7), done.stderr


def test_gate_does_not_wait_for_itself(strict: World) -> None:
    """Its own openings on a filesystem whose openings wait for it would hang it for good."""
    good = strict.program("good", allow=True)
    strict.enforcing()
    for _ in range(3):
        assert strict.outcome([good]) == "ran"
    assert strict.ask("reload").ok  # type: ignore[union-attr]
    assert strict.status().guard


def test_a7_in_default_mode_what_is_handed_on_runs(disk: World) -> None:
    """Visible as the gap "scripts" (wire/local_tier.py)."""
    attempt = Attempt(disk, shell_file, 0)
    disk.enforcing()
    assert escapes(attempt)
