"""One segment: a SQLite file that only grows, and is deleted whole.

Decides how one commit reaches the disk. Leaves to rows.py what a row is, to lane.py which segments
a class has, to spool.py when one has to go.

* A commit is one transaction: the records, and one mark per class (head, acknowledged, gone,
  evicted), of which only what changed is written. The acknowledgement cursor therefore costs no
  fsync of its own; when it is lost, a record is sent twice, never lost.
* The file is locked for us alone, so that the log's index stays in memory and costs no writes
  (ADR 49). Whoever reads beside us copies (beside.py).
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.plain import dataclass
from edgewarden.ports import Stored
from edgewarden.record.log import LOG_BYTES, lengthen
from edgewarden.record.rows import (
    FORMAT,
    FORMATS,
    Mark,
    SegmentDamaged,
    as_text,
    format_of,
    is_damage,
    make_schema,
    read_each,
    read_marks,
    read_rows,
    write_marks,
    write_rows,
)

SUFFIX = ".seg"
BAD_SUFFIX = ".bad"
NEW_SUFFIX = ".new"
_SIDES = ("-wal", "-shm")
SYNCHRONOUS = "FULL"
PAGE_BYTES = 1024
"""A small commit then adds a part of a block to the log; pages of 4 kB, two or three (ADR 49)."""
CACHE_KIB = 64
"""Page cache per open file. Appending touches the right edge of one tree: a few pages, and what is
kept beside them is never asked for again."""

# SQLite result codes, https://sqlite.org/rescode.html
_SQLITE_FULL, _SQLITE_IOERR, _SQLITE_CANTOPEN, _SQLITE_READONLY = 13, 10, 14, 8
_WAL = b"\x02\x02"
"""Bytes 18 and 19, https://sqlite.org/fileformat.html: with others it is taken for read-only."""
_GONE = frozenset({errno.EROFS, errno.EIO, errno.ENXIO, errno.ENODEV, errno.EUCLEAN})
"""What a filesystem says that has turned read-only, or lost what is under it."""


class DiskFull(HardwareFault):
    """No space left, here or by quota: passes when something is evicted or somebody cleans up."""

    default_code = "EW-SPL-006"


class DiskRefuses(HardwareFault):
    """Read-only, or it answers with I/O errors: nothing can be written for now."""

    default_code = "EW-SPL-001"


class Unreadable(DiskRefuses):
    """The device does not give all of a file. SQLite calls that damage (its EIO becomes CORRUPT);
    but it may be over in a moment, where damage is for ever."""


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


@dataclass(slots=True)
class SegmentFile:
    """A segment on disk: its first sequence, the hash before it, and its size when last seen."""

    path: Path
    first: int
    before: bytes
    size_bytes: int = 0

    def measure(self) -> None:
        """Look at the size on disk, log included; a disk that does not say leaves the last answer:
        what was committed stays committed."""
        with contextlib.suppress(OSError):
            self.size_bytes = sum(file_bytes(f"{self.path}{end}") for end in ("", *_SIDES))


class Segment:
    """One open segment file. Blocks on the disk; storage thread only.

    Raises DiskFull, SegmentDamaged or HardwareFault (EW-SPL-001). close() never raises.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, *, is_current: bool) -> None:
        self.path = path
        self.log = side_files(path)[0]
        self.is_current = is_current
        self._db = db
        self._kept: Mapping[int, Mark] = {}  # what was written of marks since it is open
        self._log_bytes = 0

    @classmethod
    def create(
        cls, path: Path, marks: Mapping[int, Mark], records: Iterable[Stored] = ()
    ) -> Segment:
        """Make a segment that holds marks, and ``records`` where it stands for a damaged one.

        Built under another name and renamed: an empty one is damage, never an interrupted start.
        """
        building = path.with_suffix(NEW_SUFFIX)
        with renamed_errors(path):
            remove_files(building)
            try:
                db = _connect(building, "mode=rwc")
                try:
                    db.execute(f"PRAGMA page_size={PAGE_BYTES}")
                    _prepare(db)
                    db.execute("BEGIN IMMEDIATE")
                    make_schema(db)
                    write_rows(db, records, Mark())
                    write_marks(db, marks)
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
        with renamed_errors(path):
            left_over = file_bytes(side_files(path)[0]) > 0
        return cls._open(path, "mode=rw" if left_over else "mode=ro&immutable=1")

    @classmethod
    def _open(cls, path: Path, how: str) -> Segment:
        with renamed_errors(path):
            db = _connect(path, how)
            try:
                _prepare(db)
                found = format_of(db)
                if found not in FORMATS:
                    raise SegmentDamaged(f"{path.name} is not a segment of format {FORMAT}")
            except BaseException:
                db.close()
                raise
            return cls(path, db, is_current=found == FORMAT)

    def check(self) -> None:
        """Read the whole file once; raises SegmentDamaged."""
        with renamed_errors(self.path), self.path.open("rb", buffering=0) as file:
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if file.read(20)[18:] != _WAL:
                found = "its header is not what was written"
        if found != "ok":
            raise _damaged(self.path, found)

    def commit(self, records: Sequence[Stored], marks: Mapping[int, Mark]) -> int:
        """Write records and marks in one transaction; returns after the fsync, as write_rows."""
        size_bytes = 0
        with renamed_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if records:
                    size_bytes = write_rows(self._db, records, marks[records[0].record_class])
                write_marks(self._db, self._untold(records, marks))
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        self._kept = dict(marks)
        self._log_bytes = lengthen(self.log, self._log_bytes)
        return size_bytes

    def _untold(self, records: Sequence[Stored], marks: Mapping[int, Mark]) -> dict[int, Mark]:
        """The marks that changed, but the one that rides in the last row."""
        changed = {c: mark for c, mark in marks.items() if mark != self._kept.get(c)}
        if records:
            own = records[-1].record_class
            before, mark = self._kept.get(own), marks[own]
            if before and (mark.gone, mark.evicted) == (before.gone, before.evicted):
                changed.pop(own, None)
        return changed

    def marks(self, record_class: int) -> dict[int, Mark]:
        """The marks of the last commit, in a segment of this class."""
        with renamed_errors(self.path):
            return read_marks(self._db, record_class)

    def rows(self, record_class: int, after: int, below: int) -> Iterator[Stored]:
        """Records with after < seq < below, in order; SegmentDamaged at the first damaged one."""
        with renamed_errors(self.path):
            yield from read_rows(self._db, record_class, after, below)

    def each_row(self, record_class: int, after: int, below: int) -> Iterator[Stored | int]:
        """As ``rows``, around what is damaged: such a record's number, if even that is there."""
        with renamed_errors(self.path):
            yield from read_each(self._db, record_class, after, below)

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


def remove_files(path: Path) -> None:
    """Unlink a segment and what SQLite keeps beside it; needs no free block."""
    for name in (path, *side_files(path)):
        name.unlink(missing_ok=True)


def side_files(path: Path) -> tuple[Path, Path]:
    """The log and the shared index of a segment, whether they exist or not."""
    wal, shm = (path.with_name(f"{path.name}{end}") for end in _SIDES)
    return wal, shm


def sync_folder(path: Path) -> None:
    """fsync a folder: names made, renamed and removed in it are durable afterwards."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def scan_folder(folder: Path) -> tuple[list[SegmentFile], list[SegmentFile]]:
    """Good and bad files by first sequence; leftovers of a cut deletion are finished."""
    good: list[SegmentFile] = []
    bad: list[SegmentFile] = []
    names = {entry.name for entry in os.scandir(folder)}
    for name in sorted(names):
        owner = name.removesuffix("-wal").removesuffix("-shm")
        if owner != name and owner not in names and parse_name(owner):
            (folder / name).unlink(missing_ok=True)
        parsed = parse_name(name)
        if parsed is not None:
            file = SegmentFile(folder / name, *parsed)
            file.measure()
            (good if name.endswith(SUFFIX) else bad).append(file)
    return good, bad


def file_bytes(path: str | Path) -> int:
    """Of a file; nothing, where it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def renamed_errors(path: Path) -> Iterator[None]:
    """Rename what SQLite and the kernel raise into our tree."""
    try:
        yield
    except sqlite3.Error as fault:
        raise _rename(path, fault) from fault
    except UnicodeDecodeError as fault:  # SQLite quotes what it stumbles over
        raise _damaged(path, "its schema is not what was written") from fault
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from fault
        kind = DiskRefuses if fault.errno in _GONE else HardwareFault
        raise _refused(path, str(fault), kind) from fault


def _connect(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, cached_statements=8
    )
    db.text_factory = as_text
    return db


def _prepare(db: sqlite3.Connection) -> None:
    """Every setting that matters is set, none inherited: builds differ (Debian turns secure_delete
    on).
    """
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    db.execute("PRAGMA secure_delete=OFF")
    db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    db.execute("PRAGMA mmap_size=0")
    db.execute(f"PRAGMA wal_autocheckpoint={LOG_BYTES // PAGE_BYTES}")


def _rename(path: Path, fault: sqlite3.Error) -> HardwareFault:
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF  # extended codes keep the primary one below
    if code == _SQLITE_FULL:
        return _full(path)
    if code in (_SQLITE_IOERR, _SQLITE_CANTOPEN) and _is_full(path.parent):
        # The log's index and new files meet ENOSPC as an I/O error of another name.
        return _full(path)
    if is_damage(fault):
        return _damaged(path, str(fault))
    gone = code in (_SQLITE_IOERR, _SQLITE_CANTOPEN, _SQLITE_READONLY)
    return _refused(path, str(fault), DiskRefuses if gone else HardwareFault)


def _damaged(path: Path, why: str) -> HardwareFault:
    """What SQLite calls damage, once the whole file was read: 8 MB, where something is wrong."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except FileNotFoundError:
        pass
    except OSError as fault:
        return _refused(path, str(fault), Unreadable)
    return SegmentDamaged(f"{path.name}: {why}")


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < LOG_BYTES or found.f_favail == 0


def _full(path: Path) -> DiskFull:
    return DiskFull(
        "the disk under the spool is full",
        next_step="free space on the filesystem of the state directory",
        path=str(path),
    )


def _refused(path: Path, why: str, kind: type[HardwareFault]) -> HardwareFault:
    return kind(
        f"the disk refuses the spool: {why}",
        code="EW-SPL-001",
        next_step="look at `dmesg` and at the mount options of the state directory",
        path=str(path),
    )
