"""How rows and marks lie in a segment: nothing is given out that is not what was written."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.ports import Stored
from edgewarden.record import rows
from edgewarden.record.rows import Mark, RowDamaged, SegmentDamaged, read_rows
from edgewarden.record.segment import Segment
from edgewarden.wire.record import MAX_RECORD_BYTES, RecordClass, record_hash

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)
ALL = 1 << 62


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    rows.make_schema(made)
    yield made
    made.close()


def row_of(data: bytes, seq: int = 1) -> Stored:
    return Stored(BULK, seq, data)


@pytest.mark.parametrize(
    ("data", "shorter"),
    [
        (b"temperature" * 200, True),
        (b"z" * (MAX_RECORD_BYTES), True),
        (b"z" * (rows.PACK_FROM_BYTES - 1), False),
        (random.Random(1).randbytes(4000), False),
        (b"", False),
    ],
)
def test_a_record_comes_back_byte_for_byte_and_lies_shorter_where_it_can(
    db: sqlite3.Connection, data: bytes, shorter: bool
) -> None:
    rows.write_rows(db, [row_of(data)], Mark())
    assert list(read_rows(db, BULK, 0, ALL)) == [row_of(data)]
    (kept, packed) = db.execute("SELECT length(data), packed FROM record").fetchone()
    assert bool(packed) == shorter
    assert kept < len(data) / 5 if shorter else kept == len(data)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    "data",
    [
        deflated(b"another record" * 100),
        deflated(b"temperature" * 200)[:-1],
        deflated(b"temperature" * 200) + b"\0",
        b"temperature" * 200,
        b"",
        "text",
        7,
    ],
    ids=["another", "cut", "longer", "not-packed", "empty", "text", "number"],
)
def test_what_does_not_unpack_to_what_was_written_is_not_given_out(
    db: sqlite3.Connection, data: object
) -> None:
    rows.write_rows(db, [row_of(b"temperature" * 200)], Mark())
    db.execute("UPDATE record SET data = ?", (data,))
    with pytest.raises(RowDamaged):
        list(read_rows(db, BULK, 0, ALL))


def test_little_that_unpacks_to_much_takes_no_memory(db: sqlite3.Connection) -> None:
    rows.write_rows(db, [row_of(b"temperature" * 200)], Mark())
    db.execute("UPDATE record SET data = ?", (deflated(bytes(64 << 20)),))
    tracemalloc.start()
    try:
        with pytest.raises(RowDamaged):
            list(read_rows(db, BULK, 0, ALL))
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_RECORD_BYTES
    finally:
        tracemalloc.stop()


def committed(segment: Segment, seq: int, acked: int, **more: int) -> dict[int, Mark]:
    """One record of bulk, and what its commit says of all classes."""
    one = row_of(b"%d" % seq, seq)
    marks = {
        ALARM: Mark(head=more.pop("alarm", 4), digest=b"a" * 32),
        BULK: Mark(seq, record_hash(one.data), acked, **more),
    }
    segment.commit([one], marks)
    return marks


def test_the_mark_of_the_last_commit_is_the_one_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    segment = Segment.create(path, {BULK: Mark(), ALARM: Mark()})
    assert segment.marks(BULK)[BULK] == Mark()
    for seq, acked, more in (
        (1, 0, {}),
        (2, 1, {}),
        (3, 2, {"alarm": 5}),
        (4, 2, {"alarm": 5, "gone": 2}),
        (5, 4, {"alarm": 5, "gone": 2}),
    ):
        marks = committed(segment, seq, acked, **more)
        assert segment.marks(BULK) == marks
    marks[BULK] = Mark(5, marks[BULK].digest, acked=5, gone=2)
    segment.commit([], marks)
    assert segment.marks(BULK) == marks, "a commit without a record"
    segment.close()
    segment = Segment.open(path)
    assert segment.marks(BULK) == marks
    marks = committed(segment, 6, 5, alarm=6, gone=2)
    assert segment.marks(BULK) == marks
    segment.close()


def test_a_commit_writes_no_mark_that_says_nothing_new(tmp_path: Path) -> None:
    """A page of the table is a block of the card, each ten seconds."""
    segment = Segment.create(tmp_path / "x.seg", {BULK: Mark(), ALARM: Mark()})
    for seq in (1, 2, 3):
        committed(segment, seq, seq - 1)
    (head,) = segment._db.execute("SELECT head FROM mark WHERE class = ?", (BULK,)).fetchone()
    assert head == 1, "the first since it is open, and none behind it"
    segment.close()


@pytest.mark.parametrize("field", ["acked", "mark", "hash"])
def test_a_mark_in_a_row_that_was_altered_is_damage(tmp_path: Path, field: str) -> None:
    segment = Segment.create(tmp_path / "x.seg", {BULK: Mark(), ALARM: Mark()})
    for seq in (1, 2):
        committed(segment, seq, 0)
    altered = "x'00'" if field == "hash" else f"{field} + 1"
    segment._db.execute(f"UPDATE record SET {field} = {altered} WHERE seq = 2")
    with pytest.raises(SegmentDamaged):
        segment.marks(BULK)
    segment.close()


def test_no_format_is_one_bit_from_another() -> None:
    """A file that is read as another format gives out less than was written, or other bytes."""
    distances = [(one ^ other).bit_count() for one in rows.FORMATS for other in rows.FORMATS]
    assert sorted(set(distances))[:2] == [0, 2]


@pytest.mark.parametrize("bit", range(8))
def test_marks_of_a_format_that_is_not_known_are_damage(db: sqlite3.Connection, bit: int) -> None:
    """Else the table alone would speak, and it is older than the rows."""
    rows.write_marks(db, {BULK: Mark()})
    rows.write_rows(db, [row_of(b"one")], Mark())
    assert rows.read_marks(db, BULK)[BULK].head == 1
    db.execute(f"PRAGMA user_version={rows.FORMAT ^ 1 << bit}")
    with pytest.raises(SegmentDamaged):
        rows.read_marks(db, BULK)
