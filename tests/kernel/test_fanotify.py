"""fanotify: what the kernel writes is read strictly, and marks mean what we say they mean."""

from __future__ import annotations

import errno
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
    Group,
    open_group,
    parse_events,
)
from tests.system.exec_world import private_tmpfs
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
    assert child.wait(5) == 0
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
    subprocess.run(["unshare", "-m", "sh", "-c", script], check=True, timeout=5)
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
