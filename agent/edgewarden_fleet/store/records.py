"""Records at rest: chains, report keys, refusals, what waits for its key.

Each function is one step inside the caller's transaction; none decides anything
(judge/continuity.py, verify/). What is kept of refused messages is bounded: a flood of forgeries
must not fill the disk.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from edgewarden.judge.continuity import Chain, Neighbours
from edgewarden.judge.report_keys import Introduction
from edgewarden.wire.facts import Severity
from edgewarden.wire.record import MAX_SEQ, Record, RecordClass

KEPT_REFUSALS = 1000
"""Refused messages remembered one by one per device (reason and hash, never the bytes); all are
counted."""
KEPT_FINDINGS = 10_000
PENDING_PER_KEY = 64
"""Messages that wait for one key: three windows of a gateway whose introduction is late."""
PENDING_PER_DEVICE = 256
"""And for all unknown keys of a device. The oldest make room: whoever fills this with invented keys
must go on filling it to keep a gateway's own messages out."""


@dataclass(frozen=True, slots=True)
class Held:
    """A message that waits for the introduction of its key."""

    id: int
    topic: str
    dup: bool
    data: bytes


def chain_of(db: sqlite3.Connection, device: str, record_class: RecordClass) -> Chain:
    """State of a chain; a new one when nothing is known."""
    row = db.execute(
        "SELECT head_seq, head_hash, floor FROM chain WHERE device = ? AND class = ?",
        (device, int(record_class)),
    ).fetchone()
    return Chain() if row is None else Chain(row[0], row[1], row[2])


def save_chain(
    db: sqlite3.Connection, device: str, record_class: RecordClass, chain: Chain, *,
    stored_utc_s: float | None = None, reordered: bool = False, duplicate: bool = False,
) -> None:  # fmt: skip
    """Keep a chain's state, and count what the message was: one statement, once per message.

    Args:
        stored_utc_s: when a record was stored; None when none was.
    """
    db.execute(
        "INSERT INTO chain (device, class, head_seq, head_hash, floor, records, reordered,"
        " duplicates, last_utc_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (device, class) DO UPDATE SET"
        " head_seq = excluded.head_seq, head_hash = excluded.head_hash, floor = excluded.floor,"
        " records = records + excluded.records, reordered = reordered + excluded.reordered,"
        " duplicates = duplicates + excluded.duplicates,"
        " last_utc_s = coalesce(excluded.last_utc_s, last_utc_s)",
        (
            device, int(record_class), chain.head_seq, chain.head_hash, chain.floor,
            int(stored_utc_s is not None), int(reordered), int(duplicate), stored_utc_s,
        ),
    )  # fmt: skip


def neighbours(
    db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int
) -> Neighbours:
    """What is stored at, before and after a sequence."""
    found = {
        row["seq"]: row
        for row in db.execute(
            "SELECT seq, hash, prev FROM record WHERE device = ? AND class = ?"
            " AND seq BETWEEN ? AND ?",
            (device, int(record_class), seq - 1, seq + 1),
        )
    }
    same, before, after = found.get(seq), found.get(seq - 1), found.get(seq + 1)
    return Neighbours(
        same["hash"] if same else None,
        before["hash"] if before else None,
        after["prev"] if after else None,
    )


def add_record(
    db: sqlite3.Connection, record: Record, digest: bytes, outcome: str, data: bytes,
    now_utc_s: float,
) -> None:  # fmt: skip
    """Store an accepted record with its exact bytes."""
    t = record.time
    db.execute(
        "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.device, int(record.record_class), record.seq, digest, record.prev, record.kind,
            record.boot_id, _int64(t.boot_ns), _int64(t.wall_ns),
            None if t.uncertainty_ms is None else _int64(t.uncertainty_ms), t.state,
            outcome, now_utc_s, data,
        ),
    )  # fmt: skip


def hash_at(
    db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int
) -> bytes | None:
    """Hash of one stored record."""
    if seq > MAX_SEQ:
        return None
    row = db.execute(
        "SELECT hash FROM record WHERE device = ? AND class = ? AND seq = ?",
        (device, int(record_class), seq),
    ).fetchone()
    return None if row is None else bytes(row[0])


def claimed_at(
    db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int
) -> bytes | None:
    """Hash that evidence named for a sequence which has not come yet."""
    row = db.execute(
        "SELECT hash FROM claim WHERE device = ? AND class = ? AND seq = ?",
        (device, int(record_class), seq),
    ).fetchone()
    return None if row is None else bytes(row[0])


def add_report_key(
    db: sqlite3.Connection, record: Record, kid: bytes, cose_key: bytes, version: str,
    now_utc_s: float,
) -> bool:  # fmt: skip
    """Remember an introduced key; True when it is new for this device."""
    db.execute(
        "INSERT INTO introduction VALUES (?, ?, ?, ?)",
        (record.device, int(record.record_class), record.seq, kid),
    )
    done = db.execute(
        "INSERT OR IGNORE INTO report_key VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.device,
            kid,
            cose_key,
            record.boot_id,
            _int64(record.time.boot_ns),
            version,
            now_utc_s,
        ),
    )
    return done.rowcount == 1


def report_key(db: sqlite3.Connection, device: str, kid: bytes) -> bytes | None:
    """The COSE_Key a kid of this device stands for."""
    row = db.execute(
        "SELECT cose_key FROM report_key WHERE device = ? AND kid = ?", (device, kid)
    ).fetchone()
    return None if row is None else bytes(row[0])


def key_in_force(
    db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int
) -> bytes | None:
    """kid of the last introduction before a sequence of a class."""
    row = db.execute(
        "SELECT kid FROM introduction WHERE device = ? AND class = ? AND seq < ?"
        " ORDER BY seq DESC LIMIT 1",
        (device, int(record_class), seq),
    ).fetchone()
    return None if row is None else bytes(row[0])


def introductions(db: sqlite3.Connection, device: str) -> list[Introduction]:
    """All introductions of a device, in the order in which they came."""
    rows = db.execute(
        "SELECT i.kid, i.class, i.seq, k.boot_id, k.boot_ns FROM introduction i"
        " JOIN report_key k ON k.device = i.device AND k.kid = i.kid"
        " WHERE i.device = ? ORDER BY k.rowid, i.rowid",
        (device,),
    )
    return [Introduction(row[0], RecordClass(row[1]), row[2], row[3], row[4]) for row in rows]


def hold(
    db: sqlite3.Connection, device: str, kid: bytes, topic: str, dup: bool, data: bytes,
    now_utc_s: float,
) -> list[Held]:  # fmt: skip
    """Keep a message until its key is introduced; takes out the oldest that have no room now."""
    db.execute(
        "INSERT INTO pending (device, kid, topic, dup, received_utc_s, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (device, kid, topic, int(dup), now_utc_s, data),
    )
    rows = db.execute(
        "SELECT id, topic, dup, data FROM (SELECT * FROM pending WHERE device = ? AND kid = ?"
        " ORDER BY id DESC LIMIT -1 OFFSET ?)"
        " UNION SELECT id, topic, dup, data FROM (SELECT * FROM pending WHERE device = ?"
        " ORDER BY id DESC LIMIT -1 OFFSET ?) ORDER BY id",
        (device, kid, PENDING_PER_KEY, device, PENDING_PER_DEVICE),
    ).fetchall()
    db.executemany("DELETE FROM pending WHERE id = ?", [(row["id"],) for row in rows])
    return [Held(row["id"], row["topic"], bool(row["dup"]), row["data"]) for row in rows]


def release(db: sqlite3.Connection, device: str, kid: bytes) -> list[Held]:
    """Take out what waited for a key, oldest first."""
    rows = db.execute(
        "SELECT id, topic, dup, data FROM pending WHERE device = ? AND kid = ? ORDER BY id",
        (device, kid),
    ).fetchall()
    db.execute("DELETE FROM pending WHERE device = ? AND kid = ?", (device, kid))
    return [Held(row["id"], row["topic"], bool(row["dup"]), row["data"]) for row in rows]


def overdue(db: sqlite3.Connection, before_utc_s: float) -> list[tuple[str, Held]]:
    """Take out what waited too long."""
    rows = db.execute(
        "SELECT id, device, topic, dup, data FROM pending WHERE received_utc_s < ? ORDER BY id",
        (before_utc_s,),
    ).fetchall()
    db.execute("DELETE FROM pending WHERE received_utc_s < ?", (before_utc_s,))
    return [
        (row["device"], Held(row["id"], row["topic"], bool(row["dup"]), row["data"]))
        for row in rows
    ]


def add_refusal(
    db: sqlite3.Connection, device: str, topic: str, reason: str, text: str, data: bytes,
    now_utc_s: float,
) -> None:  # fmt: skip
    """Count a refusal, keep its outline, forget the oldest outline beyond the limit."""
    parts = topic.split("/")
    group, record_class = (parts[4], parts[5]) if len(parts) == 6 else ("?", "?")
    db.execute(
        "INSERT INTO refusal_count VALUES (?, ?, ?, ?, 1)"
        " ON CONFLICT DO UPDATE SET count = count + 1",
        (device, group[:8], record_class[:16], reason),
    )
    row = db.execute(
        "INSERT INTO refusal (device, topic, reason, text, sha256, bytes, received_utc_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            device, topic[:200], reason, text[:300], hashlib.sha256(data).digest(), len(data),
            now_utc_s,
        ),
    ).fetchone()  # fmt: skip
    if row[0] % 100 == 0:
        db.execute(
            "DELETE FROM refusal WHERE device = ? AND id <="
            " (SELECT id FROM refusal WHERE device = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (device, device, KEPT_REFUSALS),
        )


def add_finding(
    db: sqlite3.Connection, device: str, kind: str, severity: int, text: str, at_utc_s: float,
    record_class: int | None = None, seq: int | None = None, data: bytes | None = None,
) -> None:  # fmt: skip
    """Keep something a person should look at; data is its proof (the second record of a fork)."""
    row = db.execute(
        "INSERT INTO finding (device, kind, severity, text, at_utc_s, class, seq, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (device, kind, severity, text[:500], at_utc_s, record_class, seq, data),
    ).fetchone()
    if row[0] % 100 == 0:
        db.execute(
            "DELETE FROM finding WHERE device = ? AND id <="
            " (SELECT id FROM finding WHERE device = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (device, device, KEPT_FINDINGS),
        )


def add_fork(
    db: sqlite3.Connection, device: str, text: str, now_utc_s: float, record_class: int, seq: int,
    data: bytes,
) -> None:  # fmt: skip
    """Keep the proof of a second history that evidence gave, once per sequence."""
    told = db.execute(
        "SELECT 1 FROM finding WHERE device = ? AND kind = 'fork' AND class = ? AND seq = ?",
        (device, record_class, seq),
    ).fetchone()
    if told is None:
        add_finding(db, device, "fork", Severity.CRITICAL, text, now_utc_s, record_class, seq, data)


def _int64(value: int) -> int:
    """Nanoseconds as SQLite keeps them: a clock that claims the year 2262 is kept as the year
    2262."""
    return min(value, 2**63 - 1)
