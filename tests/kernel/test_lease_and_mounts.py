"""Leases prove that nobody writes; filesystems are told apart by their superblock."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault
from edgewarden.kernel.lease import ReadLease, ignore_lease_breaks
from edgewarden.kernel.mounts import Mounts, parse_mountinfo
from edgewarden.kernel.process import open_pidfd, peer_of, signal_pidfd
from tests.system.exec_world import loop_ext4, private_tmpfs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    ignore_lease_breaks()
    path = tmp_path / "program"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDONLY)
    yield path, fd
    os.close(fd)


def test_a_quiet_file_can_be_leased(file: tuple[Path, int]) -> None:
    lease = ReadLease(file[1])
    lease.take()
    assert lease.held()
    assert not lease.writer_lives
    lease.release()
    assert not lease.held()


def test_a_writer_is_seen(file: tuple[Path, int]) -> None:
    path, fd = file
    with path.open("r+b"):
        lease = ReadLease(fd)
        lease.take()
        assert lease.writer_lives
        assert not lease.held()


def test_a_writable_mapping_is_seen_after_its_descriptor_is_closed(file: tuple[Path, int]) -> None:
    path, fd = file
    with path.open("r+b") as writer:
        mapping = mmap.mmap(writer.fileno(), 0)
    lease = ReadLease(fd)
    lease.take()
    assert lease.writer_lives
    mapping.close()
    lease = ReadLease(fd)
    lease.take()
    assert lease.held()
    lease.release()


def test_who_asks_to_write_waits_and_is_noticed(file: tuple[Path, int]) -> None:
    path, fd = file
    lease = ReadLease(fd)
    lease.take()
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    assert not lease.held()
    opened = threading.Event()

    def write() -> None:
        os.close(os.open(path, os.O_WRONLY))
        opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not opened.wait(0.1)
    lease.release()
    assert opened.wait(30)
    writer.join(60)


@pytest.mark.needs("root", "loop-mount")
@pytest.mark.parametrize(("kind", "traceless"), [("tmpfs", True), ("ext4", False)])
def test_where_a_mapped_store_leaves_no_trace(kind: str, traceless: bool) -> None:
    """Why exec/marks.py CACHEABLE has no tmpfs: content changes, no time and no size does."""
    with private_tmpfs() if kind == "tmpfs" else loop_ext4() as where:
        path = where / "program"
        path.write_bytes(b"A" * 8192)
        os.utime(path, ns=(1, 1))
        before = path.stat()
        with path.open("r+b") as writer, mmap.mmap(writer.fileno(), 0) as mapping:
            assert mapping[0] == ord("A")  # the page is mapped by a read
            mapping[0] = ord("B")
        after = path.stat()
        assert path.read_bytes()[:2] == b"BA"
        same = (before.st_ctime_ns, before.st_mtime_ns) == (after.st_ctime_ns, after.st_mtime_ns)
        assert same is traceless


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield Mounts(proc_fd)
    os.close(proc_fd)


@pytest.mark.needs("root")
def test_a_filesystem_is_its_superblock_through_every_mount(mounts: Mounts) -> None:
    with private_tmpfs() as where:
        inner = where / "inner"
        inner.mkdir()
        found = mounts.at(str(where))
        assert found.kind == "tmpfs"
        assert found.device != mounts.at("/").device
        assert mounts.at(str(inner)).device == found.device
    with pytest.raises(OperatorFault) as caught:
        mounts.at(str(where / "gone"))
    assert caught.value.fields["name"] == "absent"


def test_a_mountinfo_line_is_read_whatever_its_optional_fields() -> None:
    line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
    found = parse_mountinfo(line)
    assert found is not None
    assert found[0] == "36"
    assert (found[1].device, found[1].kind) == ("98:0", "ext3")
    assert found[1].options == ("rw", "errors=continue")
    assert parse_mountinfo("36 35 98:0 /") is None
    assert parse_mountinfo("") is None


def test_a_peer_is_who_the_kernel_says() -> None:
    import _socket

    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        lean = _socket.socket(fileno=os.dup(left.fileno()))
        peer = peer_of(lean)
        lean.close()
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())


def test_a_pidfd_does_not_reach_a_successor() -> None:
    child = subprocess.Popen(["sleep", "60"])
    pidfd = open_pidfd(child.pid)
    try:
        assert signal_pidfd(pidfd, 0)
        child.kill()
        child.wait(30)
        assert not signal_pidfd(pidfd, 9)
    finally:
        os.close(pidfd)
