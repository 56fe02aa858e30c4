"""Chains in memory at rest: what gateways signed while their disk took nothing. One step each,
inside the caller's transaction; verify/memory.py decides.

A chain is known by device and report key, never by class and sequence alone: its numbers are its
own.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden.judge.continuity import Chain, Neighbours
from edgewarden.wire.record import Record


@dataclass(frozen=True, slots=True)
class Known:
    """A chain in memory.

    Attributes:
        ended_seq: how far its gateway said that it came; above it the chain stands open.
    """

    cose_key: bytes
    head: Chain
    ended_seq: int


def find(db: sqlite3.Connection, device: str, kid: bytes) -> Known | None:
    """The chain of a key; None before its introduction."""
    row = db.execute(
        "SELECT * FROM memory_chain WHERE device = ? AND kid = ?", (device, kid)
    ).fetchone()
    if row is None:
        return None
    return Known(row["cose_key"], Chain(row["head_seq"], row["head_hash"]), row["ended_seq"])


def begin(
    db: sqlite3.Connection, record: Record, kid: bytes, cose_key: bytes, now_utc_s: float
) -> None:
    """A key was introduced in memory; nothing changes when it is known."""
    db.execute(
        "INSERT OR IGNORE INTO memory_chain (device, kid, cose_key, boot_id, boot_ns, head_seq,"
        " head_hash, ended_seq, opened_utc_s) VALUES (?, ?, ?, ?, ?, 0, zeroblob(32), 0, ?)",
        (
            record.device, kid, cose_key, record.boot_id,
            min(record.time.boot_ns, 2**63 - 1), now_utc_s,
        ),
    )  # fmt: skip


def is_over(db: sqlite3.Connection, device: str, kid: bytes) -> bool:
    """Was another report key introduced after this one, on the disk or in memory? By the signed
    time within one boot, else in the order in which they came."""
    row = db.execute(
        "WITH known AS (SELECT kid, boot_id, boot_ns, introduced_utc_s AS at FROM report_key"
        " WHERE device = ? UNION ALL SELECT kid, boot_id, boot_ns, opened_utc_s FROM memory_chain"
        " WHERE device = ?),"
        " own AS (SELECT boot_id, min(boot_ns) AS boot_ns, min(at) AS at FROM known WHERE kid = ?)"
        " SELECT 1 FROM known, own WHERE known.kid != ? AND CASE WHEN known.boot_id = own.boot_id"
        " THEN known.boot_ns > own.boot_ns ELSE known.at > own.at END LIMIT 1",
        (device, device, kid, kid),
    ).fetchone()
    return row is not None


def neighbours(db: sqlite3.Connection, device: str, kid: bytes, seq: int) -> Neighbours:
    """What is stored at, before and after a number."""
    rows = {
        row["seq"]: row
        for row in db.execute(
            "SELECT seq, hash, prev FROM memory_record WHERE device = ? AND kid = ?"
            " AND seq BETWEEN ? AND ?",
            (device, kid, seq - 1, seq + 1),
        )
    }
    same, before, after = rows.get(seq), rows.get(seq - 1), rows.get(seq + 1)
    return Neighbours(
        same["hash"] if same else None,
        before["hash"] if before else None,
        after["prev"] if after else None,
    )


def add(
    db: sqlite3.Connection, record: Record, kid: bytes, digest: bytes, head: Chain, data: bytes,
    now_utc_s: float,
) -> int:  # fmt: skip
    """Store an accepted record and the chain's new head; the row's number, which is its alone."""
    db.execute(
        "UPDATE memory_chain SET head_seq = ?, head_hash = ? WHERE device = ? AND kid = ?",
        (head.head_seq, head.head_hash, record.device, kid),
    )
    added = db.execute(
        "INSERT INTO memory_record (device, kid, seq, hash, prev, class, kind, received_utc_s,"
        " data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.device, kid, record.seq, digest, record.prev, int(record.record_class),
            record.kind, now_utc_s, data,
        ),
    )  # fmt: skip
    assert added.lastrowid is not None
    return added.lastrowid


def end(db: sqlite3.Connection, device: str, kid: bytes, last: int) -> int:
    """A gateway said how far the chain came; returns how many up to there did not come."""
    (stored,) = db.execute(
        "SELECT count(*) FROM memory_record WHERE device = ? AND kid = ? AND seq <= ?",
        (device, kid, last),
    ).fetchone()
    db.execute(
        "UPDATE memory_chain SET ended_seq = max(ended_seq, ?) WHERE device = ? AND kid = ?",
        (last, device, kid),
    )
    return last - int(stored)


def cut(db: sqlite3.Connection, device: str, kid: bytes) -> bool:
    """Another key is in force: end every other chain that stands open; whether there was one."""
    done = db.execute(
        "UPDATE memory_chain SET ended_seq = head_seq WHERE device = ? AND kid != ?"
        " AND ended_seq < head_seq",
        (device, kid),
    )
    return done.rowcount > 0


def summary(db: sqlite3.Connection, device: str) -> dict[str, object]:
    """What a person is shown: records taken so, and whether the gateway still goes on like that."""
    (count,) = db.execute(
        "SELECT count(*) FROM memory_record WHERE device = ?", (device,)
    ).fetchone()
    row = db.execute(
        "SELECT 1 FROM memory_chain WHERE device = ? AND ended_seq < head_seq", (device,)
    ).fetchone()
    return {"records": int(count), "open": row is not None}
