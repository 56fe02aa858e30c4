"""What is missing in a chain: gaps, and a gateway's signed statements about them.

The gaps of a class do not overlap, so one is found by where it begins; nothing here looks at all of
them for one record, of which a gateway may leave out as many as it likes.
"""

from __future__ import annotations

import sqlite3

from edgewarden.judge.continuity import Gap, GapNote
from edgewarden.wire.record import MAX_SEQ, RecordClass
from edgewarden_fleet.store.records import neighbours


def open_gap(
    db: sqlite3.Connection, device: str, record_class: RecordClass, missing: tuple[int, int],
    now_utc_s: float,
) -> None:  # fmt: skip
    """State what did not come."""
    db.execute(
        "INSERT INTO gap VALUES (?, ?, ?, ?, ?, NULL)",
        (device, int(record_class), *missing, now_utc_s),
    )


def fill(db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int) -> None:
    """A late record came: shorten, split or remove the gap it stood in."""
    key = (device, int(record_class))
    row = db.execute(  # they do not overlap: only the last that begins here or before can hold it
        "SELECT * FROM gap WHERE device = ? AND class = ? AND first <= ? ORDER BY first DESC"
        " LIMIT 1",
        (*key, seq),
    ).fetchone()
    if row is None or row["last"] < seq:
        return
    db.execute("DELETE FROM gap WHERE device = ? AND class = ? AND first = ?", (*key, row["first"]))
    for first, last in ((row["first"], seq - 1), (seq + 1, row["last"])):
        if first <= last:
            db.execute(
                "INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?)",
                (*key, first, last, row["opened_utc_s"], row["explained"]),
            )


def unexplained(
    db: sqlite3.Connection, device: str, record_class: RecordClass, first: int = 1,
    last: int = MAX_SEQ,
) -> list[Gap]:  # fmt: skip
    """Open gaps that begin in a stretch, with the hashes at their edges."""
    rows = db.execute(
        "SELECT first, last FROM gap WHERE device = ? AND class = ? AND first BETWEEN ? AND ?"
        " AND explained IS NULL",
        (device, int(record_class), first, last),
    ).fetchall()
    return [_gap(db, device, record_class, row) for row in rows]


def beside(db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int) -> list[Gap]:
    """Open gaps that end right before a record or begin right behind it: at most two."""
    place = (device, int(record_class))
    rows = db.execute(
        "SELECT first, last FROM (SELECT * FROM gap WHERE device = ? AND class = ? AND first < ?"
        " ORDER BY first DESC LIMIT 1) WHERE last = ? AND explained IS NULL"
        " UNION ALL SELECT first, last FROM gap WHERE device = ? AND class = ? AND first = ?"
        " AND explained IS NULL",
        (*place, seq, seq - 1, *place, seq + 1),
    ).fetchall()
    return [_gap(db, device, record_class, row) for row in rows]


def _gap(db: sqlite3.Connection, device: str, record_class: RecordClass, row: sqlite3.Row) -> Gap:
    first, last = row["first"], row["last"]
    return Gap(
        first, last,
        neighbours(db, device, record_class, first).before,
        neighbours(db, device, record_class, last).after_prev,
    )  # fmt: skip


def end_before(
    db: sqlite3.Connection, device: str, record_class: RecordClass, released: int
) -> tuple[int, bytes] | None:
    """(sequence, hash) of the last record in front of the first gap that may still be filled; None
    when nothing is stored there.

    Args:
        released: gaps that end here or below cannot be filled: the gateway has let go of them.
    """
    row = db.execute(
        "SELECT seq, hash FROM record WHERE device = :device AND class = :class AND seq <"
        " coalesce((SELECT min(first) FROM gap WHERE device = :device AND class = :class"
        " AND explained IS NULL AND last > :released), :beyond) ORDER BY seq DESC LIMIT 1",
        {"device": device, "class": int(record_class), "released": released,
         "beyond": MAX_SEQ + 1},
    ).fetchone()  # fmt: skip
    return None if row is None else (int(row["seq"]), bytes(row["hash"]))


def explain(
    db: sqlite3.Connection, device: str, record_class: RecordClass, first: int, why: str
) -> None:
    """Write a signed reason beside a gap."""
    db.execute(
        "UPDATE gap SET explained = ? WHERE device = ? AND class = ? AND first = ?",
        (why, device, int(record_class), first),
    )


def add_note(
    db: sqlite3.Connection, device: str, record_class: RecordClass, note: GapNote, why: str
) -> None:
    """Keep a gateway's signed statement about records it dropped."""
    db.execute(
        "INSERT OR IGNORE INTO gap_note VALUES (?, ?, ?, ?, ?, ?, ?)",
        (device, int(record_class), note.first, note.last, note.before, note.after, why),
    )


def notes(
    db: sqlite3.Connection, device: str, record_class: RecordClass
) -> list[tuple[GapNote, str]]:
    """All statements about a class, with their reasons."""
    return [
        (GapNote(row["first"], row["last"], row["before"], row["after"]), row["why"])
        for row in db.execute(
            "SELECT * FROM gap_note WHERE device = ? AND class = ?", (device, int(record_class))
        )
    ]
