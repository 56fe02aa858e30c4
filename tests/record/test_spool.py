"""What only the spool on disk can get wrong: rotation, heads, damage, the marks' redundancy,
start.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.ports import Stored
from edgewarden.record import lane as lane_module
from edgewarden.record import segment as segment_module
from edgewarden.record.bad import KEEP_BAD
from edgewarden.record.rows import SPAN, Mark
from edgewarden.record.salvage import restart_digest
from edgewarden.record.segment import Segment, parse_name, segment_name
from edgewarden.record.spool import BALLAST, BALLAST_BYTES, DiskSpool
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass, record_hash
from tests.record.records import fill, made

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)
CAP = 4 << 20


def segments(folder: Path, record_class: int, pattern: str = "*.seg") -> list[Path]:
    return sorted((folder / RecordClass(record_class).label).glob(pattern))


def damage(path: Path) -> None:
    """Overwrite the file's pages, header and all."""
    path.write_bytes(b"\xa5" * path.stat().st_size)


def test_every_setting_that_matters_is_set(tmp_path: Path) -> None:
    one = Segment.create(tmp_path / segment_name(1, NO_PREDECESSOR), {})
    asked = {
        name: one._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in (
            "journal_mode", "synchronous", "secure_delete", "mmap_size", "cache_size",
            "locking_mode",
        )
    }  # fmt: skip
    one.close()
    assert asked == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "locking_mode": "exclusive",
        "secure_delete": 0,
        "mmap_size": 0,
        "cache_size": -segment_module.CACHE_KIB,
    }


def test_names_carry_the_chain(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, AUDIT, 40, size=10_000)
    spool.close()
    names = [parse_name(p.name) for p in segments(tmp_path, AUDIT)]
    assert len(names) > 2
    assert names[0] == (1, NO_PREDECESSOR)
    for parsed in names[1:]:
        assert parsed is not None
        first, before = parsed
        assert before == record_hash(records[first - 2].data)


@pytest.mark.parametrize(
    "name",
    ["x.seg", "1-2.seg", "0000000000000001-zz.seg", f"{1:016d}-{'g' * 64}.seg", f"{1:016d}.seg"],
)
def test_other_names_are_not_segments(name: str) -> None:
    assert parse_name(name) is None


def test_accepted_segments_go_with_the_next_commit_and_not_before(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    fill(spool, AUDIT, 40, size=10_000)
    before = len(segments(tmp_path, AUDIT))
    spool.ack(AUDIT, 40)
    assert len(segments(tmp_path, AUDIT)) == before > 2
    fill(spool, ALARM, 1)  # a commit of any class carries the cursor
    assert len(segments(tmp_path, AUDIT)) == 1
    spool.close()


def test_a_cursor_that_was_not_committed_costs_duplicates_only(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path / "a", CAP)
    records = fill(spool, ALARM, 5)
    spool.ack(ALARM, 5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # the power goes here
    spool.close()
    again = DiskSpool(tmp_path / "b", CAP)
    assert again.peek(ALARM, 0, 10, 1 << 20) == records
    again.close()
    closed_well = DiskSpool(tmp_path / "a", CAP)
    assert closed_well.peek(ALARM, 0, 10, 1 << 20) == []
    closed_well.close()


def test_the_head_outlives_all_its_records(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 60, size=10_000)
    spool.ack(BULK, 60)
    fill(spool, AUDIT, 1)
    spool.close()
    again = DiskSpool(tmp_path, CAP)
    assert again.heads()[BULK] == (60, record_hash(records[-1].data))
    assert again.state()[BULK].acked == 60
    assert fill(again, BULK, 1)[0].seq == 61
    again.close()


def test_a_damaged_newest_segment_costs_itself_and_no_sequence_twice(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 60, size=10_000)
    spool.close()
    newest = segments(tmp_path, BULK)[-1]
    first, before = parse_name(newest.name) or (0, b"")
    damage(newest)

    again = DiskSpool(tmp_path, CAP)
    (loss,) = again.losses()
    last = first + SPAN - 1
    after = restart_digest(BULK, first, last)
    assert (loss.first, loss.last, loss.before, loss.after) == (first, last, before, after)
    assert again.heads()[BULK] == (last, after)
    assert last > records[-1].seq, "what may have been published is behind us"
    assert again.peek(BULK, 0, 100, 1 << 20) == records[: first - 1]
    assert [p.suffix for p in segments(tmp_path, BULK, "*.bad")] == [".bad"]
    again.put_gap(made(again, AUDIT), loss)
    (new,) = fill(again, BULK, 1)
    assert new.seq == last + 1
    again.close()

    third = DiskSpool(tmp_path, CAP)
    assert third.losses() == [], "the gap record is not written twice"
    assert third.peek(BULK, first - 1, 10, 1 << 20) == [new]
    third.close()


def test_damage_inside_the_newest_segment_is_found_by_the_start(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, 16 << 20)
    records = fill(spool, BULK, 60, size=3000)
    spool.close()
    (newest,) = segments(tmp_path, BULK)
    data = bytearray(newest.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096  # one page of rows; header and marks are whole
    newest.write_bytes(data)
    for _ in range(3):  # as long as no gap record says so, each start finds it
        again = DiskSpool(tmp_path, 16 << 20)
        kept = again.peek(BULK, 0, 100, 1 << 20)
        assert set(kept) < set(records)
        assert len(kept) >= 50, "a page is three records, and what SQLite keeps beside them"
        missing = {seq for loss in again.losses() for seq in range(loss.first, loss.last + 1)}
        assert missing == {*range(1, SPAN + 1)} - {r.seq for r in kept}
        assert again.losses()[-1].after == again.heads()[BULK][1]
        assert again.heads()[BULK][0] == SPAN
        again.close()


def test_a_damaged_newest_segment_is_found_again_after_a_crash(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    fill(spool, ALARM, 3)
    spool.close()
    damage(segments(tmp_path, ALARM)[-1])
    for _ in range(3):
        again = DiskSpool(tmp_path, CAP)
        assert [loss.first for loss in again.losses()] == [1]
        assert again.heads()[ALARM][0] == SPAN
        again.close()


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_truncated_newest_segment_is_damage_not_an_empty_one(tmp_path: Path, cut: int) -> None:
    spool = DiskSpool(tmp_path, CAP)
    fill(spool, ALARM, 3, size=4000)
    spool.close()
    newest = segments(tmp_path, ALARM)[-1]
    newest.write_bytes(newest.read_bytes()[:cut])
    again = DiskSpool(tmp_path, CAP)
    assert again.heads()[ALARM][0] > 3
    assert len(again.losses()) == 1
    again.close()


def test_damage_in_the_middle_is_met_while_reading_and_stepped_over(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 120, size=10_000)
    spool.close()
    middle = segments(tmp_path, BULK)[1]
    first, before = parse_name(middle.name) or (0, b"")
    behind, after = parse_name(segments(tmp_path, BULK)[2].name) or (0, b"")
    damage(middle)
    again = DiskSpool(tmp_path, CAP)
    assert again.losses() == [], "starting reads the newest segment only"
    seen = [r.seq for r in again.peek(BULK, 0, 1000, 1 << 30)]
    assert seen == [*range(1, first), *range(behind, 121)]
    (loss,) = again.losses()
    assert (loss.first, loss.last, loss.before, loss.after) == (first, behind - 1, before, after)
    assert again.peek(BULK, behind - 1, 1, 1 << 20) == [records[behind - 1]]
    again.close()


def test_a10_a_damaged_segment_without_a_record_is_no_loss(tmp_path: Path) -> None:
    """Acceptance 10 (dataplane): a statement for exactly what is lost, and here that is nothing."""
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 3)
    spool._lanes[BULK].rotate()
    spool._lanes[BULK].close()
    damage(segments(tmp_path, BULK)[-1])
    assert spool.peek(BULK, 0, 100, 1 << 20) == records
    assert spool.losses() == []
    (new,) = fill(spool, BULK, 1)
    assert new.seq == 4
    spool.close()

    again = DiskSpool(tmp_path, CAP)
    assert again.losses() == []
    assert again.peek(BULK, 0, 100, 1 << 20) == [*records, new]
    assert fill(again, BULK, 1)[0].seq == 5
    again.close()


def test_old_evidence_of_damage_is_bounded(tmp_path: Path) -> None:
    for _ in range(KEEP_BAD + 3):
        spool = DiskSpool(tmp_path, CAP)
        for loss in spool.losses():
            spool.put_gap(made(spool, AUDIT), loss)
        fill(spool, BULK, 2)
        spool.close()
        damage(segments(tmp_path, BULK)[-1])
    spool = DiskSpool(tmp_path, CAP)
    assert len(segments(tmp_path, BULK, "*.bad")) == KEEP_BAD + 1, "the last is not told yet"
    for loss in spool.losses():
        spool.put_gap(made(spool, AUDIT), loss)
    fill(spool, BULK, 1)
    assert len(segments(tmp_path, BULK, "*.bad")) == KEEP_BAD
    spool.close()


def test_a_lost_folder_is_known_to_the_other_classes(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, ALARM, 7)
    fill(spool, AUDIT, 1)
    spool.close()
    shutil.rmtree(tmp_path / "alarm")
    again = DiskSpool(tmp_path, CAP)
    assert again.heads()[ALARM] == (7, record_hash(records[-1].data))
    (loss,) = again.losses()
    assert (loss.first, loss.last, loss.reason) == (1, 7, "tail lost")
    assert fill(again, ALARM, 1)[0].seq == 8
    again.close()


def test_starting_opens_one_file_a_class_however_long_the_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = DiskSpool(tmp_path, 16 << 20)
    fill(spool, BULK, 100, size=60_000)
    spool.close()
    assert len(segments(tmp_path, BULK)) > 3
    opened: list[str] = []
    connect = sqlite3.connect

    def counting(*where: str, **options: object) -> sqlite3.Connection:
        opened.append(where[0])
        return connect(*where, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(segment_module.sqlite3, "connect", counting)
    again = DiskSpool(tmp_path, 16 << 20)
    again.close()
    assert len(opened) == 1, "only bulk has files"


def test_a_half_made_segment_is_no_segment(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    fill(spool, ALARM, 1)
    spool.close()
    left = tmp_path / "alarm" / segment_name(2, bytes(32)).replace(".seg", ".new")
    left.write_bytes(b"half")
    again = DiskSpool(tmp_path, CAP)
    assert again.heads()[ALARM][0] == 1
    assert again.losses() == []
    again.close()


def test_a_log_without_its_file_is_swept(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    fill(spool, ALARM, 1)
    spool.close()
    orphan = tmp_path / "alarm" / (segment_name(9, bytes(32)) + "-wal")
    orphan.write_bytes(b"left by a cut deletion")
    DiskSpool(tmp_path, CAP).close()
    assert not orphan.exists()


def test_rows_of_a_failed_commit_never_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose fsync failed may be on the disk; its sequence is used again, and only that
    counts.
    """
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, ALARM, 2)
    whole = Segment.commit

    def fails(self: Segment, records: Sequence[Stored], marks: Mapping[int, Mark]) -> None:
        whole(self, records, marks)
        raise HardwareFault("the fsync failed", code="EW-SPL-001", next_step="")

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "commit", fails)
        with pytest.raises(HardwareFault):
            fill(spool, ALARM, 1)
    assert spool.peek(ALARM, 0, 10, 1 << 20) == records
    (third,) = fill(spool, ALARM, 1, size=50)
    assert third.seq == 3
    assert spool.peek(ALARM, 0, 10, 1 << 20) == [*records, third]
    spool.close()
    again = DiskSpool(tmp_path, CAP)
    assert again.peek(ALARM, 0, 10, 1 << 20) == [*records, third]
    again.close()


def test_the_ballast_is_there_and_comes_back(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    assert (tmp_path / BALLAST).stat().st_size == BALLAST_BYTES
    assert spool.lend_ballast()
    assert not (tmp_path / BALLAST).exists()
    fill(spool, ALARM, 1)  # plenty of room here
    assert (tmp_path / BALLAST).stat().st_blocks * 512 >= BALLAST_BYTES
    spool.close()


def test_the_bound_holds_on_disk(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, CAP)
    for _ in range(300):
        while not spool.room_for(BULK, 30_000):
            loss = spool.victim("spool full")
            assert loss is not None
            spool.put_gap(made(spool, AUDIT), loss)
        fill(spool, BULK, 1, size=30_000)
        used = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.name != BALLAST)
        assert used < CAP + (1 << 20), "cap plus one log"
    assert spool.state()[BULK].evicted > 100
    spool.close()


@pytest.mark.parametrize("files", [1, 3])
def test_what_was_accepted_is_not_told_as_lost_by_an_eviction(
    tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word of it waits for the next commit, and a full disk takes none."""
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 60, size=30_000)
    ends = [int(path.name[:16]) - 1 for path in segments(tmp_path, BULK)[1:]]
    assert len(ends) > files
    sizes = [path.stat().st_size for path in segments(tmp_path, BULK)]
    monkeypatch.setattr(spool, "_goes_bytes", sum(sizes[: files - 1]) + 1)
    for acked in range(len(records)):
        spool.ack(BULK, acked)
        loss = spool.victim("disk full")
        assert loss is not None
        assert loss.last == ends[files - 1]
        assert loss.first == min(acked, loss.last) + 1
        before = record_hash(records[loss.first - 2].data) if acked else NO_PREDECESSOR
        assert loss.before == before
    spool.close()


def test_a_deletion_that_fails_takes_no_commit_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is durable: who heard of a fault would store it once more, and tell a loss once
    more."""
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, BULK, 60, size=30_000)
    spool.ack(BULK, 5)

    def refused(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(lane_module, "remove_files", refused)
        fill(spool, ALARM, 1)
        loss = spool.victim("spool full")
        assert loss is not None
        spool.put_gap(made(spool, AUDIT), loss)
        assert spool.state()[BULK].evicted == loss.last - loss.first + 1
        assert spool.peek(BULK, 0, 100, 1 << 30) == records[loss.last :]
        with pytest.raises(HardwareFault):
            spool.victim("spool full")
    fill(spool, ALARM, 1)
    assert parse_name(segments(tmp_path, BULK)[0].name) == (loss.last + 1, loss.after)
    spool.close()
    again = DiskSpool(tmp_path, CAP)
    assert again.losses() == []
    again.close()
