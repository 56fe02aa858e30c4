"""What each appraisal went by, kept beside its result, so that it can be judged again. One step
each, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """Stored evidence, its signed result, and the facts behind it (verify/bundle.py)."""

    evidence: bytes
    result: bytes
    facts: bytes


def keep(db: sqlite3.Connection, result: int, device: str, facts: bytes) -> None:
    """Keep facts beside a result; those of results that are gone go too."""
    db.execute("INSERT INTO appraised VALUES (?, ?, ?)", (result, device, facts))
    db.execute(
        "DELETE FROM appraised WHERE device = ? AND result <"
        " (SELECT coalesce(min(id), 0) FROM result WHERE device = ?)",
        (device, device),
    )


def newest(db: sqlite3.Connection, device: str, back: int = 0) -> Kept | None:
    """The last appraisal of a device, or the one so many before it."""
    row = db.execute(
        "SELECT e.data AS evidence, r.data AS result, a.facts FROM appraised a"
        " JOIN result r ON r.id = a.result JOIN evidence e ON e.id = r.evidence"
        " WHERE a.device = ? ORDER BY a.result DESC LIMIT 1 OFFSET ?",
        (device, back),
    ).fetchone()
    return None if row is None else Kept(row["evidence"], row["result"], row["facts"])


def keep_issuing(db: sqlite3.Connection, device: str, certificate: bytes) -> None:
    """Remember the issuing certificate that whole evidence carried."""
    db.execute("INSERT OR REPLACE INTO issuing VALUES (?, ?)", (device, certificate))


def issuing(db: sqlite3.Connection, device: str) -> bytes | None:
    """The issuing certificate of a device's last whole evidence."""
    row = db.execute("SELECT certificate FROM issuing WHERE device = ?", (device,)).fetchone()
    return None if row is None else bytes(row[0])
