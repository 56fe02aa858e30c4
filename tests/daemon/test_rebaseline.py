"""dpkg's hook looks into folders that changed, and finds what a whole look finds.

The rule that nothing younger than two seconds is believed is kept out of the way by a clock that is
ahead; what it is for, two changes within one tick, by waiting for the kernel's tick to pass.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewarden.baseline import survey as surveys
from edgewarden.baseline.folders import FULL_EVERY_S, Folders
from edgewarden.daemon import baseline as one_shot
from edgewarden.daemon import policy as compiling
from edgewarden.daemon.baseline import Taken, learn_system
from edgewarden.errors import HardwareFault
from edgewarden.exec import policy_files
from edgewarden.wire.baseline import Baseline
from edgewarden.wire.local import Answer
from tests.baseline.tree import elf, put
from tests.daemon.test_baseline import System
from tests.fakes.agent import running_gate
from tests.waiting import wait_until

TICK_S = 0.02
"""Two ticks of a kernel with HZ=100."""
AHEAD_NS = 3600 * 10**9


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(one_shot, "_now_ns", lambda: time.time_ns() + AHEAD_NS)
    made = System(tmp_path)
    put(made.root, "/usr/lib/x/tool", elf(tail=b"tool"))
    a_tick_passes()
    made.learn()
    return made


def a_tick_passes() -> None:
    end = time.monotonic() + TICK_S
    wait_until(lambda: time.monotonic() > end)


def upgrade(machine: System) -> Taken:
    a_tick_passes()
    taken = machine.upgrade()
    assert taken is not None
    return taken


def kept(machine: System) -> Baseline:
    return Baseline.load((machine.state / "baseline").read_bytes())


def folders(machine: System) -> Folders:
    return Folders.load((machine.state / "baseline.folders").read_bytes())


def renamed_into(machine: System, path: str, data: bytes) -> None:
    """As dpkg writes."""
    file = put(machine.root, f"{path}.dpkg-new", data)
    file.rename(str(file).removesuffix(".dpkg-new"))


# --- what it finds -------------------------------------------------------------------------------


def brings(machine: System, rng: random.Random) -> None:
    machine.install(rng.choice(("ls", "cat", "dd")), rng.randbytes(4))


def takes_away(machine: System, rng: random.Random) -> None:
    files = [p for p in (machine.root / "usr").rglob("*") if p.is_file() and not p.is_symlink()]
    rng.choice(sorted(files)).unlink()


def drops(machine: System, rng: random.Random) -> None:
    where = rng.choice(("/usr/local/bin", "/usr/bin", "/opt/a/b", "/etc/cron.daily"))
    put(machine.root, f"{where}/own{rng.randrange(3)}", elf(tail=rng.randbytes(4)))


def links(machine: System, rng: random.Random) -> None:
    link = machine.root / f"usr/bin/also{rng.randrange(3)}"
    link.unlink(missing_ok=True)
    link.symlink_to(rng.choice(("ls", "/usr/bin/cat", "nowhere", "../lib/x")))


def moves(machine: System, rng: random.Random) -> None:
    here, there = machine.root / "usr/lib/x", machine.root / "usr/lib/y"
    here, there = (here, there) if here.exists() else (there, here)
    if here.exists():
        here.rename(there)


def makes_a_tree(machine: System, rng: random.Random) -> None:
    put(machine.root, f"/usr/lib/deep{rng.randrange(2)}/er/tool", elf(tail=rng.randbytes(2)))


def removes_a_tree(machine: System, rng: random.Random) -> None:
    shutil.rmtree(machine.root / f"usr/lib/deep{rng.randrange(2)}", ignore_errors=True)


STEPS = [brings, takes_away, drops, links, moves, makes_a_tree, removes_a_tree]


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_what_a_whole_look_finds(machine: System, seed: int) -> None:
    rng = random.Random(seed)  # no secret
    other = machine.state.with_name("whole")
    passed_over = 0
    for _ in range(10):
        for step in rng.sample(STEPS, rng.randrange(1, 4)):
            step(machine, rng)
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(machine.state, other)
        upgrade(machine)
        passed_over += len(folders(machine).folders)
        by_changes = (machine.state / "baseline").read_bytes()
        mine = machine.state.with_name("mine")
        machine.state.rename(mine)
        other.rename(machine.state)
        (machine.state / "baseline.folders").unlink(missing_ok=True)
        upgrade(machine)
        assert by_changes == (machine.state / "baseline").read_bytes()
        machine.state.rename(other)
        mine.rename(machine.state)
    assert passed_over > 0


def test_only_what_changed_is_looked_into(machine: System, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(surveys.os, "scandir", lambda path: (read.append(path), scandir(path))[1])
    renamed_into(machine, "/usr/lib/x/tool", elf(tail=b"tool 2"))
    upgrade(machine)
    inside = {path.removeprefix(str(machine.root)) for path in read}
    assert "/usr/lib/x" in inside
    assert "/usr/lib64" not in inside
    assert len(inside) < len(folders(machine).folders)


def test_l5_what_was_learned_from_other_folders_stays(machine: System) -> None:
    """`policy learn --roots DIR`: the hook knows nothing of DIR but what the baseline says."""
    own, gone = elf(tail=b"own"), elf(tail=b"gone")
    put(machine.root, "/home/plant/own", own)
    put(machine.root, "/home/plant/gone", gone)
    machine.policy.unlink()
    learn_system(
        machine.settings, ("/home/plant",), full=False, progress=lambda a, b: None,
        machine=machine.machine,
    )  # fmt: skip
    assert machine.allows(hashlib.sha256(own).digest()) == "local"
    machine.install("ls", b"ls 2")
    (machine.root / "home/plant/gone").unlink()
    upgrade(machine)
    assert machine.allows(hashlib.sha256(own).digest()) == "local"
    assert machine.allows(hashlib.sha256(gone).digest()) == ""


# --- what it may not pass over -------------------------------------------------------------------


def test_what_was_not_taken_over_is_looked_at_again(machine: System) -> None:
    """The hook ran beside dpkg: the file was there, and not yet in the database."""
    sums = machine.root / "var/lib/dpkg/info/coreutils.md5sums"
    old = sums.read_text()
    new = machine.install("ls", b"ls 2")
    fresh = sums.read_text()
    sums.write_text(old)
    assert [e.path for e in upgrade(machine).held] == ["/usr/bin/ls"]
    sums.write_text(fresh)  # the folder of the program stays as it is
    assert upgrade(machine).held == ()
    assert machine.allows(new) == "packages"


def test_what_learn_found_beside_dpkg_gets_its_package_later(machine: System) -> None:
    sums = machine.root / "var/lib/dpkg/info/coreutils.md5sums"
    listed = machine.root / "var/lib/dpkg/info/coreutils.list"
    whole = listed.read_text()
    new = machine.install("ls", b"ls 2")
    listed.write_text(whole.replace("/bin/ls\n", ""))
    a_tick_passes()
    machine.learn()
    assert machine.allows(new) != "packages"
    listed.write_text(whole)
    assert sums.exists()
    upgrade(machine)
    assert machine.allows(new) == "packages"


def test_a_file_that_could_not_be_read_is_tried_again(
    machine: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = machine.install("ls", b"ls 2")
    with monkeypatch.context() as patch:
        patch.setattr(surveys, "_read", lambda *_: surveys.MOVING)
        upgrade(machine)
    assert machine.allows(new) == ""
    upgrade(machine)
    assert machine.allows(new) == "packages"


def divert(machine: System) -> None:
    (machine.root / "var/lib/dpkg/diversions").write_text("/a\n/b\nc\n")


def override(machine: System) -> None:
    (machine.root / "var/lib/dpkg/statoverride").write_text("root root 4755 /usr/bin/ls\n")


@pytest.mark.parametrize("change", [divert, override])
def test_everything_is_looked_at_where_dpkgs_own_files_say_so(
    machine: System, change: Callable[[System], None]
) -> None:
    """A mode that changed in place makes a program of what was none."""
    put(machine.root, "/usr/bin/late", elf(tail=b"late"), 0o644)
    upgrade(machine)
    assert "/usr/bin/late" not in {e.path for e in kept(machine).entries}
    (machine.root / "usr/bin/late").chmod(0o755)
    change(machine)
    held = {e.path for e in upgrade(machine).held}
    assert "/usr/bin/late" in held


def test_once_a_week_everything_is_looked_at(
    machine: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folders(machine).full_ns
    upgrade(machine)
    assert folders(machine).full_ns == before
    later = FULL_EVERY_S * 10**9 + AHEAD_NS
    monkeypatch.setattr(one_shot, "_now_ns", lambda: time.time_ns() + later)
    upgrade(machine)
    assert folders(machine).full_ns > before


def test_a_folder_that_is_too_young_is_not_remembered(
    machine: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(machine)
    assert "/usr/bin" in folders(machine).folders
    monkeypatch.setattr(one_shot, "_now_ns", time.time_ns)
    machine.install("ls", b"ls 2")
    upgrade(machine)
    assert "/usr/bin" not in folders(machine).folders


def test_an_mtime_that_was_put_back_hides_nothing(machine: System) -> None:
    upgrade(machine)
    bin_ = machine.root / "usr/bin"
    before = bin_.stat()
    new = machine.install("ls", b"ls 2")
    os.utime(bin_, ns=(before.st_atime_ns, before.st_mtime_ns))
    upgrade(machine)
    assert machine.allows(new) == "packages"


# --- what is compiled ----------------------------------------------------------------------------


def verbs(machine: System) -> list[str]:
    """What a running gate is told by one run of the hook."""
    run = Path(machine.settings).parent / "run"
    (run / "gate.sock").unlink(missing_ok=True)
    with running_gate(run, lambda request: Answer(True, "", "")) as asked:
        upgrade(machine)
    return [request.verb for request in asked]


def test_where_no_program_changed_nothing_is_compiled(machine: System) -> None:
    upgrade(machine)
    put(machine.root, "/usr/share/doc/x/copyright", b"text", 0o644)
    before = {p.name: p.stat().st_mtime_ns for p in machine.state.iterdir()}
    assert verbs(machine) == []
    after = {p.name: p.stat().st_mtime_ns for p in machine.state.iterdir()}
    assert {name for name in after if before.get(name) != after[name]} <= {
        "baseline.folders", "baseline.lock",
    }  # fmt: skip


def test_a_new_inode_and_a_unit_file_are_compiled(machine: System) -> None:
    """gate knows images by inode, and a unit by where its file puts it."""
    upgrade(machine)
    renamed_into(machine, "/usr/lib/x/tool", elf(tail=b"tool"))
    assert verbs(machine) == ["reload_contents"]
    put(machine.root, "/usr/lib/systemd/system/x.service", b"[Service]\n", 0o644)
    assert verbs(machine) == ["reload_contents"]
    assert verbs(machine) == []


@pytest.mark.parametrize("cut", ["baseline", "exec.table", "baseline.folders"])
def test_a_power_cut_is_repaired_by_the_next_run(
    machine: System, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """Before the baseline, between it and its table, and before what says that both are there."""
    old = hashlib.sha256(elf(tail=b"ls 1")).digest()
    put(machine.root, "/usr/bin/cat", elf(tail=b"cat"))
    machine.learn()
    new = machine.install("ls", b"ls 2")
    with monkeypatch.context() as patch:
        cut_before(patch, cut)
        with pytest.raises(HardwareFault):
            upgrade(machine)
    upgrade(machine)
    assert machine.allows(new) == "packages"
    assert machine.allows(old) == ""
    assert new in {entry.sha256 for entry in kept(machine).entries}


def test_a_power_cut_after_a_removal_is_repaired_too(
    machine: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read anew then, and the baseline is what it was."""
    old = hashlib.sha256(elf(tail=b"ls 1")).digest()
    (machine.root / "usr/bin/ls").unlink()
    with monkeypatch.context() as patch:
        cut_before(patch, "exec.table")
        with pytest.raises(HardwareFault):
            upgrade(machine)
    assert machine.allows(old) == "packages"
    upgrade(machine)
    assert machine.allows(old) == ""


def cut_before(patch: pytest.MonkeyPatch, name: str) -> None:
    """No file is written from this one on."""
    write = policy_files.write_whole

    def stops(directory: str, written: str, data: bytes) -> None:
        if written == name:
            raise HardwareFault("power", code="EW-EXEC-013", next_step="wait")
        write(directory, written, data)

    for module in (policy_files, one_shot, compiling):
        patch.setattr(module, "write_whole", stops)
