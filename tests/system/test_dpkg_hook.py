"""Row L5 with the real dpkg, in a tree of its own: what an upgrade brings is what may run after it,
and what somebody else put there is not.

dpkg runs our hook the way the package installs it (deploy/deb/dpkg.cfg.d), with a stand-in for
/usr/bin/edgewarden that looks at the tree in place of this machine.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgewarden.baseline.learn import Machine
from edgewarden.daemon.baseline import learn_system
from edgewarden.errors import OperatorFault
from edgewarden.judge.exec_table import Table
from edgewarden.wire.baseline import Baseline
from tests.fakes.subject import NOBODY

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "deploy/deb/dpkg.cfg.d/edgewarden"
STAND_IN = """\
#!/bin/sh
echo "$*" >>{log}
case "$*" in *--from-dpkg*) exec {python} -c '
from edgewarden.baseline.learn import Machine
from edgewarden.daemon.baseline import rebaseline
taken = rebaseline("{settings}", Machine("{tree}", ""))
with open("{log}.findings", "w") as out:
    print(*[f"{{f.kind}} {{f.path}}" for f in taken.findings], sep="\\n", file=out)
';; esac
"""
pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("dpkg")]


class Debian:
    """A tree that dpkg installs into."""

    def __init__(
        self, folder: Path, tree: Path | None = None, state: Path | None = None, run: str = ""
    ) -> None:
        self.folder = folder
        self.tree = tree or folder / "tree"
        self.state = state or folder / "state"
        for name in ("usr/bin", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (self.tree / name).mkdir(parents=True)
        (self.tree / "bin").symlink_to("usr/bin")
        (self.tree / "var/lib/dpkg/status").touch()
        self.settings = folder / "edgewarden.toml"
        self.settings.write_text(
            f'[paths]\nstate = "{self.state}"\nrun = "{run or folder / "run"}"\n'
            f'[exec]\npolicy = "{folder}/policy.toml"\nlink_user = "no-such-user"\n'
        )
        self.log = folder / "log"
        command = folder / "edgewarden"
        command.write_text(
            STAND_IN.format(
                log=self.log, python=sys.executable, settings=self.settings, tree=self.tree
            )
        )
        command.chmod(0o755)
        self.hooks = [
            f"--{line.replace('/usr/bin/edgewarden', str(command))}"
            for line in HOOK.read_text().splitlines()
            if not line.startswith("#")
        ]

    def package(self, version: str, program: bytes) -> Path:
        """A package whose program is listed under /bin, as before merged /usr."""
        build = self.folder / f"build-{version}"
        (build / "DEBIAN").mkdir(parents=True)
        (build / "DEBIAN/control").write_text(
            f"Package: ew-hello\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
        )
        (build / "bin").mkdir()
        (build / "bin/hello").write_bytes(program)
        (build / "bin/hello").chmod(0o755)
        sums = f"{hashlib.md5(program).hexdigest()}  bin/hello\n"
        (build / "DEBIAN/md5sums").write_text(sums)
        deb = self.folder / f"hello_{version}.deb"
        self.run("dpkg-deb", "--root-owner-group", "--build", str(build), str(deb))
        return deb

    def install(self, deb: Path) -> None:
        force = "--force-not-root,script-chrootless,depends,bad-path"
        self.run("dpkg", f"--root={self.tree}", force, *self.hooks, "--install", str(deb))

    def run(self, *words: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=300, check=False, env=env
        )
        assert done.returncode == 0, done.stderr

    def learn(self) -> None:
        learn_system(
            str(self.settings), (), full=False, progress=lambda a, b: None,
            machine=Machine(str(self.tree), ""),
        )  # fmt: skip

    def rule_of(self, content: bytes) -> str:
        table = Table.load((self.state / "policy/exec.table").read_bytes())
        rule = table.decide(hashlib.sha256(content).digest(), NOBODY)
        return rule.name if rule is not None and rule.allow else ""


ONE, TWO, OWN = b"#!/bin/sh\necho 1\n", b"#!/bin/sh\necho 2\n", b"#!/bin/sh\necho own\n"


def test_l5_an_upgrade_by_the_real_dpkg_is_in_the_table_when_it_ends(tmp_path: Path) -> None:
    debian = Debian(tmp_path)
    with pytest.raises(OperatorFault):
        debian.learn()  # no package yet: no database
    debian.install(debian.package("1", ONE))
    assert debian.log.read_text().split("\n")[:2] == [
        "policy rebaseline --begin", "policy rebaseline --from-dpkg",
    ]  # fmt: skip
    debian.learn()
    assert debian.rule_of(ONE) == "packages"
    (debian.tree / "usr/bin/own").write_bytes(OWN)
    (debian.tree / "usr/bin/own").chmod(0o755)
    debian.install(debian.package("2", TWO))
    assert debian.rule_of(TWO) == "packages"
    assert debian.rule_of(ONE) == ""
    assert debian.rule_of(OWN) == ""
    kept = Baseline.load((tmp_path / "state/policy/baseline").read_bytes())
    named = {(e.path, e.package) for e in kept.entries}
    assert ("/usr/bin/hello", "ew-hello") in named
    assert kept.aliases["/bin"] == "/usr/bin"


def test_l5_a_file_that_is_not_what_its_package_says_is_flagged(tmp_path: Path) -> None:
    debian = Debian(tmp_path)
    debian.install(debian.package("1", ONE))
    debian.learn()
    second = debian.package("2", TWO)
    debian.install(second)
    (debian.tree / "usr/bin/hello").write_bytes(OWN)
    debian.run(*["sh", "-c", debian.hooks[1].partition("=")[2]])
    assert (tmp_path / "log.findings").read_text() == "differs /usr/bin/hello\n"
    assert debian.rule_of(OWN) == ""
    assert debian.rule_of(TWO) == "packages"


def test_a_hook_that_fails_does_not_fail_dpkg(tmp_path: Path) -> None:
    debian = Debian(tmp_path)
    (tmp_path / "edgewarden").write_text("#!/bin/sh\nexit 1\n")
    debian.install(debian.package("1", ONE))
