"""A segment opened beside whoever writes it, dead or alive, without touching it.

1. No log beside it: as immutable, SQLite makes no file.
2. A log: in a copy under the system's temporary folder, gone afterwards. A living agent has locked
   the file for itself (segment.py), and what a power cut left must be brought together first.

The copy is of one moment. The file first: whatever goes from the log into it meanwhile still stands
in the log, unless the log was begun anew, which its header tells
(https://sqlite.org/fileformat2.html#walformat). What is added to the log meanwhile is there whole,
or ends by its checksums.

    with opened(path) as db:
        read_marks(db, 1)
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.record.rows import as_text
from edgewarden.record.segment import renamed_errors, side_files

LOG_HEADER_BYTES = 32
COPIES = 8
"""Tries to copy what is written meanwhile: a log lasts for minutes, a copy a moment."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A segment, read-only; see the module.

    Raises:
        HardwareFault: the disk does not give it, or it changes too fast.
    """
    log = side_files(path)[0]
    with contextlib.ExitStack() as cleanup, renamed_errors(path):
        if not _head_of(log):
            db = _connect(path, "mode=ro&immutable=1")
        else:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ew-spool-")))
            _copy(path, log, folder)
            db = _connect(folder / path.name, "mode=rw")
        cleanup.callback(db.close)
        yield db


def _copy(path: Path, log: Path, folder: Path) -> None:
    """Copy a segment and its log as they were at one moment."""
    for _ in range(COPIES):
        before = _head_of(log)
        shutil.copy2(path, folder / path.name)
        copied = folder / log.name
        copied.unlink(missing_ok=True)
        if before:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(log, copied)
        if _head_of(log) == before and (not before or _head_of(copied) == before):
            return
    raise HardwareFault(
        f"{path.name} changes faster than it can be copied",
        code="EW-SPL-001",
        next_step="try again in a quieter moment",
        path=str(path),
    )


def is_gone(path: Path) -> bool:
    """Whether a file went away, which is another thing than a disk that does not give it."""
    try:
        path.stat()
    except OSError as fault:
        return isinstance(fault, FileNotFoundError)
    return False


def _head_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            return file.read(LOG_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _connect(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
    db.text_factory = as_text
    return db
