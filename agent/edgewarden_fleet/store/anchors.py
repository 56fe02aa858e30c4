"""Anchors at rest, and records placed in real time by them (order/anchors.py).

A gateway's own signed word about one moment of one boot. What was stored of a record stays as it
was signed; only what is shown of it is read with the anchors that came later.
"""

from __future__ import annotations

import sqlite3

from edgewarden.order.anchors import Made, place
from edgewarden.wire.timing import Moment

KEPT_ANCHORS = 4096
"""Per device; a start makes one at most."""


def add(db: sqlite3.Connection, device: str, boot_id: bytes, moment: Moment, source: str) -> None:
    """Remember one."""
    m = moment
    db.execute(
        "INSERT OR REPLACE INTO anchor VALUES (?, ?, ?, ?, ?, ?)",
        (device, boot_id, m.boot_ns, m.utc_ns, m.uncertainty_ms, source[:32]),
    )
    db.execute(
        "DELETE FROM anchor WHERE device = ? AND rowid <= (SELECT rowid FROM anchor"
        " WHERE device = ? ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        (device, device, KEPT_ANCHORS),
    )


def shift_s(db: sqlite3.Connection, device: str, record_class: int, seq: int) -> float:
    """How far what a record says of times is off, in seconds; 0 when nothing tells."""
    row = db.execute(
        "SELECT boot_id, boot_ns, wall_ns, uncertainty_ms FROM record"
        " WHERE device = ? AND class = ? AND seq = ?",
        (device, record_class, seq),
    ).fetchone()
    if row is None or row["uncertainty_ms"] is not None:
        return 0.0
    anchors = [
        Moment(a["boot_ns"], a["utc_ns"], a["uncertainty_ms"])
        for a in db.execute(
            "SELECT * FROM anchor WHERE device = ? AND boot_id = ?", (device, row["boot_id"])
        )
    ]
    placed = place(Made(row["boot_ns"], row["wall_ns"], None), anchors)
    return float(placed.utc_ns - row["wall_ns"]) / 1e9
