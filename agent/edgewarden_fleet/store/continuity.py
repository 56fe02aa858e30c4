"""Continuity tokens and quarantines at rest. One step each, inside the caller's transaction;
order/ratchet.py decides.

While two states of a gateway reported, its chains may hold what the other one signed. When an
operator lifts the quarantine (`edgewarden-fleet quarantine lift`), every class stands open until
the next introduction that the identity key signs in it: that one says where the true chain goes on.
What is stored at its number and above is the other history; where its predecessor does not fit
what is stored, so is what lies above the first fork. It is set aside whole (table aside), with its
bytes, never deleted, and the class is closed.

While a class stands open no fork and no older head begins a quarantine anew; a token that is spent
twice does (verify/ratchet.py).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden.order.ratchet import Around
from edgewarden.wire.ratchet import Spent
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass
from edgewarden_fleet.store.attestation import KEPT_NONCES
from edgewarden_fleet.store.schema import transaction

KEPT_STEPS = 2 * KEPT_NONCES
"""Presentations remembered per device: whatever challenge is still outstanding was sent within so
many (KEPT_NONCES before it, KEPT_NONCES behind it, a step each)."""


OF_RECORDS = ("record", "introduction", "exec_verdict", "claim")
"""Tables whose rows stand for one record each, by (device, class, seq)."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a gateway is not believed at present."""

    device: str
    kind: str
    why: str
    since_utc_s: float


def head(db: sqlite3.Connection, device: str) -> Spent | None:
    """The newest presentation; None when there is none."""
    row = db.execute(
        "SELECT step, token, mark FROM continuity WHERE device = ? ORDER BY step DESC LIMIT 1",
        (device,),
    ).fetchone()
    return None if row is None else Spent(row[0], row[1], row[2])


def around(
    db: sqlite3.Connection, device: str, step: int, nonce: bytes, secret_id: bytes
) -> Around:
    """What is known of a step's place. The door stands open where another secret made the head."""
    same = db.execute(
        "SELECT step, token, mark FROM continuity WHERE device = ? AND step = ?", (device, step)
    ).fetchone()
    floor = db.execute("SELECT step FROM continuity_floor WHERE nonce = ?", (nonce,)).fetchone()
    newest = db.execute(
        "SELECT secret_id FROM continuity WHERE device = ? ORDER BY step DESC LIMIT 1", (device,)
    ).fetchone()
    lifted = db.execute(
        "SELECT 1 FROM quarantine q WHERE q.device = ? AND lifted_utc_s IS NOT NULL", (device,)
    ).fetchone()
    return Around(
        None if same is None else Spent(same[0], same[1], same[2]),
        0 if floor is None else floor[0],
        newest[0] != secret_id if newest else lifted is not None,
    )


def save(
    db: sqlite3.Connection, device: str, spent: Spent, secret_id: bytes, now_utc_s: float
) -> None:
    """Keep a presentation as the newest."""
    db.execute("DELETE FROM continuity WHERE device = ? AND step >= ?", (device, spent.step))
    db.execute(
        "INSERT INTO continuity VALUES (?, ?, ?, ?, ?, ?)",
        (device, spent.step, spent.token, spent.mark, secret_id, now_utc_s),
    )
    db.execute(
        "DELETE FROM continuity WHERE device = ? AND step <= (SELECT step FROM continuity"
        " WHERE device = ? ORDER BY step DESC LIMIT 1 OFFSET ?)",
        (device, device, KEPT_STEPS),
    )


def step_of(db: sqlite3.Connection, device: str) -> int:
    """How far a gateway's thread has come; 0 when it has none."""
    known = head(db, device)
    return 0 if known is None else known.step


def set_floor(db: sqlite3.Connection, device: str, nonce: bytes, step: int) -> None:
    """Remember how far a gateway's thread had come when a challenge was made."""
    db.execute("INSERT OR REPLACE INTO continuity_floor VALUES (?, ?, ?)", (nonce, device, step))
    db.execute(
        "DELETE FROM continuity_floor WHERE device = ? AND nonce NOT IN (SELECT nonce FROM nonce)",
        (device,),
    )


def forget(db: sqlite3.Connection, device: str) -> None:
    """Drop a gateway's thread: a replaced board, or an operator's word. What comes next begins
    another."""
    db.execute("DELETE FROM continuity WHERE device = ?", (device,))
    db.execute("DELETE FROM continuity_floor WHERE device = ?", (device,))


def quarantined(db: sqlite3.Connection, device: str) -> Quarantine | None:
    """The open quarantine of a gateway."""
    row = db.execute(
        "SELECT * FROM quarantine WHERE device = ? AND lifted_utc_s IS NULL", (device,)
    ).fetchone()
    return None if row is None else _quarantine(row)


def all_quarantined(db: sqlite3.Connection) -> list[Quarantine]:
    """Every open quarantine, oldest first."""
    rows = db.execute("SELECT * FROM quarantine WHERE lifted_utc_s IS NULL ORDER BY since_utc_s")
    return [_quarantine(row) for row in rows]


def last_lifted(db: sqlite3.Connection, device: str) -> float:
    """When a quarantine was last lifted; 0 when never."""
    row = db.execute(
        "SELECT max(lifted_utc_s) FROM quarantine WHERE device = ?", (device,)
    ).fetchone()
    return float(row[0] or 0.0)


def begin_quarantine(
    db: sqlite3.Connection, device: str, kind: str, why: str, now_utc_s: float
) -> bool:
    """Believe a gateway no more; False when that is so already."""
    if quarantined(db, device) is not None:
        return False
    db.execute(
        "INSERT INTO quarantine (device, kind, why, since_utc_s) VALUES (?, ?, ?, ?)",
        (device, kind[:32], why[:300], now_utc_s),
    )
    return True


def lift_quarantine(db: sqlite3.Connection, device: str, why: str, now_utc_s: float) -> bool:
    """End it: the state that the gateway shows next is taken as the true one. False when there is
    none."""
    with transaction(db):
        if quarantined(db, device) is None:
            return False
        db.execute(
            "UPDATE quarantine SET lifted_utc_s = ?, lifted_why = ?"
            " WHERE device = ? AND lifted_utc_s IS NULL",
            (now_utc_s, why[:300], device),
        )
        forget(db, device)
        open_chains(db, device)
    return True


def _quarantine(row: sqlite3.Row) -> Quarantine:
    return Quarantine(row["device"], row["kind"], row["why"], row["since_utc_s"])


def open_chains(db: sqlite3.Connection, device: str) -> None:
    """Let the next introduction in each class say where it goes on."""
    for record_class in RecordClass:
        db.execute("INSERT OR IGNORE INTO open_chain VALUES (?, ?)", (device, int(record_class)))


def is_open(db: sqlite3.Connection, device: str, record_class: RecordClass | None = None) -> bool:
    """Does a class, or any, stand open?"""
    wanted = None if record_class is None else int(record_class)
    row = db.execute(
        "SELECT 1 FROM open_chain WHERE device = ? AND coalesce(?, class) = class",
        (device, wanted),
    ).fetchone()
    return row is not None


def lowest_fork(db: sqlite3.Connection, device: str, record_class: RecordClass) -> int | None:
    """Where the two histories parted: the lowest fork since the quarantine that was lifted last."""
    row = db.execute(
        "SELECT min(seq) FROM finding WHERE device = ? AND class = ? AND kind = 'fork' AND"
        " at_utc_s >= (SELECT max(since_utc_s) FROM quarantine WHERE device = ?"
        " AND lifted_utc_s IS NOT NULL)",
        (device, int(record_class), device),
    ).fetchone()
    return None if row is None else row[0]


def go_on_at(
    db: sqlite3.Connection, device: str, record_class: RecordClass, seq: int, now_utc_s: float
) -> int:
    """Set aside what is stored at a number and above, and close the class; returns how many.

    Challenges that went out before named the other history's heads: they are void.
    """
    key = (device, int(record_class))
    moved = db.execute(
        "INSERT INTO aside (device, class, seq, hash, received_utc_s, aside_utc_s, data)"
        " SELECT device, class, seq, hash, received_utc_s, ?, data FROM record"
        " WHERE device = ? AND class = ? AND seq >= ?",
        (now_utc_s, *key, seq),
    ).rowcount
    for table in OF_RECORDS:
        db.execute(
            f"DELETE FROM {table} WHERE device = ? AND class = ? AND seq >= ?",  # noqa: S608
            (*key, seq),
        )
    db.execute("DELETE FROM gap WHERE device = ? AND class = ? AND first >= ?", (*key, seq))
    db.execute("UPDATE gap SET last = min(last, ?) WHERE device = ? AND class = ?", (seq - 1, *key))
    head = db.execute(
        "SELECT seq, hash FROM record WHERE device = ? AND class = ? ORDER BY seq DESC LIMIT 1",
        key,
    ).fetchone()
    db.execute(
        "UPDATE chain SET head_seq = ?, head_hash = ? WHERE device = ? AND class = ?",
        (head[0] if head else 0, head[1] if head else NO_PREDECESSOR, *key),
    )
    db.execute("DELETE FROM open_chain WHERE device = ? AND class = ?", key)
    if moved:
        db.execute("DELETE FROM nonce WHERE device = ?", (device,))
    return moved
