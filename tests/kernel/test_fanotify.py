"""fanotify: what the kernel writes is read strictly, and marks mean what we say they mean."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import HardwareFault
from edgewarden.kernel.fanotify import (
    FAN_OPEN_EXEC,
    FAN_OPEN_EXEC_PERM,
    UNTOLD,
    USUAL,
    USUAL_RECORD,
    USUAL_RECORD_AT,
    Group,
    open_group,
    parse_events,
    usual_head,
)
from edgewarden.kernel.lease import ReadLease, ignore_lease_breaks
from edgewarden.kernel.writers import Writers, _handles_in, handle_of
from tests.system.exec_world import loop_ext4, private_tmpfs
from tests.waiting import wait_until


def record(length: int = 24, version: int = 3, metadata: int = 24, tail: bytes = b"") -> bytes:
    return struct.pack("=IBBHQii", length, version, 0, metadata, FAN_OPEN_EXEC, 9, 42) + tail


PIDFD = struct.pack("=BBHi", 4, 0, 8, 11)


def test_events_are_read_with_and_without_a_pidfd() -> None:
    plain, carrying = parse_events(record() + record(32, tail=PIDFD))
    assert (plain.fd, plain.pid, plain.pidfd, plain.wants_answer) == (9, 42, UNTOLD, False)
    assert (carrying.fd, carrying.pid, carrying.pidfd) == (9, 42, 11)


def test_an_unknown_information_record_is_stepped_over() -> None:
    (event,) = parse_events(record(24 + 6 + 8, tail=struct.pack("=BBHH", 99, 0, 6, 0) + PIDFD))
    assert event.pidfd == 11


@pytest.mark.parametrize(
    "data",
    [
        record()[:-1],
        record(version=4),
        record(metadata=32),
        record(length=23),
        record(length=25),
        record(length=0),
        record(26, tail=b"\4\0"),
        record(32, tail=struct.pack("=BBHi", 4, 0, 12, 11)),
        record(32, tail=struct.pack("=BBHi", 4, 0, 0, 11)),
        record(36, tail=struct.pack("=BBHQ", 4, 0, 12, 11)),
    ],
)
def test_another_abi_is_refused(data: bytes) -> None:
    with pytest.raises(HardwareFault):
        list(parse_events(data))


@pytest.mark.parametrize("mask", [FAN_OPEN_EXEC, FAN_OPEN_EXEC_PERM])
def test_the_short_way_to_read_the_usual_event_reads_what_the_long_one_does(mask: int) -> None:
    usual = struct.pack("=IBBHQii", 32, 3, 0, 24, mask, 9, 42) + PIDFD
    assert usual.startswith(usual_head(mask))
    assert usual.startswith(USUAL_RECORD, USUAL_RECORD_AT)
    (event,) = parse_events(usual)
    assert USUAL.unpack(usual) == (event.fd, event.pid, event.pidfd)
    for at in (*range(16), *range(USUAL_RECORD_AT, USUAL_RECORD_AT + len(USUAL_RECORD))):
        other = bytearray(usual)
        other[at] ^= 0x80
        assert not (
            other.startswith(usual_head(mask)) and other.startswith(USUAL_RECORD, USUAL_RECORD_AT)
        ), at


@pytest.mark.needs("root", "fanotify-permission")
def test_a_bell_wakes_who_sleeps_in_a_read_and_is_never_given_out() -> None:
    memory = os.memfd_create("bell")
    bell = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)
    group = open_group(permission=True)
    try:
        group.hang_bell(bell)
        before = sorted(os.listdir("/proc/self/fd"))
        os.pwrite(bell, b"!", 0)
        os.set_blocking(group.fd, True)
        assert group.read() == []
        os.set_blocking(group.fd, False)
        assert group.read() == []
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        group.close()
        os.close(bell)
        os.close(memory)


@given(st.binary(max_size=100))
def test_garbage_raises_only_a_hardware_fault(garbage: bytes) -> None:
    try:
        events = list(parse_events(garbage))
    except HardwareFault:
        return
    assert len(events) * 24 <= len(garbage)


@pytest.fixture
def where() -> Iterator[Path]:
    with private_tmpfs() as mounted:
        yield mounted


@pytest.fixture
def notify() -> Iterator[Group]:
    group = open_group(permission=False)
    yield group
    group.close()


@pytest.mark.needs("root", "fanotify-permission")
def test_a_notify_group_cannot_hold_a_permission_mark(where: Path, notify: Group) -> None:
    """What learn and observe rest on: the kernel, not our care, keeps them from delaying."""
    with pytest.raises(HardwareFault) as caught:
        notify.mark(str(where), FAN_OPEN_EXEC_PERM)
    assert caught.value.fields["errno"] == errno.EINVAL


@pytest.mark.needs("root", "fanotify-permission")
def test_a_notify_event_names_file_and_process(where: Path, notify: Group) -> None:
    program = where / "tool"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    notify.mark(str(where), FAN_OPEN_EXEC)
    child = subprocess.Popen([program])
    assert child.wait(30) == 0
    events = notify.read()
    try:
        assert [e.pid for e in events] == [child.pid]
        assert os.fstat(events[0].fd).st_ino == program.stat().st_ino
        assert not events[0].wants_answer
        assert not events[0].is_alive()
    finally:
        for event in events:
            event.close()
    assert notify.read() == []


@pytest.mark.needs("root", "fanotify-permission")
def test_a_mark_covers_the_filesystem_through_any_mount(where: Path, notify: Group) -> None:
    program = where / "tool"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    elsewhere = where / "elsewhere"
    elsewhere.mkdir()
    notify.mark(str(where), FAN_OPEN_EXEC)
    script = f"mount --bind {where} {elsewhere} && {elsewhere}/tool"
    subprocess.run(["unshare", "-m", "sh", "-c", script], check=True, timeout=30)
    events = notify.read()
    for event in events:
        event.close()
    assert len(events) == 1


@pytest.mark.needs("root")
def test_a_path_that_is_not_there_is_a_named_refusal(notify: Group) -> None:
    with pytest.raises(HardwareFault) as caught:
        notify.mark("/nowhere/at/all", FAN_OPEN_EXEC)
    assert caught.value.fields["call"] == "fanotify_mark"


@pytest.mark.needs("root", "fanotify-permission")
def test_marks_do_not_keep_a_filesystem_mounted() -> None:
    group = open_group(permission=False)
    try:
        with private_tmpfs() as where:
            group.mark(str(where), FAN_OPEN_EXEC)
            subprocess.run(["umount", where], check=True)
            wait_until(lambda: not os.path.ismount(where))
            subprocess.run(["mount", "-t", "tmpfs", "ew-again", where], check=True)
    finally:
        group.close()


@pytest.mark.needs("root", "loop-mount")
def test_who_has_written_is_told_before_a_lease_can_be_taken() -> None:
    """By a descriptor, by a mapping that outlives it, by another name of the same file."""
    ignore_lease_breaks()
    with loop_ext4() as where:
        path, other = where / "one", where / "two"
        path.write_bytes(b"1" * 4096)
        os.link(path, other)
        folder = os.open(where, os.O_PATH | os.O_DIRECTORY)
        reader = os.open(path, os.O_RDONLY)
        writers = Writers()
        try:
            writers.mark(folder)
            assert writers.heard() == []
            writer = os.open(other, os.O_RDWR)
            lease = ReadLease(reader)
            lease.take()
            assert lease.writer_lives
            assert writers.heard() == []
            with mmap.mmap(writer, 4096) as mapped:
                os.close(writer)
                mapped[0:1] = b"2"
                assert writers.heard() == []
            lease.take()
            assert lease.granted
            assert writers.heard() == [handle_of(reader)]
            assert writers.heard() == []
            path.read_bytes()
            assert writers.heard() == []
        finally:
            writers.close()
            os.close(reader)
            os.close(folder)


@pytest.mark.needs("root", "loop-mount")
def test_more_writers_than_the_kernel_remembers_are_told_as_that() -> None:
    limit = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
    with loop_ext4("-N", str(limit + 1000)) as where:
        folder = os.open(where, os.O_PATH | os.O_DIRECTORY)
        writers = Writers()
        try:
            writers.mark(folder)
            for number in range(limit + 1):
                os.close(os.open(where / str(number), os.O_WRONLY | os.O_CREAT, 0o600))
            assert writers.heard() is None
            while writers.heard() != []:
                pass
        finally:
            writers.close()
            os.close(folder)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=IBBHQii", 24, 3, 0, 24, 0x4000, -1, 0),  # FAN_Q_OVERFLOW
        struct.pack("=IBBHQii", 24, 3, 0, 24, 8, -1, 0),
        struct.pack("=IBBHQii", 24, 4, 0, 24, 8, -1, 0),
        struct.pack("=IBBHQiiBBH8sIi", 48, 3, 0, 24, 8, -1, 0, 1, 0, 20, b"", 0, 255),
        struct.pack("=IBBHQiiBBH8sIi", 48, 3, 0, 24, 8, -1, 0, 1, 0, 24, b"", 8, 1),
        struct.pack("=IBBHQiiBBH8sIi", 48, 3, 0, 24, 8, -1, 0, 9, 0, 20, b"", 0, 1),
    ],
)
def test_what_does_not_name_a_writer_is_not_passed_over(data: bytes) -> None:
    assert _handles_in(data) is None


def test_a_file_that_cannot_be_opened_for_us_ends_nothing(tmp_path: Path) -> None:
    """read(2) of a group fails of what the file of one event is; of what we are it must be said."""
    memory, folder = os.open("/proc/self/mem", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    deaf = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (memory, folder):  # EIO at address 0, EISDIR
            assert Group(fd, True, True).read() == []
        with pytest.raises(HardwareFault) as caught:
            Group(deaf, True, True).read()
        assert caught.value.fields["errno"] == errno.EBADF
    finally:
        for fd in (memory, folder, deaf):
            os.close(fd)
