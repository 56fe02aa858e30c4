"""What gateways say of the devices behind them: statements as they came, inside verified records.

A statement is kept as its bytes, by its SHA-256: evidence names it so. One step each, inside the
caller's transaction.

A device's key is its lineage's: another key with no higher number than before, or a number that
went down, is a finding. The gateway pins keys forward only and counts a person's resets
(downstream/lineage.py), so that is a gateway whose pins were set back, or one that lies.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping

from edgewarden.appraise.devices import judge_submodules
from edgewarden.trust.keys import either_form_verified
from edgewarden.wire import cose
from edgewarden.wire.devices import Statement
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, decode_evidence
from edgewarden.wire.quoted import decode_payload
from edgewarden_fleet.store.records import add_finding

KEPT = 16
"""Statements of one device. Evidence is kept longer; what it named earlier shows as not here."""
MAX_NAMES = 256
"""Devices of one gateway over its life: four times what it can have at a time."""
_HIGH = 4  # OCSF severity_id


def add(
    db: sqlite3.Connection,
    gateway: str,
    place: tuple[int, int],
    statement: Statement,
    data: bytes,
    now_utc_s: float,
) -> None:
    """Keep a statement; tell when it breaks its device's lineage.

    Args:
        place: class and sequence of the record that carried it.
    """
    name = statement.device
    before = db.execute(
        "SELECT key, lineage FROM submodule WHERE device = ? AND name = ? AND seq < ?"
        " ORDER BY seq DESC LIMIT 1",
        (gateway, name, place[1]),
    ).fetchone()
    names = db.execute(
        "SELECT count(DISTINCT name) FROM submodule WHERE device = ? AND name != ?", (gateway, name)
    ).fetchone()[0]
    if names >= MAX_NAMES:
        return
    if before is not None:
        why = broken_lineage(before["key"], before["lineage"], statement)
        if why:
            text = f"device {name} behind it: {why}"
            add_finding(db, gateway, "device_lineage", _HIGH, text, now_utc_s, *place)
    db.execute(
        "INSERT OR REPLACE INTO submodule VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            gateway, name, hashlib.sha256(data).digest(), statement.key, statement.lineage, data,
            place[1], now_utc_s,
        ),
    )  # fmt: skip
    db.execute(
        "DELETE FROM submodule WHERE device = ? AND name = ? AND seq NOT IN"
        " (SELECT seq FROM submodule WHERE device = ? AND name = ? ORDER BY seq DESC LIMIT ?)",
        (gateway, name, gateway, name, KEPT),
    )


def broken_lineage(key: bytes, lineage: int, now: Statement) -> str:
    """Why a statement cannot follow the one before it; "" when it may."""
    if now.lineage < lineage:
        return f"its key was number {lineage} and is number {now.lineage}"
    if key and now.key and now.key != key and now.lineage == lineage:
        return "another key, and nobody reset it"
    return ""


def statements(
    db: sqlite3.Connection, gateway: str, named: Mapping[str, bytes] | None
) -> dict[bytes, bytes]:
    """SHA-256 -> statement, of those that evidence names and that have come."""
    found: dict[bytes, bytes] = {}
    for name, digest in (named or {}).items():
        row = db.execute(
            "SELECT data FROM submodule WHERE device = ? AND name = ? AND digest = ?",
            (gateway, name, digest),
        ).fetchone()
        if row is not None:
            found[digest] = bytes(row["data"])
    return found


def of_evidence(db: sqlite3.Connection, gateway: str, message: bytes) -> tuple[bytes, ...]:
    """The statements that a kept evidence message names, as far as they are kept, too."""
    if not message:
        return ()
    envelope = cose.open_envelope(message, cose.ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
    claims = decode_evidence(decode_payload(envelope.payload)[0])
    return tuple(statements(db, gateway, claims.submods).values())


def shown(
    db: sqlite3.Connection, gateway: str, named: Mapping[str, bytes] | None
) -> dict[str, dict[str, object]]:
    """Every device that evidence names, judged here and now, for people."""
    named = named or {}
    came = statements(db, gateway, named)
    detached = {name: came[digest] for name, digest in named.items() if digest in came}
    return {
        one.device: {
            "tier": one.tier.label,
            "why": one.why,
            "key_sha256": "" if one.statement is None else one.statement.key.hex(),
            "lineage": None if one.statement is None else one.statement.lineage,
            "evidence": one.statement is not None and bool(one.statement.evidence),
            "named_key": one.statement is not None and one.statement.named,
        }
        for one in judge_submodules(named, detached, either_form_verified)
    }
