"""The log of a segment grows by steps, and what is added says nothing."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from edgewarden.ports import Stored
from edgewarden.record import log as log_module
from edgewarden.record.log import LOG_BYTES, LOG_STEP_BYTES, lengthen
from edgewarden.record.rows import Mark
from edgewarden.record.segment import Segment, side_files
from edgewarden.wire.record import RecordClass, record_hash

BULK = int(RecordClass.BULK)


def commits(segment: Segment, count: int) -> list[int]:
    """Length of the log behind each."""
    log, found = side_files(segment.path)[0], []
    for seq in range(1, count + 1):
        one = Stored(BULK, seq, b"%d" % seq + bytes(400))
        segment.commit([one], {BULK: Mark(seq, record_hash(one.data))})
        found.append(log.stat().st_size)
    return found


def test_the_log_grows_by_steps_and_comes_to_an_end(tmp_path: Path) -> None:
    with closing(Segment.create(tmp_path / "x.seg", {BULK: Mark()})) as segment:
        lengths = commits(segment, 800)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) <= LOG_BYTES // LOG_STEP_BYTES + 1
    assert max(lengths) <= LOG_BYTES + 2 * LOG_STEP_BYTES


@pytest.mark.parametrize("count", [1, 2, 30, 400])
def test_what_was_added_is_no_commit_of_a_log_that_a_power_cut_left(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "x.seg"
    with closing(Segment.create(path, {BULK: Mark()})) as segment:
        commits(segment, count)
        left = tmp_path / "left"
        left.mkdir()
        for file in (path, side_files(path)[0]):
            shutil.copy2(file, left / file.name)
    with closing(Segment.open(left / path.name)) as again:
        assert [row.seq for row in again.rows(BULK, 0, 1 << 62)] == list(range(1, count + 1))
        assert again.marks(BULK)[BULK].head == count
        again.check()


def test_a_full_disk_takes_no_step_and_the_commit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(log_module.os, "pwrite", full)
    with closing(Segment.create(tmp_path / "x.seg", {BULK: Mark()})) as segment:
        assert len(set(commits(segment, 20))) > LOG_BYTES // LOG_STEP_BYTES
        assert segment.marks(BULK)[BULK].head == 20
    assert lengthen(tmp_path / "nowhere", 7) == 7
