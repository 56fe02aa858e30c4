"""A segment is read as it was at one moment, whatever its writer does meanwhile."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.ports import Stored
from edgewarden.record import beside
from edgewarden.record.beside import opened
from edgewarden.record.log import LOG_BYTES
from edgewarden.record.rows import Mark, read_rows
from edgewarden.record.segment import Segment, side_files
from edgewarden.wire.record import RecordClass, record_hash

BULK = int(RecordClass.BULK)


class Writer:
    """Commits records behind one another."""

    def __init__(self, path: Path) -> None:
        self.segment = Segment.create(path, {BULK: Mark()})
        self.seq = 0

    def write(self, count: int) -> None:
        for _ in range(count):
            self.seq += 1
            one = Stored(BULK, self.seq, b"%d " % self.seq + bytes(500))
            self.segment.commit([one], {BULK: Mark(one.seq, record_hash(one.data))})


def seen(path: Path) -> list[int]:
    with opened(path) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return [row.seq for row in read_rows(db, BULK, 0, 1 << 62)]


@pytest.mark.parametrize("which", [".seg", "-wal"])
@pytest.mark.parametrize("commits", [1, 40, LOG_BYTES // 1000])
def test_what_is_written_between_two_copies_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, commits: int
) -> None:
    """So many commits that the log is copied into the file, and begun anew."""
    path = tmp_path / "x.seg"
    writer = Writer(path)
    writer.write(60)
    copy, left = shutil.copy2, [1]

    def meanwhile(source: Path, target: Path) -> None:
        if source.name.endswith(which) and left:
            left.pop()
            half = source.read_bytes()
            writer.write(commits)
            target.write_bytes(half[: len(half) // 2] + source.read_bytes()[len(half) // 2 :])
        else:
            copy(source, target)

    monkeypatch.setattr(beside.shutil, "copy2", meanwhile)
    with closing(writer.segment):
        found = seen(path)
        assert not left
        assert found == list(range(1, len(found) + 1))
        assert 60 <= len(found) <= writer.seq


def test_what_never_stands_still_is_a_refusal_with_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.seg"
    writer = Writer(path)
    writer.write(1)
    heads = iter(range(1000))
    monkeypatch.setattr(beside, "_head_of", lambda log: b"%d" % next(heads))
    with closing(writer.segment), pytest.raises(HardwareFault, match="faster"):
        seen(path)


def test_a_log_that_goes_away_meanwhile_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.seg"
    writer = Writer(path)
    writer.write(20)
    copy = shutil.copy2

    def meanwhile(source: Path, target: Path) -> None:
        copy(source, target)
        if side_files(path)[0].exists():
            writer.segment.seal()
            writer.segment.close()

    monkeypatch.setattr(beside.shutil, "copy2", meanwhile)
    assert side_files(path)[0].stat().st_size
    assert seen(path) == list(range(1, 21))
