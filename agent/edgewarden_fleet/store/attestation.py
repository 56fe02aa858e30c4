"""Sessions, nonces, evidence, results, references at rest. One step each, inside the caller's
transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from edgewarden.appraise.appraisal import IssuedNonce
from edgewarden.judge.continuity import Claim, Gap, withheld
from edgewarden.wire.evidence import Evidence, Heads, Result, Status
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.store import records

KEPT_EVIDENCE = 1000
"""Pieces of evidence and results kept per device: three days at a challenge every five minutes."""
KEPT_NONCES = 64
"""Challenges remembered per device, answered or not; an older one is unknown, which is refused as
well."""
KEPT_CLAIMS = 64
"""Chain ends remembered per device and class, highest first: all that evidence can name before the
first of them is due (challenges are seconds apart, a deadline is two minutes)."""
KEPT_BOOTS = 4096
"""Boots remembered per device, so that no status of a past one starts a session again."""


@dataclass(frozen=True, slots=True)
class Session:
    """The newest session of a device; heads as its status named them."""

    device: str
    boot_id: bytes
    session_ns: int
    online: bool
    heads: Mapping[RecordClass, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge: when it was issued, and the highest sequence stored of each class then."""

    at_utc_s: float
    heads: Mapping[RecordClass, int]


def current_session(db: sqlite3.Connection, device: str) -> Session | None:
    """The session that counts."""
    row = db.execute("SELECT * FROM session WHERE device = ? AND current = 1", (device,)).fetchone()
    if row is None:
        return None
    return _session(row)


def session_of_boot(db: sqlite3.Connection, device: str, boot_id: bytes) -> Session | None:
    """The newest session of one boot, whether it counts or not."""
    row = db.execute(
        "SELECT * FROM session WHERE device = ? AND boot_id = ?", (device, boot_id)
    ).fetchone()
    if row is None:
        return None
    return _session(row)


def _session(row: sqlite3.Row) -> Session:
    heads = {RecordClass(int(c)): int(seq) for c, seq in json.loads(row["heads"]).items()}
    return Session(row["device"], row["boot_id"], row["session_ns"], bool(row["online"]), heads)


def save_session(db: sqlite3.Connection, status: Status, now_utc_s: float) -> None:
    """Make a status the session that counts."""
    db.execute("UPDATE session SET current = 0 WHERE device = ?", (status.device,))
    db.execute(
        "INSERT INTO session VALUES (?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET"
        " session_ns = excluded.session_ns, online = excluded.online, current = 1,"
        " received_utc_s = excluded.received_utc_s, heads = excluded.heads",
        (
            status.device,
            status.boot_id,
            status.session_ns,
            int(status.online),
            now_utc_s,
            json.dumps({str(int(c)): seq for c, seq in status.heads.items()}),
        ),
    )
    db.execute(
        "DELETE FROM session WHERE device = ? AND current = 0 AND rowid <="
        " (SELECT rowid FROM session WHERE device = ? ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        (status.device, status.device, KEPT_BOOTS),
    )


def add_nonce(
    db: sqlite3.Connection, nonce: bytes, device: str, now_utc_s: float, expires_utc_s: float
) -> None:
    """Remember a challenge together with the heads stored at that moment, which may be past."""
    heads = {
        str(row["class"]): row["head"]
        for row in db.execute(
            "SELECT class, coalesce((SELECT seq FROM record r WHERE r.device = c.device AND"
            " r.class = c.class AND r.received_utc_s <= ? ORDER BY seq DESC LIMIT 1), 0) AS head"
            " FROM chain c WHERE device = ?",
            (now_utc_s, device),
        )
    }
    db.execute(
        "INSERT INTO nonce VALUES (?, ?, ?, ?, ?, NULL)",
        (nonce, device, now_utc_s, expires_utc_s, json.dumps(heads)),
    )
    db.execute(
        "DELETE FROM nonce WHERE device = ? AND nonce NOT IN (SELECT nonce FROM nonce"
        " WHERE device = ? ORDER BY issued_utc_s DESC LIMIT ?)",
        (device, device, KEPT_NONCES),
    )


def last_challenge(db: sqlite3.Connection, device: str) -> float:
    """When a device was last challenged; 0 when never."""
    row = db.execute("SELECT max(issued_utc_s) FROM nonce WHERE device = ?", (device,)).fetchone()
    return float(row[0] or 0.0)


def consume_nonce(
    db: sqlite3.Connection, nonce: bytes, device: str, now_utc_s: float
) -> tuple[IssuedNonce | None, Asked]:
    """Mark a nonce as answered; returns how it stood before, and what was kept with it. What was
    issued to another device stays as it is: nobody uses up somebody else's."""
    row = db.execute("SELECT * FROM nonce WHERE nonce = ?", (nonce,)).fetchone()
    if row is None:
        return None, Asked(0.0, {})
    db.execute(
        "UPDATE nonce SET used_utc_s = ? WHERE nonce = ? AND device = ?",
        (now_utc_s, nonce, device),
    )
    heads = {RecordClass(int(c)): int(seq) for c, seq in json.loads(row["heads"]).items()}
    issued = IssuedNonce(row["device"], row["expires_utc_s"], row["used_utc_s"] is not None)
    return issued, Asked(row["issued_utc_s"], heads)


def due(db: sqlite3.Connection, before_utc_s: float) -> list[str]:
    """Devices on line that were last challenged before a moment."""
    return [
        row[0]
        for row in db.execute(
            "SELECT s.device FROM session s JOIN device d ON d.device = s.device"
            " WHERE s.current = 1 AND s.online = 1 AND d.revoked_utc_s IS NULL AND"
            " coalesce((SELECT max(issued_utc_s) FROM nonce n WHERE n.device = s.device), 0) < ?",
            (before_utc_s,),
        )
    ]


def key_boot(db: sqlite3.Connection, device: str, cose_key: bytes) -> bytes | None:
    """Boot id under which a report key was introduced."""
    row = db.execute(
        "SELECT boot_id FROM report_key WHERE device = ? AND cose_key = ?", (device, cose_key)
    ).fetchone()
    return None if row is None else bytes(row[0])


def add_result(
    db: sqlite3.Connection, evidence: Evidence, evidence_data: bytes, result: Result,
    result_data: bytes, now_utc_s: float,
) -> int:  # fmt: skip
    """Keep evidence (for another appraisal later) and its signed result; the result's number."""
    row = db.execute(
        "INSERT INTO evidence (device, received_utc_s, data) VALUES (?, ?, ?) RETURNING id",
        (result.device, now_utc_s, evidence_data),
    ).fetchone()
    kept = db.execute(
        "INSERT INTO result (device, evidence, overall, grade, facets, reasons, version,"
        " exec_tier, exec_mode, issued_utc_s, expires_utc_s, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            result.device, row[0], result.overall.label, result.grade,
            json.dumps({name: tier.label for name, tier in result.facets.items()}),
            json.dumps(dict(result.reasons)), evidence.version, evidence.exec_tier[:32],
            evidence.exec_mode[:32], result.issued_utc_s, result.expires_utc_s, result_data,
        ),
    ).fetchone()  # fmt: skip
    for table in ("result", "evidence"):
        db.execute(
            f"DELETE FROM {table} WHERE device = ? AND id <= (SELECT id FROM {table}"  # noqa: S608
            " WHERE device = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (result.device, result.device, KEPT_EVIDENCE),
        )
    return int(kept[0])


def add_claims(db: sqlite3.Connection, device: str, heads: Heads, due_utc_s: float) -> None:
    """Remember the ends of chains that evidence named; forget those that came."""
    db.execute(
        "DELETE FROM claim WHERE device = ? AND EXISTS (SELECT 1 FROM record r WHERE"
        " r.device = claim.device AND r.class = claim.class AND r.seq = claim.seq)",
        (device,),
    )
    for record_class, (seq, digest) in heads.items():
        if seq > records.chain_of(db, device, record_class).head_seq:
            db.execute(
                "INSERT OR IGNORE INTO claim VALUES (?, ?, ?, ?, ?, 0)",
                (device, int(record_class), seq, digest, due_utc_s),
            )
        db.execute(
            "DELETE FROM claim WHERE device = ? AND class = ? AND seq <= (SELECT seq FROM claim"
            " WHERE device = ? AND class = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (device, int(record_class), device, int(record_class), KEPT_CLAIMS),
        )


def withheld_by(
    db: sqlite3.Connection, device: str, record_class: RecordClass, now_utc_s: float
) -> Gap | None:
    """What evidence named and what did not come by its deadline."""
    claims = [
        Claim(row["seq"], row["hash"], row["due_utc_s"])
        for row in db.execute(
            "SELECT seq, hash, due_utc_s FROM claim WHERE device = ? AND class = ?",
            (device, int(record_class)),
        )
    ]
    return withheld(records.chain_of(db, device, record_class), claims, now_utc_s)


def tell_once(db: sqlite3.Connection, device: str, record_class: RecordClass, gap: Gap) -> bool:
    """True the first time a stretch is told of; what is withheld longer is the same stretch."""
    key = (device, int(record_class), gap.first, gap.last)
    told = db.execute(
        "SELECT max(told) FROM claim WHERE device = ? AND class = ? AND seq BETWEEN ? AND ?", key
    ).fetchone()[0]
    db.execute(
        "UPDATE claim SET told = 1 WHERE device = ? AND class = ? AND seq BETWEEN ? AND ?", key
    )
    return not told
