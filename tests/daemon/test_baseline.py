"""Learning a system, what an upgrade may change of it, and what has changed since."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgewarden.baseline.learn import Machine
from edgewarden.daemon import baseline as one_shot
from edgewarden.daemon.baseline import Taken, compare, learn_system, rebaseline
from edgewarden.errors import OperatorFault
from edgewarden.judge.exec_table import Table
from edgewarden.settings.policy import load_policy
from edgewarden.settings.source import SourceFile
from edgewarden.settings.starting import starting_policy
from edgewarden.wire.baseline import Baseline, Entry
from tests.baseline.tree import elf, put, system
from tests.fakes.subject import NOBODY


class System:
    """A recorded tree with a state folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = system(folder / "root")
        self.policy = folder / "policy.toml"
        self.state = folder / "state/policy"
        self.settings = str(folder / "edgewarden.toml")
        Path(self.settings).write_text(
            f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n'
            f'[exec]\npolicy = "{self.policy}"\nlink_user = "no-such-user"\n'
        )
        self.machine = Machine(str(self.root), "")
        self.install("ls", b"ls 1")

    def install(self, name: str, tail: bytes) -> bytes:
        """What dpkg does with a new version of coreutils: another file, renamed into place."""
        data = elf(tail=tail)
        put(self.root, f"/usr/bin/{name}.dpkg-new", data).rename(self.root / "usr/bin" / name)
        sums = self.root / "var/lib/dpkg/info/coreutils.md5sums"
        sums.write_text(f"{hashlib.md5(data).hexdigest()}  bin/{name}\n")
        return hashlib.sha256(data).digest()

    def learn(self) -> Taken:
        return learn_system(
            self.settings, (), full=False, progress=lambda done, of: None, machine=self.machine
        )

    def upgrade(self) -> Taken | None:
        return rebaseline(self.settings, self.machine)

    def allows(self, digest: bytes) -> str:
        """Name of the rule that allows it to root."""
        table = Table.load((self.state / "exec.table").read_bytes())
        rule = table.decide(digest, NOBODY)
        return rule.name if rule is not None and rule.allow else ""


@pytest.fixture
def machine(tmp_path: Path) -> System:
    return System(tmp_path)


def test_learning_makes_a_baseline_a_policy_and_a_table(machine: System) -> None:
    put(machine.root, "/usr/local/bin/own", elf(tail=b"own"))
    put(machine.root, "/usr/bin/dpkg", elf(tail=b"changed by somebody"))
    taken = machine.learn()
    assert taken.started_policy
    assert (taken.compiled.rules, taken.compiled.generation) == (3, 1)
    kept = Baseline.load((machine.state / "baseline").read_bytes())
    assert {e.path for e in kept.entries} >= {"/usr/bin/ls", "/usr/local/bin/own"}
    assert machine.allows(hashlib.sha256(elf(tail=b"ls 1")).digest()) == "packages"
    assert machine.allows(hashlib.sha256(elf(tail=b"own")).digest()) == "local"
    assert machine.allows(hashlib.sha256(elf(tail=b"never seen")).digest()) == ""
    assert not machine.learn().started_policy
    assert (machine.state / "baseline").stat().st_mode & 0o777 == 0o644


def test_a_policy_that_somebody_wrote_is_not_touched(machine: System) -> None:
    machine.policy.write_text('[[program]]\nname = "mine"\npackage = "coreutils"\n')
    assert not machine.learn().started_policy
    assert "mine" in machine.policy.read_text()
    machine.policy.write_text("# only a comment, as the package ships it\n")
    assert machine.learn().started_policy


def test_l5_an_upgrade_is_taken_over_with_its_new_digest(machine: System) -> None:
    machine.learn()
    before = hashlib.sha256(elf(tail=b"ls 1")).digest()
    after = machine.install("ls", b"ls 2")
    assert machine.allows(after) == ""
    taken = machine.upgrade()
    assert taken is not None
    assert machine.allows(after) == "packages"
    assert machine.allows(before) == "", "the old version is no longer on the system"
    assert taken.compiled.generation == 2
    assert taken.held == ()


def test_l5_what_dpkg_does_not_vouch_for_is_held_and_flagged(machine: System) -> None:
    """A file beside the upgrade, and one that is not what the package says, stay out."""
    put(machine.root, "/usr/local/bin/own", elf(tail=b"own 1"))
    machine.learn()
    put(machine.root, "/usr/local/bin/own", elf(tail=b"own 2"))
    put(machine.root, "/usr/local/bin/dropped", elf(tail=b"dropped"))
    put(machine.root, "/usr/bin/ls", elf(tail=b"not coreutils'"))
    taken = machine.upgrade()
    assert taken is not None
    assert [e.path for e in taken.held] == [
        "/usr/bin/ls", "/usr/local/bin/dropped", "/usr/local/bin/own",
    ]  # fmt: skip
    assert [(f.kind, f.path) for f in taken.findings] == [("differs", "/usr/bin/ls")]
    for tail in (b"own 2", b"dropped", b"not coreutils'"):
        assert machine.allows(hashlib.sha256(elf(tail=tail)).digest()) == ""
    assert machine.allows(hashlib.sha256(elf(tail=b"own 1")).digest()) == "local"


def test_l5_a_conffile_that_somebody_changed_waits_for_a_person(machine: System) -> None:
    """People may change it; that dpkg ran for something else says nothing about who did."""
    name = "/etc/cron.daily/dpkg"
    machine.learn()
    changed = b"#!/bin/sh\n# by whom?\n"
    put(machine.root, f"{name}.tmp", changed).rename(machine.root / name[1:])
    ls = machine.install("ls", b"ls 2")
    for _ in range(2):  # the second one looks into folders that changed
        taken = machine.upgrade()
        assert taken is not None
        assert [e.path for e in taken.held] == [name]
        assert [(f.kind, f.path) for f in taken.findings] == [("conffile", name)]
        assert machine.allows(hashlib.sha256(changed).digest()) == ""
        assert machine.allows(ls) == "packages"
    machine.learn()
    assert machine.allows(hashlib.sha256(changed).digest()) == "packages"
    taken = machine.upgrade()
    assert taken is not None
    assert taken.held == (), "a person has seen it"


def test_l5_a_new_conffile_of_its_package_is_taken_over(machine: System) -> None:
    name, status = "/etc/cron.daily/dpkg", machine.root / "var/lib/dpkg/status"
    machine.learn()
    fresh = b"#!/bin/sh\n# of the new version\n"
    put(machine.root, name, fresh)
    said = status.read_text()
    line = next(one for one in said.split("\n") if one.startswith(f" {name} "))
    status.write_text(said.replace(line, f" {name} newconffile"))  # unpacked, not yet configured
    taken = machine.upgrade()
    assert taken is not None
    assert [e.path for e in taken.held] == [name]
    status.write_text(said.replace(line, f" {name} {hashlib.md5(fresh).hexdigest()}"))
    taken = machine.upgrade()
    assert taken is not None
    assert taken.held == ()
    assert machine.allows(hashlib.sha256(fresh).digest()) == "packages"


def test_an_upgrade_where_nobody_learned_changes_nothing(machine: System) -> None:
    assert machine.upgrade() is None
    assert not (machine.state / "exec.table").exists()


def test_the_difference_since_is_told(machine: System) -> None:
    with pytest.raises(OperatorFault) as caught:
        compare(machine.settings, full=False, progress=lambda a, b: None, machine=machine.machine)
    assert caught.value.code == "EW-POL-004"
    machine.learn()

    def look() -> tuple[list[str], list[str], list[str], str]:
        found = compare(
            machine.settings, full=False, progress=lambda a, b: None, machine=machine.machine
        )
        files = found.files
        return (
            [e.path for e in files.added],
            [e.path for e in files.removed],
            [new.path for _, new in files.changed],
            found.table,
        )

    assert look() == ([], [], [], "same")
    put(machine.root, "/usr/local/bin/new", elf(tail=b"new"))
    put(machine.root, "/usr/bin/ls", elf(tail=b"other"))
    assert look() == (["/usr/local/bin/new"], [], ["/usr/bin/ls"], "same")
    (machine.root / "usr/bin/ls").unlink()
    machine.policy.write_text('[[program]]\nname = "x"\npackage = "dash"\n')
    assert look() == (["/usr/local/bin/new"], ["/usr/bin/ls"], [], "differs")


def test_a_rule_that_needs_a_baseline_is_not_compiled_without_one(machine: System) -> None:
    machine.policy.write_text('[[program]]\nname = "x"\npackage = "dash"\n')
    with pytest.raises(OperatorFault) as caught:
        one_shot.compile_policy(machine.settings)
    assert caught.value.code == "EW-POL-004"
    assert not (machine.state / "exec.table").exists()


@pytest.mark.parametrize("damage", ["bytes", "mode", "link"])
def test_a_baseline_that_others_could_write_is_not_believed(machine: System, damage: str) -> None:
    machine.learn()
    file = machine.state / "baseline"
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "mode":
        file.chmod(0o666)
    else:
        file.rename(machine.state / "other")
        file.symlink_to("other")
    with pytest.raises(OperatorFault) as caught:
        one_shot.compile_policy(machine.settings)
    assert caught.value.code == "EW-POL-003"


def test_a_damaged_stamp_file_only_costs_time(machine: System) -> None:
    machine.learn()
    (machine.state / "baseline.seen").write_bytes(b"garbage")
    assert machine.learn().hashed == 1


def test_the_generation_survives_a_lost_table(machine: System) -> None:
    machine.learn()
    machine.policy.write_text('[[program]]\nname = "x"\npackage = "coreutils"\n')
    assert machine.learn().compiled.generation == 2
    (machine.state / "exec.table").unlink()
    assert machine.learn().compiled.generation == 3


def test_the_policy_to_start_from_can_be_read_whatever_the_names() -> None:
    odd = ["/opt/a b/x", '/opt/"q"/x', "/opt/*/x", "/opt/\udcff/x", "/opt/ü/x", "/opt/ok/x"]
    entries = [Entry(path, bytes(32), 1, "program") for path in sorted(odd)]
    entries += [Entry(f"/usr/bin/c{i:03}", bytes(32), 1, "program", "p1", True) for i in range(300)]
    policy = load_policy(SourceFile("p", starting_policy(Baseline(tuple(entries), {}))))
    assert [rule.name for rule in policy.program] == ["packages", "changed", "changed-2", "local"]
    assert policy.program[-1].path == ("/opt/a b/**", "/opt/ok/**")
