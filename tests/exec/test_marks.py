"""What may be marked: never what holds /, never what can hang, all or nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.exec.marks import arm, check_watchable, holds_root, root_superblocks
from edgewarden.exec.policy_files import write_policy, write_whole
from edgewarden.kernel.mounts import AT_FDCWD, Filesystem, Mounts
from tests.system.exec_world import private_tmpfs


def opener(dir_fd: int, name: str, flags: int) -> int:
    assert flags & os.O_PATH or dir_fd != AT_FDCWD
    return os.open(name, flags, dir_fd=None if dir_fd == AT_FDCWD else dir_fd)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield Mounts(proc_fd, opener)
    os.close(proc_fd)


@pytest.mark.parametrize(
    "kind", ["proc", "sysfs", "devpts", "fuse", "fuse.sshfs", "nfs4", "cifs", "9p", "unheard-of"]
)
def test_what_is_not_a_local_filesystem_is_refused(kind: str) -> None:
    with pytest.raises(OperatorFault) as caught:
        check_watchable("/x", Filesystem("0:1", kind, ()))
    assert caught.value.fields["name"] == "not_watchable"


class Btrfs(Mounts):
    """/data has an st_dev of its own and the superblock of /."""

    def __init__(self) -> None:
        pass

    def at(self, path: str) -> Filesystem:
        return Filesystem("0:7" if path == "/mnt" else "0:31", "btrfs", ())


def test_where_root_lives_is_told_by_the_superblock_whatever_st_dev_says() -> None:
    assert holds_root(["/mnt", "/data"], Btrfs())
    assert not holds_root(["/mnt"], Btrfs())
    assert holds_root(["/hidden"], Overlay(())), "what cannot be told may hold it"


class Overlay(Mounts):
    """A machine whose / is an overlay, as on a read-only Raspberry Pi OS."""

    def __init__(self, options: tuple[str, ...]) -> None:
        self.options = options

    def at(self, path: str) -> Filesystem:
        if path == "/":
            return Filesystem("0:40", "overlay", self.options)
        if path == "/hidden":
            raise OperatorFault("gone")
        return Filesystem(f"8:{path[-1]}", "ext4", ())


def test_layers_of_an_overlay_root_hold_root_too() -> None:
    layers = ("rw", "lowerdir=/l/1:/l/2", "upperdir=/u/3", "workdir=/w/3")
    assert root_superblocks(Overlay(layers)) == {"0:40", "8:1", "8:2", "8:3"}


def test_an_overlay_root_whose_layers_are_out_of_sight_cannot_be_enforced() -> None:
    with pytest.raises(OperatorFault) as caught:
        root_superblocks(Overlay(("lowerdir=/hidden",)))
    assert caught.value.fields["name"] == "root_layers_unknown"


@pytest.mark.needs("root", "fanotify-permission")
def test_enforce_on_root_is_refused_before_a_mark_exists(mounts: Mounts) -> None:
    against = OperatorFault("not observed", name="not_covered")
    with private_tmpfs() as where, pytest.raises(OperatorFault) as caught:
        arm([str(where), "/"], enforce=True, mounts=mounts, opener=opener, against_root=against)
    assert caught.value is against


@pytest.mark.needs("root", "fanotify-permission")
def test_in_learn_a_refused_path_leaves_the_others_watched(mounts: Mounts) -> None:
    with private_tmpfs() as where:
        paths = [str(where), "/proc", str(where / "gone")]
        armed = arm(paths, enforce=False, mounts=mounts, opener=opener)
        armed.close()
    assert armed.filesystems == [str(where)]
    assert [f.fields["name"] for _, f in armed.refused] == ["not_watchable", "absent"]
    assert not armed.group.permission


@pytest.mark.needs("root", "fanotify-permission")
def test_enforce_is_all_or_nothing(mounts: Mounts) -> None:
    with private_tmpfs() as where, pytest.raises(OperatorFault):
        arm([str(where), "/proc"], enforce=True, mounts=mounts, opener=opener)


def test_a_policy_is_written_whole_and_belongs_to_its_writer(tmp_path: Path) -> None:
    write_policy(str(tmp_path), b"table", b"config")
    write_policy(str(tmp_path), b"table 2", b"config 2")
    policy = tmp_path / "policy"
    assert sorted(p.name for p in policy.iterdir()) == ["exec.table", "gate.conf"]
    assert (policy / "exec.table").read_bytes() == b"table 2"
    status = (policy / "gate.conf").stat()
    assert stat.S_IMODE(status.st_mode) == 0o644
    assert status.st_uid == os.getuid()


def test_a_disk_that_refuses_leaves_the_last_policy(tmp_path: Path) -> None:
    write_whole(str(tmp_path), "exec.table", b"old")
    (tmp_path / ".exec.table.new").mkdir()
    with pytest.raises(HardwareFault):
        write_whole(str(tmp_path), "exec.table", b"new")
    assert (tmp_path / "exec.table").read_bytes() == b"old"
