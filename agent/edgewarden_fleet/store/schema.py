"""The embedded store: one SQLite file, WAL, synchronous=FULL.

FULL because a message is acknowledged to the broker once its row is committed: what the broker
then forgets must survive a power cut here. Writers are few (the ingest worker, an enrolment now
and then) and wait for each other; readers never wait.

    db = open_store(path)                  writer
    db = open_store(path, read_only=True)  console, commands
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden_fleet.store.migrations import BASE, VERSION, statements

BUSY_MS = 10_000
"""How long a writer waits for the other one; a group commit takes milliseconds."""

DDL = """
CREATE TABLE token (
    secret_sha256 BLOB PRIMARY KEY, device TEXT NOT NULL, created_utc_s REAL NOT NULL,
    expires_utc_s REAL NOT NULL, used_utc_s REAL, used_by BLOB
) STRICT;

CREATE TABLE device (
    device TEXT PRIMARY KEY, tenant TEXT NOT NULL, public_key BLOB NOT NULL UNIQUE,
    grade TEXT NOT NULL, serial TEXT NOT NULL, certificate TEXT NOT NULL,
    not_after_utc_s REAL NOT NULL, enrolled_utc_s REAL NOT NULL, revoked_utc_s REAL,
    revoked_why TEXT, last_seen_utc_s REAL
) STRICT;

CREATE TABLE session (
    device TEXT NOT NULL, boot_id BLOB NOT NULL, session_ns INTEGER NOT NULL,
    online INTEGER NOT NULL, received_utc_s REAL NOT NULL, current INTEGER NOT NULL,
    heads TEXT NOT NULL, PRIMARY KEY (device, boot_id)
) STRICT;

CREATE TABLE report_key (
    device TEXT NOT NULL, kid BLOB NOT NULL, cose_key BLOB NOT NULL, boot_id BLOB NOT NULL,
    boot_ns INTEGER NOT NULL, version TEXT NOT NULL, introduced_utc_s REAL NOT NULL,
    PRIMARY KEY (device, kid)
) STRICT;

CREATE TABLE introduction (
    device TEXT NOT NULL, class INTEGER NOT NULL, seq INTEGER NOT NULL, kid BLOB NOT NULL,
    PRIMARY KEY (device, class, seq)
) STRICT;

CREATE TABLE chain (
    device TEXT NOT NULL, class INTEGER NOT NULL, head_seq INTEGER NOT NULL,
    head_hash BLOB NOT NULL, floor INTEGER NOT NULL, records INTEGER NOT NULL DEFAULT 0,
    reordered INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0,
    last_utc_s REAL, PRIMARY KEY (device, class)
) STRICT;

CREATE TABLE record (
    device TEXT NOT NULL, class INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL,
    prev BLOB NOT NULL, kind TEXT NOT NULL, boot_id BLOB NOT NULL, boot_ns INTEGER NOT NULL,
    wall_ns INTEGER NOT NULL, uncertainty_ms INTEGER, clock_state TEXT NOT NULL,
    outcome TEXT NOT NULL, received_utc_s REAL NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (device, class, seq)
) STRICT;

CREATE TABLE gap (
    device TEXT NOT NULL, class INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    opened_utc_s REAL NOT NULL, explained TEXT, PRIMARY KEY (device, class, first)
) STRICT;

CREATE TABLE gap_note (
    device TEXT NOT NULL, class INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    before BLOB NOT NULL, after BLOB NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (device, class, first, last)
) STRICT;

CREATE TABLE pending (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, kid BLOB NOT NULL, topic TEXT NOT NULL,
    dup INTEGER NOT NULL, received_utc_s REAL NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE INDEX pending_device ON pending (device, kid);

CREATE TABLE refusal (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL,
    text TEXT NOT NULL, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL,
    received_utc_s REAL NOT NULL
) STRICT;
CREATE INDEX refusal_device ON refusal (device, id);

CREATE TABLE refusal_count (
    device TEXT NOT NULL, topic_group TEXT NOT NULL, class TEXT NOT NULL, reason TEXT NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (device, topic_group, class, reason)
) STRICT;

CREATE TABLE finding (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, kind TEXT NOT NULL, severity INTEGER NOT NULL,
    text TEXT NOT NULL, at_utc_s REAL NOT NULL, class INTEGER, seq INTEGER, data BLOB
) STRICT;
CREATE INDEX finding_device ON finding (device, id);

CREATE TABLE exec_verdict (
    device TEXT NOT NULL, class INTEGER NOT NULL, seq INTEGER NOT NULL, item INTEGER NOT NULL,
    action TEXT NOT NULL, digest BLOB NOT NULL, path TEXT NOT NULL, rule TEXT NOT NULL,
    tier TEXT NOT NULL, mode TEXT NOT NULL, severity INTEGER NOT NULL, at_utc_s REAL NOT NULL,
    PRIMARY KEY (device, class, seq, item)
) STRICT;
CREATE INDEX exec_action ON exec_verdict (device, action);

CREATE TABLE reading (
    device TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, unit TEXT NOT NULL,
    value TEXT NOT NULL, at_utc_s REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (device, source, name)
) STRICT;

CREATE TABLE counter (
    device TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (device, name)
) STRICT;

CREATE TABLE nonce (
    nonce BLOB PRIMARY KEY, device TEXT NOT NULL, issued_utc_s REAL NOT NULL,
    expires_utc_s REAL NOT NULL, heads TEXT NOT NULL, used_utc_s REAL
) STRICT;
CREATE INDEX nonce_device ON nonce (device, issued_utc_s);

CREATE TABLE claim (
    device TEXT NOT NULL, class INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL,
    due_utc_s REAL NOT NULL, told INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (device, class, seq)
) STRICT;

CREATE TABLE evidence (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, received_utc_s REAL NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX evidence_device ON evidence (device, id);

CREATE TABLE result (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL,
    evidence INTEGER NOT NULL REFERENCES evidence (id), overall TEXT NOT NULL,
    grade TEXT NOT NULL, facets TEXT NOT NULL, reasons TEXT NOT NULL, version TEXT NOT NULL,
    exec_tier TEXT NOT NULL, exec_mode TEXT NOT NULL, issued_utc_s REAL NOT NULL,
    expires_utc_s REAL NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE INDEX result_device ON result (device, id);

CREATE TABLE reference (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, version TEXT NOT NULL, device TEXT NOT NULL,
    digest BLOB NOT NULL, sources TEXT NOT NULL, added_utc_s REAL NOT NULL,
    UNIQUE (kind, version, device, digest)
) STRICT;
"""


def open_store(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """Open the store, making its tables when it is new.

    The connection may be used from any one thread at a time.

    Raises:
        OperatorFault: EW-SET-023 when there is no store to read or it is of another version.
        PermissionError: this user may not read (or write) it.
        HardwareFault: EW-SPL-020 when the disk refuses or the file is damaged.
    """
    _check_access(path, read_only)
    if read_only and not path.exists():
        raise OperatorFault(
            f"{path} does not exist",
            code="EW-SET-023",
            next_step="start `edgewarden-fleet serve` once; it makes the store",
        )
    try:
        mode = "?mode=ro" if read_only else ""
        db = sqlite3.connect(
            f"file:{path}{mode}", uri=True, isolation_level=None, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            with transaction(db):
                _bring_up(db)
        found = _version(db)
    except sqlite3.Error as fault:
        raise store_fault(fault) from fault
    if found != VERSION:
        db.close()
        raise OperatorFault(
            f"the store is of version {found}, this program of {VERSION}",
            code="EW-SET-023",
            next_step="use the edgewarden-fleet version that wrote it",
        )
    return db


def _check_access(path: Path, read_only: bool) -> None:
    """SQLite says "unable to open database file" for a folder that is another user's."""
    wanted = os.R_OK if read_only else os.R_OK | os.W_OK
    if path.parent.exists() and not os.access(path.parent, wanted | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    if path.exists() and not os.access(path, wanted):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """One write transaction, or the part of the one that is open already."""
    if db.in_transaction:
        yield
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def store_fault(fault: sqlite3.Error) -> HardwareFault:
    """Rename what SQLite said."""
    return HardwareFault(
        f"the fleet store refuses: {fault}",
        code="EW-SPL-020",
        next_step="check free space and the disk; messages wait in the broker meanwhile",
    )


def _bring_up(db: sqlite3.Connection) -> None:
    """Make the tables of a new store, add what an older one lacks."""
    found = _version(db)
    if found == 0:
        for statement in DDL.split(";\n"):
            db.execute(statement)
        found = BASE
    if BASE <= found < VERSION:
        for statement in statements(found):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
