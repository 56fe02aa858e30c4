"""The second word in its file, and an end in the middle of writing it: of the process between two
system calls, or of the power with part of the page on the disk.

The model: after a cut the file is what a call had left, or begins as after a call and goes on as
before it, at either length. Cut where a disk cuts, between sectors, it shows the word before or the
new one: not none, since it alone says which segment was being written. Cut at any byte, it shows no
third word.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edgewarden.record import heads as heads_module
from edgewarden.record.heads import FILE, Heads, Said
from edgewarden.record.segment import segment_name
from edgewarden.wire.record import RecordClass

SECTOR_BYTES = 512
"""The least that a disk writes as one."""


class Noting:
    """Stands for os in heads.py: what the file is after each call; attributes are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.states = [b""]

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if not callable(real):
            return real

        def called(*values: object, **named: object) -> object:
            if name == "setxattr":
                raise OSError(errno.ENOTSUP, "no attributes here")
            answer = real(*values, **named)
            now = self._path.read_bytes() if self._path.exists() else b""
            if now != self.states[-1]:
                self.states.append(now)
            return answer

        return called


def load(folder: Path, write: Callable[[], None]) -> None:
    """Classes begin, go on, and close their segments, in turns of one seed."""
    chance = random.Random(7)
    one, heads = Heads(folder), dict[int, tuple[int, bytes]]()
    logs = dict[int, Path]()
    for _ in range(120):
        c = chance.choice(list(RecordClass))
        if c in logs and chance.random() < 0.3:
            del logs[c]
            one.closing(c, heads[c])
        else:
            seq = heads.get(c, (0, b""))[0] + chance.randint(1, 9)
            heads[c] = seq, chance.randbytes(32)
            if c not in logs:
                name = segment_name(seq, chance.randbytes(32))
                logs[c] = folder / c.label / f"{name}-wal"
            one.write(heads, logs)
        write()


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """What the file was: before each time that it was written, and after each call of it."""
    noting = Noting(tmp_path / "spool" / FILE)
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(heads_module, "os", noting)
    found: list[list[bytes]] = []

    def write() -> None:
        found.append(noting.states)
        noting.states = noting.states[-1:]

    load(tmp_path / "spool", write)
    monkeypatch.undo()
    assert sum(len(states) > 1 for states in found) > 100
    return found[1:]


def after_a_cut(states: list[bytes], every_bytes: int) -> Iterator[bytes]:
    """All that the file can be."""
    yield from states
    for before, after in pairwise(states):
        for at in range(0, max(len(before), len(after)) + 1, every_bytes):
            mixed = after[:at] + before[at:]
            yield from (mixed[: len(before)], mixed[: len(after)])


def said(folder: Path, data: bytes) -> Said:
    (folder / FILE).write_bytes(data)
    return Heads(folder)._read_file()


def test_cut_between_sectors_or_calls_it_is_the_word_before_or_the_new_one(
    steps: list[list[bytes]], tmp_path: Path
) -> None:
    for states in steps:
        words = [said(tmp_path, states[0]), said(tmp_path, states[-1])]
        assert all(words)
        for data in after_a_cut(states, SECTOR_BYTES):
            assert said(tmp_path, data) in words


def test_cut_anywhere_it_is_no_third_word(steps: list[list[bytes]], tmp_path: Path) -> None:
    for states in steps:
        words = [{}, said(tmp_path, states[0]), said(tmp_path, states[-1])]
        for data in set(after_a_cut(states, 1)):
            assert said(tmp_path, data) in words


def test_without_its_sum_there_would_be_a_third_word(
    steps: list[list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the model does tear what is read."""
    monkeypatch.setattr(heads_module.zlib, "crc32", lambda *_: 0)
    third = 0
    for states in steps[:20]:
        states = [data[:-4] + bytes(4) for data in states]
        words = [{}, said(tmp_path, states[0]), said(tmp_path, states[-1])]
        third += any(said(tmp_path, data) not in words for data in after_a_cut(states, 1))
    assert third
