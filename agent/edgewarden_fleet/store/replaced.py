"""A board is replaced: the site keeps its name and its history, the board's keys go for ever.

What was known of the old board moves aside under ``<device>~<n>``, a name that no certificate can
carry: its records, evidence, results and findings stay what they are and can be looked at by that
name. The device id is free for one enrolment with a new token, by a new key; its chains begin anew.
The broker knows the new board by another name (wire/topics.py), the old one's is let in no more.

In one transaction, in order:

1. every table with a device's rows, but what belongs to the place and not to the board (reference
   values), is renamed
2. the old board is revoked under its new name: its key is known and never again anybody's
3. tokens that were made for the device and nonces that wait for the old board are void
4. its TPM may be enrolled again (lineage.py): the same board with a new card is a replacement, too

    retire(db, "gw-demo", "board burnt", now_utc_s) == "gw-demo~1"
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden_fleet.store import lineage
from edgewarden_fleet.store.registry import RETIRED
from edgewarden_fleet.store.schema import transaction

OF_THE_PLACE = frozenset({"reference", "replaced"})
VOID = ("token", "nonce", "pending")


@dataclass(frozen=True, slots=True)
class Replaced:
    """One board that is gone.

    Attributes:
        name: what its rows are called now.
    """

    name: str
    serial: str
    grade: str
    why: str
    at_utc_s: float


def retire(db: sqlite3.Connection, device: str, why: str, now_utc_s: float) -> str | None:
    """Move a board aside; returns its new name, or None when no such device is enrolled."""
    with transaction(db):
        row = db.execute("SELECT * FROM device WHERE device = ?", (device,)).fetchone()
        if row is None or RETIRED in device:
            return None
        count = db.execute("SELECT count(*) FROM replaced WHERE device = ?", (device,)).fetchone()[
            0
        ]
        name = f"{device}{RETIRED}{count + 1}"
        lineage.forget(db, device)
        for table in VOID:
            db.execute(f"DELETE FROM {table} WHERE device = ?", (device,))  # noqa: S608 - a constant
        for table in _tables(db):
            db.execute(
                f"UPDATE {table} SET device = ? WHERE device = ?",  # noqa: S608 - the schema's name
                (name, device),
            )
        db.execute(
            "UPDATE device SET revoked_utc_s = coalesce(revoked_utc_s, ?),"
            " revoked_why = coalesce(revoked_why, 'replaced') WHERE device = ?",
            (now_utc_s, name),
        )
        db.execute("INSERT INTO replaced VALUES (?, ?, ?, ?)", (device, name, why[:200], now_utc_s))
    return name


def earlier(db: sqlite3.Connection, device: str) -> list[Replaced]:
    """The boards that stood in this place before, the last one first."""
    rows = db.execute(
        "SELECT r.name, d.serial, d.grade, r.why, r.at_utc_s FROM replaced r"
        " JOIN device d ON d.device = r.name WHERE r.device = ? ORDER BY r.at_utc_s DESC, r.name",
        (device,),
    )
    return [Replaced(*row) for row in rows]


def _tables(db: sqlite3.Connection) -> list[str]:
    """Tables whose rows are a device's."""
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [
        name
        for name in names
        if name not in OF_THE_PLACE
        and any(c["name"] == "device" for c in db.execute(f"PRAGMA table_info({name})"))
    ]
