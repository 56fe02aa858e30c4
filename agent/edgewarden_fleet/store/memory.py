"""Chains in memory at rest: what gateways signed while their disk took nothing. One step each,
inside the caller's transaction; verify/memory.py decides.

A chain is known by device and report key, never by class and sequence alone: its numbers are its
own.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden.judge.continuity import Chain, Neighbours
from edgewarden.wire.acknowledgement import Run
from edgewarden.wire.record import Record, RecordClass


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
    db: sqlite3.Connection, record: Record, kid: bytes, cose_key: bytes, behind: int,
    now_utc_s: float,
) -> None:  # fmt: skip
    """A key was introduced in memory, behind this record of audit; nothing changes when it is
    known."""
    db.execute(
        "INSERT OR IGNORE INTO memory_chain (device, kid, cose_key, boot_id, boot_ns, head_seq,"
        " head_hash, ended_seq, behind, opened_utc_s)"
        " VALUES (?, ?, ?, ?, ?, 0, zeroblob(32), 0, ?, ?)",
        (
            record.device, kid, cose_key, record.boot_id,
            min(record.time.boot_ns, 2**63 - 1), behind, now_utc_s,
        ),
    )  # fmt: skip


def is_over(db: sqlite3.Connection, device: str, kid: bytes) -> bool:
    """Was another report key introduced after this one, on the disk or in memory?

    By its place in audit, whenever that came: a backlog brings the keys of earlier starts after a
    chain in memory. Of two that begin behind the same record, one that is not in audit itself is
    the later; of two such the one with the later boot_ns of one boot, else the one that came later.
    """
    (own,) = _starts(db, device, "kid = ?", kid)
    (latest,) = db.execute(
        "SELECT max(seq) FROM introduction WHERE device = ? AND class = ? AND kid != ?",
        (device, int(RecordClass.AUDIT), kid),
    ).fetchone()
    if (latest or 0) > own.place[0]:
        return True
    return any(other.is_after(own) for other in _starts(db, device, "kid != ?", kid))


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a chain's key stands: (sequence of audit, whether it is behind and not in it)."""

    place: tuple[int, bool]
    boot_id: bytes
    boot_ns: int
    came_utc_s: float

    def is_after(self, other: _Start) -> bool:
        if self.place != other.place:
            return self.place > other.place
        if self.boot_id == other.boot_id:
            return self.boot_ns > other.boot_ns
        return self.came_utc_s > other.came_utc_s


def _starts(db: sqlite3.Connection, device: str, which: str, kid: bytes) -> list[_Start]:
    rows = db.execute(
        "SELECT boot_id, boot_ns, behind, opened_utc_s, (SELECT max(seq) FROM introduction i"  # noqa: S608
        " WHERE i.device = m.device AND i.class = ? AND i.kid = m.kid) AS audit"
        f" FROM memory_chain m WHERE device = ? AND {which}",
        (int(RecordClass.AUDIT), device, kid),
    )
    return [
        _Start(
            (max(row["behind"], row["audit"] or 0), row["audit"] is None),
            row["boot_id"], row["boot_ns"], row["opened_utc_s"],
        )
        for row in rows
    ]  # fmt: skip


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


def cut(db: sqlite3.Connection, device: str, kid: bytes, seq: int) -> bool:
    """Audit introduces a key with this sequence: end every chain that stands open and began before
    it; whether there was one."""
    done = db.execute(
        "UPDATE memory_chain SET ended_seq = head_seq WHERE device = ? AND kid != ?"
        " AND ended_seq < head_seq AND behind < ?",
        (device, kid, seq),
    )
    return done.rowcount > 0


def open_chain(db: sqlite3.Connection, device: str) -> bytes | None:
    """The kid of the chain that a gateway goes on with now; None when none stands open."""
    rows = db.execute(
        "SELECT kid FROM memory_chain WHERE device = ? AND ended_seq < head_seq", (device,)
    ).fetchall()
    return next((bytes(r["kid"]) for r in rows if not is_over(db, device, r["kid"])), None)


def runs(db: sqlite3.Connection, device: str, kid: bytes, back: int) -> list[Run]:
    """What is stored of a chain without a hole, stretch by stretch, of its last ``back`` rows."""
    found: list[Run] = []
    for row in reversed(
        db.execute(
            "SELECT seq, hash FROM memory_record WHERE device = ? AND kid = ?"
            " ORDER BY seq DESC LIMIT ?",
            (device, kid, back),
        ).fetchall()
    ):
        seq, digest = int(row["seq"]), bytes(row["hash"])
        if found and found[-1].last == seq - 1:
            found[-1] = Run(found[-1].first, seq, digest)
        else:
            found.append(Run(seq, seq, digest))
    return found


def summary(db: sqlite3.Connection, device: str) -> dict[str, object]:
    """What a person is shown: records taken so, and whether the gateway still goes on like that."""
    (count,) = db.execute(
        "SELECT count(*) FROM memory_record WHERE device = ?", (device,)
    ).fetchone()
    row = db.execute(
        "SELECT 1 FROM memory_chain WHERE device = ? AND ended_seq < head_seq", (device,)
    ).fetchone()
    return {"records": int(count), "open": row is not None}
