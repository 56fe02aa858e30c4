"""Rows and marks of a segment: how they lie in the file, and how it is seen that one is damaged.

Decides that nothing is given out that is not what was written. SQLite finds damage to its own pages
and none inside a value; so every row carries a checksum of its number and its bytes, every mark one
of all it says. It is against bad flash, not against people: they would write it anew, and fail at
the signature. Leaves files to segment.py.

    write_rows(db, [Stored(1, 1, data)])
    list(read_rows(db, 1, 0, 10))        # SegmentDamaged where one does not match
    list(read_each(db, 1, 0, 10))        # its number in its place, and so on
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping

from edgewarden.errors import HardwareFault
from edgewarden.plain import dataclass
from edgewarden.ports import Stored
from edgewarden.wire.record import NO_PREDECESSOR

FORMAT = 2
FORMAT_WITHOUT_SUMS = 1
"""Written before there were checksums: read as it is, never appended to."""
SPAN = 1 << 17
"""Sequences in one segment at most: 8 MB of the smallest record (64 bytes) would be as many."""

_SQLITE_CORRUPT, _SQLITE_NOTADB = 11, 26
"""Result codes, https://sqlite.org/rescode.html"""
_QUERIES = {
    (True, "between"): "SELECT seq, data, sum FROM record WHERE seq > ? AND seq < ? ORDER BY seq",
    (True, "one"): "SELECT seq, data, sum FROM record WHERE seq = ?",
    (False, "between"): "SELECT seq, data, 0 FROM record WHERE seq > ? AND seq < ? ORDER BY seq",
    (False, "one"): "SELECT seq, data, 0 FROM record WHERE seq = ?",
}


class SegmentDamaged(HardwareFault):
    """The file is not what we wrote."""

    default_code = "EW-SPL-002"


class RowDamaged(SegmentDamaged):
    """One record is not what was written."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"record {seq} is not what was written")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Mark:
    """State of one class as of a commit.

    Attributes:
        head: highest sequence ever written.
        digest: SHA-256 of that record; 32 zero bytes before the first.
        acked: everything up to here was accepted by the broker.
        gone: highest sequence that a durable gap record speaks of.
        evicted: how many unaccepted records were ever evicted.
    """

    head: int = 0
    digest: bytes = NO_PREDECESSOR
    acked: int = 0
    gone: int = 0
    evicted: int = 0


def format_of(db: sqlite3.Connection) -> int:
    """Of an open database."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def read_marks(db: sqlite3.Connection) -> dict[int, Mark]:
    """The marks in an open database; shared with the read side.

    Raises:
        SegmentDamaged: one is not what was written.
    """
    if format_of(db) == FORMAT_WITHOUT_SUMS:
        rows = db.execute("SELECT class, head, hash, acked, gone, evicted FROM mark")
        return {row[0]: Mark(*row[1:]) for row in rows}
    found: dict[int, Mark] = {}
    for number, *fields, kept in db.execute(
        "SELECT class, head, hash, acked, gone, evicted, sum FROM mark"
    ):
        mark = Mark(*fields)
        if mark_sum(number, mark) != kept:
            raise SegmentDamaged(f"the mark of class {number} is not what was written")
        found[number] = mark
    return found


def read_rows(
    db: sqlite3.Connection, record_class: int, after: int, below: int
) -> Iterator[Stored]:
    """Records with after < seq < below in an open database, in order.

    Raises:
        SegmentDamaged: one is not what was written; those before it were yielded.
    """
    for one in _select(db, record_class, "between", (after, below)):
        if not isinstance(one, Stored):
            raise RowDamaged(one)
        yield one


def read_each(
    db: sqlite3.Connection, record_class: int, after: int, below: int
) -> Iterator[Stored | int]:
    """As ``read_rows``, around what is damaged; the number of a record that is not what was
    written, in its place. Where SQLite itself gives up, each number is asked for by itself.

    Raises:
        SegmentDamaged: SQLite gave up; whatever could be had was yielded before.
        sqlite3.Error: the disk refuses, which is no damage.
    """
    at = after
    try:
        for one in _select(db, record_class, "between", (at, below)):
            seq = one.seq if isinstance(one, Stored) else one
            if seq <= at:
                raise sqlite3.DatabaseError("pages point at each other")
            at = seq
            yield one
        return
    except sqlite3.Error as fault:
        if not is_damage(fault):
            raise
        why = str(fault)
    if has_rows(db):
        for seq in range(at + 1, min(below, after + 1 + SPAN)):
            try:
                yield from _select(db, record_class, "one", (seq,))
            except sqlite3.Error as fault:
                if not is_damage(fault):
                    raise
    raise SegmentDamaged(why)


def has_rows(db: sqlite3.Connection) -> bool:
    """Whether the table of records is there at all."""
    try:
        db.execute(_QUERIES[True, "one"], (0,)).fetchone()
    except sqlite3.DatabaseError as fault:
        code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
        return code == _SQLITE_CORRUPT
    return True


def _select(
    db: sqlite3.Connection, record_class: int, which: str, values: tuple[int, ...]
) -> Iterator[Stored | int]:
    has_sums = format_of(db) != FORMAT_WITHOUT_SUMS
    for seq, data, kept in db.execute(_QUERIES[has_sums, which], values):
        if isinstance(data, bytes) and (not has_sums or row_sum(seq, data) == kept):
            yield Stored(record_class, seq, data)
        else:
            yield int(seq)


def row_sum(seq: int, data: bytes) -> int:
    """CRC-32 of the number, eight bytes big-endian, and the record."""
    return zlib.crc32(data, zlib.crc32(struct.pack(">q", seq)))


def mark_sum(record_class: int, mark: Mark) -> int:
    """CRC-32 of a mark; -1 of one that cannot be one."""
    try:
        numbers = struct.pack(">5q", record_class, mark.head, mark.acked, mark.gone, mark.evicted)
        return zlib.crc32(mark.digest, zlib.crc32(numbers))
    except (struct.error, TypeError):
        return -1


def make_schema(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, data BLOB NOT NULL, sum INTEGER NOT NULL)"
    )
    db.execute(
        "CREATE TABLE mark (class INTEGER PRIMARY KEY, head INTEGER NOT NULL, hash BLOB NOT NULL,"
        " acked INTEGER NOT NULL, gone INTEGER NOT NULL, evicted INTEGER NOT NULL,"
        " sum INTEGER NOT NULL)"
    )
    db.execute(f"PRAGMA user_version={FORMAT}")


def write_rows(db: sqlite3.Connection, records: Iterable[Stored]) -> None:
    # REPLACE: a commit that failed half-way may have left rows that never counted.
    db.executemany(
        "INSERT OR REPLACE INTO record VALUES (?, ?, ?)",
        ((r.seq, r.data, row_sum(r.seq, r.data)) for r in records),
    )


def write_marks(db: sqlite3.Connection, marks: Mapping[int, Mark]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (c, m.head, m.digest, m.acked, m.gone, m.evicted, mark_sum(c, m))
            for c, m in marks.items()
        ),
    )


def is_damage(fault: sqlite3.Error) -> bool:
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
    odd = (
        "no such table",
        "no such column",
        "pages point at each other",
        "unsupported file format",
    )
    return code in (_SQLITE_CORRUPT, _SQLITE_NOTADB) or any(text in str(fault) for text in odd)


def as_text(data: bytes) -> str:
    """What SQLite takes for text, whatever it holds: a flipped bit makes text of bytes, and who
    decodes it strictly calls the whole file ill."""
    return data.decode("utf-8", "surrogateescape")
