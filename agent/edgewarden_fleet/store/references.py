"""Reference sets at rest: signed messages and nothing derived from them.

What a set says is read from its signed bytes each time it is loaded, so whoever can write to this
file and holds no key adds nothing that counts. One step each, inside the caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from edgewarden.wire.references import set_id


@dataclass(frozen=True, slots=True)
class StoredSet:
    """One set as it was added; sources: file -> SHA-256 in hex, what digests were computed from."""

    set_id: bytes
    data: bytes
    sources: Mapping[str, str]
    added_utc_s: float


def add(db: sqlite3.Connection, data: bytes, sources: Mapping[str, str], now_utc_s: float) -> bool:
    """Keep a signed set; False when it is kept already."""
    done = db.execute(
        "INSERT OR IGNORE INTO reference_set (set_id, data, sources, added_utc_s)"
        " VALUES (?, ?, ?, ?)",
        (set_id(data), data, json.dumps(dict(sources)), now_utc_s),
    )
    return done.rowcount == 1


def newest(db: sqlite3.Connection) -> int:
    """Moves whenever a set is added."""
    return int(db.execute("SELECT coalesce(max(id), 0) FROM reference_set").fetchone()[0])


def every(db: sqlite3.Connection) -> list[StoredSet]:
    """All sets, in the order they were added."""
    return [
        StoredSet(row["set_id"], row["data"], json.loads(row["sources"]), row["added_utc_s"])
        for row in db.execute("SELECT * FROM reference_set ORDER BY id")
    ]
