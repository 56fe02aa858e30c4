"""From a policy's text to the kernel's answer: real packages by the real dpkg on a filesystem of
the test's own, learned, compiled, and enforced by a real gate.

Rows A9 (owner package and usrmerge alias: one allow and one deny) and L5 (an upgrade under enforce
without a denial of what it brought).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.exec_world import World, loop_ext4, world
from tests.system.test_dpkg_hook import Debian

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount", "dpkg")

TOUCH = Path("/bin/touch").read_bytes()
ONE, TWO, OWN = (TOUCH + tail for tail in (b"1", b"2", b"own"))
PACKAGES = '[[program]]\nname = "packages"\npackage = "*"\n'


class Enforced:
    """A Debian tree on a disk that gate watches."""

    def __init__(self, disk: World, where: Path, folder: Path) -> None:
        self.disk = disk
        self.tree = where / "tree"
        self.debian = Debian(folder, self.tree, disk.state, str(disk.run))
        with self.debian.settings.open("a") as file:
            file.write(f'filesystems = ["{where}"]\nmode = "observe"\n')
        self.policy = folder / "policy.toml"
        self.debian.install(self.debian.package("1", ONE))
        self.put("own", OWN)
        disk.enforcing()

    def put(self, name: str, content: bytes) -> Path:
        path = self.tree / "usr/bin" / name
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    def outcome(self, path: str) -> str:
        return self.disk.outcome([self.tree / path])


@pytest.fixture
def enforced(tmp_path: Path) -> Iterator[Enforced]:
    with loop_ext4() as where, world(where) as made:
        os.chmod(where, 0o755)
        yield Enforced(made, where, tmp_path)


def test_a9_the_owner_package_and_both_of_its_names(enforced: Enforced) -> None:
    enforced.policy.write_text(PACKAGES)
    assert enforced.outcome("usr/bin/hello") == "denied", "nothing is learned yet"
    enforced.debian.learn()
    assert enforced.outcome("usr/bin/hello") == "ran"
    assert enforced.outcome("bin/hello") == "ran"
    assert enforced.outcome("usr/bin/own") == "denied"
    # the package lists /bin/hello; a rule by either name is the same
    for name in ("/bin/hello", "/usr/bin/hello"):
        enforced.policy.write_text(f'[[program]]\nname = "x"\npath = "{name}"\n')
        enforced.debian.learn()
        assert enforced.outcome("usr/bin/hello") == "ran"
        assert enforced.outcome("usr/bin/own") == "denied"


def test_a_name_gives_nothing_and_takes_nothing(enforced: Enforced) -> None:
    """Content is compared: the name of an allowed program does not help, another name does not
    hurt."""
    enforced.policy.write_text('[[program]]\nname = "x"\npath = "/usr/bin/hello"\n')
    enforced.debian.learn()
    os.link(enforced.tree / "usr/bin/hello", enforced.tree / "usr/bin/other")
    assert enforced.outcome("usr/bin/other") == "ran"
    (enforced.tree / "usr/bin/hello").rename(enforced.tree / "usr/bin/gone")
    (enforced.tree / "usr/bin/own").rename(enforced.tree / "usr/bin/hello")
    assert enforced.outcome("usr/bin/hello") == "denied"


def test_the_first_rule_decides_in_the_kernel_too(enforced: Enforced) -> None:
    deny = '[[program]]\nname = "no"\naction = "deny"\npath = "/bin/hello"\n'
    enforced.policy.write_text(deny + PACKAGES)
    enforced.debian.learn()
    assert enforced.outcome("usr/bin/hello") == "denied"
    enforced.policy.write_text(PACKAGES + deny)
    enforced.debian.learn()
    assert enforced.outcome("usr/bin/hello") == "ran"


def test_l5_an_upgrade_under_enforce_denies_nothing_that_it_brought(enforced: Enforced) -> None:
    enforced.policy.write_text(PACKAGES)
    enforced.debian.learn()
    assert enforced.outcome("usr/bin/hello") == "ran"
    before = enforced.disk.status()
    enforced.debian.install(enforced.debian.package("2", TWO))
    assert enforced.outcome("usr/bin/hello") == "ran"
    after = enforced.disk.status()
    assert (after.denied, after.armed) == (before.denied, True)
    assert after.generation > before.generation
    enforced.put("old", ONE)
    assert enforced.outcome("usr/bin/old") == "denied", "the old version is not in the package"
