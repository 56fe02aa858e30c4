"""One segment: a SQLite file that only grows, and is deleted whole.

Decides how one commit reaches the disk. Leaves to lane.py which segments a class has, to spool.py
when one has to go.

* A commit is one transaction: the records, and one mark per class (head, acknowledged, gone,
  evicted). The acknowledgement cursor therefore costs no fsync of its own; when it is lost, a
  record is sent twice, never lost.
* WAL with synchronous=FULL: COMMIT returns after the fsync of the log. NORMAL survives ``kill -9``
  and loses rows at a power cut (measured: 12 of 12 images); tests/system/test_powercut.py holds
  both ends.
* The name says which record comes first and the hash of the one before: ``0000000000000042-<64
  hex>.seg``. A damaged file still tells where the chain broke, and starting needs no look into old
  files.

    segment = Segment.create(folder / segment_name(1, NO_PREDECESSOR), {})
    segment.commit([Stored(1, 1, data)], marks)
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.ports import Stored
from edgewarden.wire.record import NO_PREDECESSOR

SUFFIX = ".seg"
BAD_SUFFIX = ".bad"
NEW_SUFFIX = ".new"
FORMAT = 1

SYNCHRONOUS = "FULL"
WAL_PAGES = 512
"""Pages in the log before SQLite copies them into the file: 2 MB, what the ballast can make room
for.
"""
CACHE_KIB = 256
"""Page cache per open file. Appending touches the right edge of one tree: a few pages."""

# SQLite result codes, https://sqlite.org/rescode.html
_SQLITE_FULL, _SQLITE_IOERR, _SQLITE_CANTOPEN = 13, 10, 14
_SQLITE_CORRUPT, _SQLITE_NOTADB = 11, 26


class DiskFull(HardwareFault):
    """No space left, here or by quota: passes when something is evicted or somebody cleans up."""

    default_code = "EW-SPL-006"


class SegmentDamaged(HardwareFault):
    """The file is not what we wrote."""

    default_code = "EW-SPL-002"


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


def segment_name(first: int, before: bytes) -> str:
    """File name of a segment whose first record is ``first`` and has ``before`` as predecessor."""
    return f"{first:016d}-{before.hex()}{SUFFIX}"


def parse_name(name: str) -> tuple[int, bytes] | None:
    """(first, before) of a segment's name, good or bad; None for anything else."""
    stem, dot, suffix = name.partition(".")
    number, dash, digest = stem.partition("-")
    if dot + suffix not in (SUFFIX, BAD_SUFFIX) or not dash:
        return None
    if len(number) != 16 or not number.isascii() or not number.isdigit() or len(digest) != 64:
        return None
    try:
        return int(number), bytes.fromhex(digest)
    except ValueError:
        return None


class Segment:
    """One open segment file. Blocks on the disk; storage thread only.

    Raises DiskFull, SegmentDamaged or HardwareFault (EW-SPL-001). close() never raises.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    @classmethod
    def create(cls, path: Path, marks: Mapping[int, Mark]) -> Segment:
        """Make a segment that holds marks only, and open it.

        Built under another name and renamed, so that a file with a segment's name always has been
        whole: an empty one is damage, never an interrupted start.
        """
        building = path.with_suffix(NEW_SUFFIX)
        with renamed_errors(path):
            remove_files(building)
            try:
                db = _connect(building, "mode=rwc")
                try:
                    _prepare(db)
                    db.execute("BEGIN IMMEDIATE")
                    _make_schema(db)
                    _write_marks(db, marks)
                    db.execute("COMMIT")
                    db.execute("PRAGMA journal_mode=WAL")
                finally:
                    db.close()
            except BaseException:
                remove_files(building)
                raise
            building.rename(path)
            sync_folder(path.parent)
            return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Open for writing; replays the log when the last run did not close it."""
        return cls._open(path, "mode=rw")

    @classmethod
    def open_sealed(cls, path: Path) -> Segment:
        """Open a segment that nobody writes any more; on a full disk too, since it makes no
        file.
        """
        log, _ = side_files(path)
        left_over = log.exists() and log.stat().st_size > 0
        return cls._open(path, "mode=rw" if left_over else "mode=ro&immutable=1")

    @classmethod
    def _open(cls, path: Path, how: str) -> Segment:
        with renamed_errors(path):
            db = _connect(path, how)
            try:
                _prepare(db)
                if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                    raise SegmentDamaged(f"{path.name} is not a segment of format {FORMAT}")
            except BaseException:
                db.close()
                raise
            return cls(path, db)

    def check(self) -> None:
        """Read the whole file once; raises SegmentDamaged."""
        with renamed_errors(self.path):
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise SegmentDamaged(f"{self.path.name}: {found}")

    def commit(self, records: Sequence[Stored], marks: Mapping[int, Mark]) -> None:
        """Write records and marks in one transaction; returns after the fsync."""
        with renamed_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # REPLACE: a commit that failed half-way may have left rows that never counted.
                self._db.executemany(
                    "INSERT OR REPLACE INTO record VALUES (?, ?)",
                    ((r.seq, r.data) for r in records),
                )
                _write_marks(self._db, marks)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def marks(self) -> dict[int, Mark]:
        """The marks of the last commit."""
        with renamed_errors(self.path):
            return read_marks(self._db)

    def rows(self, record_class: int, after: int, below: int) -> Iterator[Stored]:
        """Records with after < seq < below, in order."""
        with renamed_errors(self.path):
            yield from read_rows(self._db, record_class, after, below)

    def size_bytes(self) -> int:
        """Bytes of the tree, the part still in the log included: what rotation goes by."""
        with renamed_errors(self.path):
            pages, size = (
                self._db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size")
            )
        return int(pages * size)

    def seal(self) -> None:
        """Copy the log into the file and empty it, so that closing leaves one file."""
        with renamed_errors(self.path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Close the file. What was committed stays."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def read_marks(db: sqlite3.Connection) -> dict[int, Mark]:
    """The marks in an open database; shared with the read side."""
    rows = db.execute("SELECT class, head, hash, acked, gone, evicted FROM mark")
    return {row[0]: Mark(*row[1:]) for row in rows}


def read_rows(
    db: sqlite3.Connection, record_class: int, after: int, below: int
) -> Iterator[Stored]:
    """Records with after < seq < below in an open database, in order."""
    cursor = db.execute(
        "SELECT seq, data FROM record WHERE seq > ? AND seq < ? ORDER BY seq", (after, below)
    )
    for seq, data in cursor:
        yield Stored(record_class, seq, data)


def remove_files(path: Path) -> None:
    """Unlink a segment and what SQLite keeps beside it; needs no free block."""
    for name in (path, *side_files(path)):
        name.unlink(missing_ok=True)


def side_files(path: Path) -> tuple[Path, Path]:
    """The log and the shared index of a segment, whether they exist or not."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def sync_folder(path: Path) -> None:
    """fsync a folder: names made, renamed and removed in it are durable afterwards."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def renamed_errors(path: Path) -> Iterator[None]:
    """Rename what SQLite and the kernel raise into our tree."""
    try:
        yield
    except sqlite3.Error as fault:
        raise _rename(path, fault) from fault
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from fault
        raise _refused(path, str(fault)) from fault


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, cached_statements=8
    )


def _prepare(db: sqlite3.Connection) -> None:
    """Every setting that matters is set, none inherited: builds differ (Debian turns secure_delete
    on).
    """
    db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    db.execute("PRAGMA secure_delete=OFF")
    db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    db.execute("PRAGMA mmap_size=0")
    db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")


def _make_schema(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE record (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    db.execute(
        "CREATE TABLE mark (class INTEGER PRIMARY KEY, head INTEGER NOT NULL, hash BLOB NOT NULL,"
        " acked INTEGER NOT NULL, gone INTEGER NOT NULL, evicted INTEGER NOT NULL)"
    )
    db.execute(f"PRAGMA user_version={FORMAT}")


def _write_marks(db: sqlite3.Connection, marks: Mapping[int, Mark]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?, ?)",
        ((c, m.head, m.digest, m.acked, m.gone, m.evicted) for c, m in marks.items()),
    )


def _rename(path: Path, fault: sqlite3.Error) -> HardwareFault:
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF  # extended codes keep the primary one below
    if code == _SQLITE_FULL:
        return _full(path)
    if code in (_SQLITE_IOERR, _SQLITE_CANTOPEN) and _is_full(path.parent):
        # The log's index and new files meet ENOSPC as an I/O error of another name.
        return _full(path)
    if code in (_SQLITE_CORRUPT, _SQLITE_NOTADB) or "no such table" in str(fault):
        return SegmentDamaged(f"{path.name}: {fault}")
    return _refused(path, str(fault))


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < WAL_PAGES * 4096 // 8 or found.f_favail == 0


def _full(path: Path) -> DiskFull:
    return DiskFull(
        "the disk under the spool is full",
        next_step="free space on the filesystem of the state directory",
        path=str(path),
    )


def _refused(path: Path, why: str) -> HardwareFault:
    return HardwareFault(
        f"the disk refuses the spool: {why}",
        code="EW-SPL-001",
        next_step="look at `dmesg` and at the mount options of the state directory",
        path=str(path),
    )
