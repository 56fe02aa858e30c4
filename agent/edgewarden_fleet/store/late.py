"""Late evidence at rest: made while nobody could ask, judged when its record came. One step each,
inside the caller's transaction. It never takes the place of a verdict on challenged evidence."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden.wire.evidence import Result
from edgewarden_fleet.store.appraised import Kept

KEPT_LATE = 2000
"""Per device: four months of an outage at one an hour."""


@dataclass(frozen=True, slots=True)
class Late:
    """What a late piece of evidence was worth: seq is its audit record's."""

    seq: int
    overall: str
    made_utc_s: float
    age_s: float | None
    received_utc_s: float


def add(db: sqlite3.Connection, late: Late, kept: Kept, result: Result) -> None:
    """Keep a piece of late evidence with its result."""
    db.execute(
        "INSERT OR IGNORE INTO late_result VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            result.device, late.seq, kept.evidence, kept.result, kept.facts, late.overall,
            late.made_utc_s, late.age_s, late.received_utc_s,
        ),
    )  # fmt: skip
    db.execute(
        "DELETE FROM late_result WHERE device = ? AND seq <= (SELECT seq FROM late_result"
        " WHERE device = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (result.device, result.device, KEPT_LATE),
    )


def at(db: sqlite3.Connection, device: str, seq: int) -> Kept | None:
    """The late evidence of one audit record."""
    row = db.execute(
        "SELECT evidence, data, facts FROM late_result WHERE device = ? AND seq = ?", (device, seq)
    ).fetchone()
    return None if row is None else Kept(row["evidence"], row["data"], row["facts"])


def newest(db: sqlite3.Connection, device: str, count: int) -> list[Late]:
    """The last ones, newest first."""
    return [
        Late(row["seq"], row["overall"], row["made_utc_s"], row["age_s"], row["received_utc_s"])
        for row in db.execute(
            "SELECT * FROM late_result WHERE device = ? ORDER BY seq DESC LIMIT ?", (device, count)
        )
    ]
