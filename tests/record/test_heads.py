"""The second word about the heads: where it stands, and when it says nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgewarden.record import heads as heads_module
from edgewarden.record.heads import FILE, NAME, Heads
from edgewarden.wire.record import RecordClass

ALARM, BULK = int(RecordClass.ALARM), int(RecordClass.BULK)
SAID = {ALARM: (42, b"a" * 32), BULK: (7, b"b" * 32)}
LATER = {ALARM: (43, b"c" * 32), BULK: (7, b"b" * 32)}
ROOM_BYTES = 68
"""For a value in an inode of 256 bytes, behind the name (ext4, "In-inode extended attributes")."""


class World:
    """A spool's folder with two logs, on a filesystem with extended attributes or without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: dict[Path, bytes] = {}
        self.fault = 0
        self.sets = 0
        self.logs = {ALARM: folder / "alarm/1.seg-wal", BULK: folder / "bulk/9.seg-wal"}
        for log in self.logs.values():
            log.parent.mkdir()
            log.touch()

    def set(self, path: Path, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        assert (name, follow_symlinks) == (NAME, False)
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        self.kept[path] = value
        self.sets += 1

    def get(self, path: Path, name: str, *, follow_symlinks: bool) -> bytes:
        if path not in self.kept:
            raise OSError(errno.ENODATA, "no such attribute")
        return self.kept[path]

    def lose_logs(self) -> None:
        """As SQLite does with a log that it has copied, or that it cannot read."""
        self.kept.clear()
        for log in self.logs.values():
            log.unlink()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    one = World(tmp_path)
    monkeypatch.setattr(heads_module.os, "setxattr", one.set)
    monkeypatch.setattr(heads_module.os, "getxattr", one.get)
    return one


def test_what_was_written_is_said_again_and_costs_no_file(world: World) -> None:
    one = Heads(world.folder)
    assert one.read() == {}
    one.write(SAID, world.logs)
    one.write(LATER, world.logs)
    assert world.sets == 3, "a class whose head is where it was costs nothing"
    assert not (world.folder / FILE).exists()
    assert all(len(value) <= ROOM_BYTES for value in world.kept.values())
    assert Heads(world.folder).read() == LATER


def test_a_new_log_is_told_what_the_last_one_was(world: World) -> None:
    one = Heads(world.folder)
    one.write(SAID, world.logs)
    logs = {**world.logs, ALARM: world.folder / "alarm/8.seg-wal"}
    logs[ALARM].touch()
    one.write(SAID, logs)
    assert world.kept[logs[ALARM]] == world.kept[world.logs[ALARM]]


def test_a_start_keeps_it_before_the_logs_are_touched(world: World) -> None:
    Heads(world.folder).write(SAID, world.logs)
    assert Heads(world.folder).read() == SAID
    world.lose_logs()
    assert Heads(world.folder).read() == SAID, "and it ends before it commits anything"


@pytest.mark.parametrize("fault", [errno.ENOTSUP, errno.EPERM, errno.ENOSPC])
def test_without_attributes_it_is_a_file(world: World, fault: int) -> None:
    world.fault = fault
    one = Heads(world.folder)
    one.write(SAID, world.logs)
    one.write(LATER, world.logs)
    assert Heads(world.folder).read() == LATER


def test_the_file_of_the_version_before_is_read(world: World) -> None:
    world.fault = errno.ENOTSUP
    Heads(world.folder).write(SAID, world.logs)
    world.fault = 0
    again = Heads(world.folder)
    assert again.read() == SAID
    again.write(LATER, world.logs)
    assert Heads(world.folder).read() == LATER


def test_the_later_of_both_is_believed(world: World) -> None:
    Heads(world.folder).write(LATER, world.logs)
    world.fault = errno.ENOTSUP
    Heads(world.folder).write(SAID, world.logs)
    assert Heads(world.folder).read() == LATER


@pytest.mark.parametrize("at", [0, 5, 20, 43])
def test_what_was_altered_says_nothing(world: World, at: int) -> None:
    Heads(world.folder).write(SAID, world.logs)
    value = bytearray(world.kept[world.logs[ALARM]])
    value[at] ^= 1
    world.kept[world.logs[ALARM]] = bytes(value)
    assert Heads(world.folder).read() == {BULK: SAID[BULK]}
    world.kept[world.logs[BULK]] = b""
    (world.folder / FILE).unlink()
    assert Heads(world.folder).read() == {}
