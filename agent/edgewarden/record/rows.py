"""Rows and marks of a segment: how they lie in the file, and how it is seen that one is damaged.

Decides that nothing is given out that is not what was written. SQLite finds damage to its own pages
and none inside a value; so every row carries a checksum of its number and its bytes, every mark one
of all it says. It is against bad flash, not against people: they would write it anew, and fail at
the signature. Leaves files to segment.py.

* The mark of a segment's own class rides in the row: hash and cursor stand in front of the record,
  so that a commit touches one page less. The table of marks has what no row says: the other
  classes, and the own one where a commit brought no record or a loss was told. The later counts.
* A record of PACK_FROM_BYTES or more is deflated where that makes it shorter. What was signed comes
  back byte for byte, or the row is damaged: the checksum is of what was signed.

    write_rows(db, [Stored(1, 1, data)], Mark(1, record_hash(data)))
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
from edgewarden.wire.record import MAX_RECORD_BYTES, NO_PREDECESSOR, record_hash

FORMAT = 4
"""No two formats are one bit apart: a flipped bit makes none of them another."""
FORMAT_MARKS_APART = 2
"""Written before marks rode in rows and records were packed."""
FORMAT_WITHOUT_SUMS = 1
"""Written before there were checksums."""
FORMATS = (FORMAT, FORMAT_MARKS_APART, FORMAT_WITHOUT_SUMS)
"""An older one is read as it is, and never appended to."""
PACK_FROM_BYTES = 1024
"""Below, a page is written either way."""
_LEVEL, _WINDOW_BITS, _MEMORY_LEVEL = 1, 13, 6
"""Of deflate, https://zlib.net/manual.html: 64 kB while it lasts, where the default is 256."""
SPAN = 1 << 17
"""Sequences in one segment at most: 8 MB of the smallest record (64 bytes) would be as many."""

_SQLITE_CORRUPT, _SQLITE_NOTADB = 11, 26
"""Result codes, https://sqlite.org/rescode.html"""
_COLUMNS = {
    FORMAT: "seq, data, sum, packed",
    FORMAT_MARKS_APART: "seq, data, sum, 0",
    FORMAT_WITHOUT_SUMS: "seq, data, NULL, 0",
}
_WHERE = {"between": "seq > ? AND seq < ? ORDER BY seq", "one": "seq = ?"}
_QUERIES = {
    (found, which): f"SELECT {columns} FROM record WHERE {where}"  # noqa: S608 - ours, all of it
    for found, columns in _COLUMNS.items()
    for which, where in _WHERE.items()
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


def _known_format(db: sqlite3.Connection) -> int:
    found = format_of(db)
    if found not in FORMATS:
        raise SegmentDamaged(f"its format, {found}, is not known")
    return found


def read_marks(db: sqlite3.Connection, record_class: int) -> dict[int, Mark]:
    """The marks in an open database of a class; shared with the read side.

    Raises:
        SegmentDamaged: one is not what was written.
    """
    found_format = _known_format(db)
    if found_format == FORMAT_WITHOUT_SUMS:
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
    if found_format == FORMAT and record_class in found:
        found[record_class] = _newest_mark(db, record_class, found[record_class])
    return found


def _newest_mark(db: sqlite3.Connection, record_class: int, told: Mark) -> Mark:
    """What the last row says, where it came behind what the table says."""
    last = db.execute(
        "SELECT seq, hash, acked, mark FROM record WHERE seq > ? ORDER BY seq DESC LIMIT 1",
        (told.head,),
    ).fetchone()
    if last is None:
        return told
    head, digest, acked, kept = last
    mark = Mark(head, digest, acked, told.gone, told.evicted)
    if mark_sum(record_class, mark) != kept:
        raise SegmentDamaged(f"the mark in row {mark.head} is not what was written")
    return mark


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
        db.execute("SELECT seq, data FROM record WHERE seq = 0").fetchone()
    except sqlite3.DatabaseError as fault:
        code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
        return code == _SQLITE_CORRUPT
    return True


def _select(
    db: sqlite3.Connection, record_class: int, which: str, values: tuple[int, ...]
) -> Iterator[Stored | int]:
    for seq, data, kept, packed in db.execute(_QUERIES[_known_format(db), which], values):
        record = _unpacked(data) if packed else data
        if isinstance(record, bytes) and kept in (None, row_sum(seq, record)):
            yield Stored(record_class, seq, record)
        else:
            yield int(seq)


def _packed(data: bytes) -> bytes | None:
    """Deflated, where that makes it shorter."""
    if len(data) < PACK_FROM_BYTES:
        return None
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)
    packed = packer.compress(data) + packer.flush()
    return packed if len(packed) < len(data) else None


def _unpacked(data: object) -> bytes | None:
    """What was deflated; None where it was not, or is no record's length."""
    if not isinstance(data, bytes):
        return None
    unpacker = zlib.decompressobj(-_WINDOW_BITS)
    try:
        record = unpacker.decompress(data, MAX_RECORD_BYTES)
    except zlib.error:
        return None
    return record if unpacker.eof and not unpacker.unused_data else None


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
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL, acked INTEGER NOT NULL,"
        " mark INTEGER NOT NULL, sum INTEGER NOT NULL, packed INTEGER NOT NULL,"
        " data BLOB NOT NULL)"
    )
    db.execute(
        "CREATE TABLE mark (class INTEGER PRIMARY KEY, head INTEGER NOT NULL, hash BLOB NOT NULL,"
        " acked INTEGER NOT NULL, gone INTEGER NOT NULL, evicted INTEGER NOT NULL,"
        " sum INTEGER NOT NULL)"
    )
    db.execute(f"PRAGMA user_version={FORMAT}")


def write_rows(db: sqlite3.Connection, records: Iterable[Stored], own: Mark) -> int:
    """Put records, each with the mark of its class as it is behind it.

    Args:
        own: what else that mark says; head and hash are the record's.

    Returns: bytes of the records as they lie there.
    """
    size_bytes = 0
    for one in records:
        row = _row(one, own)
        # REPLACE: a commit that failed half-way may have left rows that never counted.
        db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        size_bytes += len(row[-1])
    return size_bytes


def _row(one: Stored, own: Mark) -> tuple[int, bytes, int, int, int, bool, bytes]:
    mark = Mark(one.seq, record_hash(one.data), own.acked, own.gone, own.evicted)
    packed = _packed(one.data)
    return (
        one.seq, mark.digest, mark.acked, mark_sum(one.record_class, mark),
        row_sum(one.seq, one.data), packed is not None, one.data if packed is None else packed,
    )  # fmt: skip


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
