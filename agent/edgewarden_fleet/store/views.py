"""What people and scripts read: gateways, one gateway whole. Read-only, plain JSON-ready values.

The same shapes go to ``edgewarden-fleet gateways|show --json``, to the console's API and, escaped,
onto its page. Times are ISO 8601 in UTC. Schemas: ``edgewarden-fleet.gateways/1``,
``edgewarden-fleet.gateway/1``.

A verdict is the worst of what is known, as one word:

    critical   quarantine, a fork since the last one was lifted, a revoked device, contraindicated
               evidence
    warning    evidence with a warning, or none, or past its time; unexplained gaps; refused
               messages; a denied program; a contraindicated device behind it
    ok         none of these
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

from edgewarden.judge.continuity import explains
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, Evidence, decode_evidence
from edgewarden.wire.facts import Severity
from edgewarden.wire.quoted import decode_payload
from edgewarden.wire.record import RecordClass, label_of
from edgewarden_fleet.store import (
    anchors,
    attestation,
    continuity,
    gaps,
    late,
    memory,
    registry,
    replaced,
    submodules,
)

Json = dict[str, object]

SHOWN_GAPS = 100
SHOWN_FINDINGS = 50
SHOWN_REFUSALS = 20
SHOWN_VERDICTS = 50
SHOWN_LATE = 10
FLEETS_OWN = frozenset({"fork", "withheld", "unreadable_facts", "device_lineage"})
"""Findings about records that the fleet made by its own clock."""
HOST = "host"
"""Source name of host health readings; everything else is a sensor."""


def gateways(db: sqlite3.Connection, now_utc_s: float) -> Json:
    """Every gateway, one line each."""
    rows = db.execute("SELECT device FROM device ORDER BY device")
    names = [row[0] for row in rows if registry.RETIRED not in row[0]]
    lines = []
    for name in names:
        whole = gateway(db, name, now_utc_s)
        assert whole is not None
        keys = ("device", "tenant", "verdict", "reasons", "online", "last_seen_utc", "attestation",
                "enforcement", "reports_verified", "reports_rejected")  # fmt: skip
        lines.append({key: whole[key] for key in keys})
    return {"schema": "edgewarden-fleet.gateways/1", "gateways": lines}


def gateway(db: sqlite3.Connection, device: str, now_utc_s: float) -> Json | None:
    """One gateway whole; None when it is not registered."""
    row = db.execute("SELECT * FROM device WHERE device = ?", (device,)).fetchone()
    if row is None:
        return None
    session = db.execute(
        "SELECT * FROM session WHERE device = ? AND current = 1", (device,)
    ).fetchone()
    body: Json = {
        "schema": "edgewarden-fleet.gateway/1",
        "device": device,
        "tenant": row["tenant"],
        "online": bool(session and session["online"]),
        "last_seen_utc": iso(_last_seen(db, row)),
        "identity": {
            "grade": row["grade"],
            "serial": row["serial"],
            "not_after_utc": iso(row["not_after_utc_s"]),
            "enrolled_utc": iso(row["enrolled_utc_s"]),
            "revoked_utc": iso(row["revoked_utc_s"]),
        },
        "earlier": [
            {
                "device": r.name,
                "serial": r.serial,
                "grade": r.grade,
                "why": r.why,
                "replaced_utc": iso(r.at_utc_s),
            }
            for r in replaced.earlier(db, device)
        ],
        "quarantine": _quarantine(db, device),
        "attestation": _attestation(db, device, now_utc_s),
        "enforcement": _enforcement(db, device),
        "reports_verified": db.execute(
            "SELECT coalesce(sum(records), 0) FROM chain WHERE device = ?", (device,)
        ).fetchone()[0],
        "reports_rejected": _refused(db, device, "r"),
        "refused": _refused(db, device),
        "pending": _count(db, "SELECT count(*) FROM pending WHERE device = ?", device),
        "sensors": _sensors(db, device, host=False),
        "host": _sensors(db, device, host=True).get(HOST, {}),
        "counts": dict(
            db.execute("SELECT name, value FROM counter WHERE device = ?", (device,)).fetchall()
        ),
        "exec": _exec(db, device),
        "chain": {c.label: _chain(db, device, c, now_utc_s) for c in RecordClass},
        "memory": memory.summary(db, device),
        "findings": _findings(db, device),
        "recent_refusals": _recent_refusals(db, device),
    }
    body["verdict"], body["reasons"] = _verdict(db, device, body)
    return body


def iso(utc_s: float | None) -> str | None:
    """ISO 8601, whole seconds; None for never or for a time no calendar has."""
    if utc_s is None:
        return None
    try:
        return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def _last_seen(db: sqlite3.Connection, row: sqlite3.Row) -> float | None:
    """When something verified last came: a status, evidence (registry) or a record (chain)."""
    last = db.execute(
        "SELECT max(last_utc_s) FROM chain WHERE device = ?", (row["device"],)
    ).fetchone()[0]
    return max((t for t in (last, row["last_seen_utc_s"]) if t is not None), default=None)


def _attestation(db: sqlite3.Connection, device: str, now_utc_s: float) -> Json:
    row = db.execute(
        "SELECT * FROM result WHERE device = ? ORDER BY id DESC LIMIT 1", (device,)
    ).fetchone()
    made_late = [
        {"seq": one.seq, "result": one.overall, "made_utc": iso(one.made_utc_s),
         "age_s": None if one.age_s is None else round(one.age_s, 1),
         "received_utc": iso(one.received_utc_s)}
        for one in late.newest(db, device, SHOWN_LATE)
    ]  # fmt: skip
    if row is None:
        return {"result": "none", "grade": "G0", "facets": {}, "reasons": {}, "age_s": None,
                "expired": False, "version": None, "measurements": {}, "devices": {},
                "late": made_late}  # fmt: skip
    claims = _claims(db, row["evidence"])
    return {
        "result": row["overall"],
        "grade": row["grade"],
        "facets": json.loads(row["facets"]),
        "reasons": json.loads(row["reasons"]),
        "age_s": round(max(0.0, now_utc_s - row["issued_utc_s"]), 1),
        "expired": now_utc_s > row["expires_utc_s"],
        "version": row["version"],
        "measurements": {n: d.hex() for n, d in sorted(claims.measurements.items())},
        "devices": submodules.shown(db, device, claims.submods),
        "late": made_late,
    }


def _claims(db: sqlite3.Connection, evidence: int) -> Evidence:
    """The last evidence: what it measured is for a reference to add."""
    row = db.execute("SELECT data FROM evidence WHERE id = ?", (evidence,)).fetchone()
    envelope = cose.open_envelope(row[0], ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
    return decode_evidence(decode_payload(envelope.payload)[0])


def _quarantine(db: sqlite3.Connection, device: str) -> Json | None:
    """Why nothing that this gateway says is believed; None in ordinary times."""
    held = continuity.quarantined(db, device)
    if held is None:
        return None
    return {"kind": held.kind, "why": held.why, "since_utc": iso(held.since_utc_s)}


def _enforcement(db: sqlite3.Connection, device: str) -> Json:
    row = db.execute(
        "SELECT exec_tier, exec_mode FROM result WHERE device = ? ORDER BY id DESC LIMIT 1",
        (device,),
    ).fetchone()
    return {"tier": row[0] if row else None, "mode": row[1] if row else None}


def _refused(db: sqlite3.Connection, device: str, group: str | None = None) -> dict[str, int]:
    rows = db.execute(
        "SELECT reason, sum(count) FROM refusal_count"
        " WHERE device = ? AND coalesce(?, topic_group) = topic_group"
        " GROUP BY reason ORDER BY reason",
        (device, group),
    )
    return {row[0]: row[1] for row in rows}


def _sensors(db: sqlite3.Connection, device: str, host: bool) -> dict[str, Json]:
    out: dict[str, Json] = {}
    for row in db.execute(
        "SELECT * FROM reading WHERE device = ? ORDER BY source, name", (device,)
    ):
        if (row["source"] == HOST) is not host:
            continue
        sensor = out.setdefault(row["source"], {"readings": 0, "channels": {}})
        readings, channels = sensor["readings"], sensor["channels"]
        assert isinstance(readings, int)
        assert isinstance(channels, dict)
        sensor["readings"] = readings + row["count"]
        channels[row["name"]] = {
            "value": row["value"],
            "unit": row["unit"],
            "quality": row["quality"],
            "seen_utc": iso(row["at_utc_s"]),
            "readings": row["count"],
        }
    return out


def _exec(db: sqlite3.Connection, device: str) -> Json:
    counts = dict(
        db.execute(
            "SELECT action, count(*) FROM exec_verdict WHERE device = ? GROUP BY action", (device,)
        ).fetchall()
    )
    rows = db.execute(
        "SELECT * FROM exec_verdict WHERE device = ? AND action = 'denied'"
        " ORDER BY at_utc_s DESC LIMIT ?",
        (device, SHOWN_VERDICTS),
    )
    verdicts = [
        {
            "digest": row["digest"].hex(),
            "path": row["path"],
            "rule": row["rule"],
            "tier": row["tier"],
            "mode": row["mode"],
            "class": label_of(row["class"]),
            "seq": row["seq"],
            "seen_utc": iso(_seen(db, row)),
        }
        for row in rows
    ]
    names = ("allowed", "denied", "would_deny", "learned")
    return {**{name: counts.get(name, 0) for name in names}, "denied_verdicts": verdicts}


def _chain(
    db: sqlite3.Connection, device: str, record_class: RecordClass, now_utc_s: float
) -> Json:
    key = (device, int(record_class))
    row = db.execute("SELECT * FROM chain WHERE device = ? AND class = ?", key).fetchone()
    rows = db.execute(
        "SELECT * FROM gap WHERE device = ? AND class = ? ORDER BY first LIMIT ?",
        (*key, SHOWN_GAPS),
    ).fetchall()
    missing = db.execute(
        "SELECT coalesce(sum(last - first + 1), 0), count(*) FROM gap"
        " WHERE device = ? AND class = ? AND explained IS NULL",
        key,
    ).fetchone()
    refused = db.execute(
        "SELECT reason, count FROM refusal_count"
        " WHERE device = ? AND topic_group = 'r' AND class = ? ORDER BY reason",
        (device, record_class.label),
    )
    shown = [{"first": g["first"], "last": g["last"], "explained": g["explained"]} for g in rows]
    dropped, unexplained = missing
    tail = attestation.withheld_by(db, device, record_class, now_utc_s)
    if tail is not None:
        notes = gaps.notes(db, device, record_class)
        why = next((why for note, why in notes if explains(note, tail)), None)
        shown.append({"first": tail.first, "last": tail.last, "explained": why})
        if why is None:
            dropped, unexplained = dropped + tail.last - tail.first + 1, unexplained + 1
    return {
        "head": row["head_seq"] if row else 0,
        "head_sha256": row["head_hash"].hex() if row else None,
        "records": row["records"] if row else 0,
        "reordered": row["reordered"] if row else 0,
        "duplicates": row["duplicates"] if row else 0,
        "last_utc": iso(row["last_utc_s"]) if row else None,
        "dropped": dropped,
        "unexplained_gaps": unexplained,
        "gaps": shown,
        "withheld": None if tail is None else {"first": tail.first, "last": tail.last},
        "refused": {r[0]: r[1] for r in refused},
    }


def _seen(db: sqlite3.Connection, row: sqlite3.Row) -> float:
    """When it was seen; what a record says of a clock that nobody had set, by its anchors."""
    at = float(row["at_utc_s"])
    if row["class"] is None or ("kind" in row.keys() and row["kind"] in FLEETS_OWN):  # noqa: SIM118
        return at
    return at + anchors.shift_s(db, row["device"], row["class"], row["seq"])


def _findings(db: sqlite3.Connection, device: str) -> list[Json]:
    """Worst first, of those the newest: noise must not bury a denied program."""
    return [
        {
            "id": row["id"],
            "kind": row["kind"],
            "severity": _severity(row["severity"]),
            "text": row["text"],
            "seen_utc": iso(_seen(db, row)),
            "class": None if row["class"] is None else label_of(row["class"]),
            "seq": row["seq"],
        }
        for row in db.execute(
            "SELECT * FROM finding WHERE device = ? ORDER BY severity DESC, id DESC LIMIT ?",
            (device, SHOWN_FINDINGS),
        )
    ]


def _recent_refusals(db: sqlite3.Connection, device: str) -> list[Json]:
    return [
        {
            "reason": row["reason"],
            "text": row["text"],
            "topic": row["topic"],
            "sha256": row["sha256"].hex(),
            "bytes": row["bytes"],
            "received_utc": iso(row["received_utc_s"]),
        }
        for row in db.execute(
            "SELECT * FROM refusal WHERE device = ? ORDER BY id DESC LIMIT ?",
            (device, SHOWN_REFUSALS),
        )
    ]


def _severity(number: int) -> str:
    try:
        return Severity(number).name.lower()
    except ValueError:
        return str(number)


def _count(db: sqlite3.Connection, sql: str, device: str) -> int:
    return int(db.execute(sql, (device,)).fetchone()[0])


def _verdict(db: sqlite3.Connection, device: str, body: Json) -> tuple[str, list[str]]:
    attestation, identity, execs = body["attestation"], body["identity"], body["exec"]
    assert isinstance(attestation, dict)
    assert isinstance(identity, dict)
    assert isinstance(execs, dict)
    bad: list[str] = []
    so_so: list[str] = []
    if identity["revoked_utc"]:
        bad.append("revoked")
    quarantine = body["quarantine"]
    if quarantine is not None:
        assert isinstance(quarantine, dict)
        bad.append(f"quarantined ({quarantine['kind']}): two states of this gateway exist")
    forks = db.execute(
        "SELECT count(*) FROM finding WHERE device = ? AND kind = 'fork' AND at_utc_s > ?",
        (device, continuity.last_lifted(db, device)),
    ).fetchone()[0]
    if forks:
        bad.append(f"{forks} fork(s): two histories were signed")
    result = attestation["result"]
    if result == "contraindicated":
        bad.append("evidence contraindicated")
    elif result == "none":
        so_so.append("not attested" if attestation["age_s"] is None else "no reference values")
    elif result == "warning":
        so_so.append("evidence with a warning")
    ill = [n for n, one in attestation["devices"].items() if one["tier"] == "contraindicated"]
    if ill:
        so_so.append(f"contraindicated device(s) behind it: {', '.join(ill[:5])}")
    if attestation["expired"]:
        so_so.append("attestation is out of date")
    chain = body["chain"]
    assert isinstance(chain, dict)
    missing = sum(c["unexplained_gaps"] for c in chain.values())
    if missing:
        so_so.append(f"{missing} unexplained gap(s)")
    for name, c in chain.items():
        if c["withheld"]:
            so_so.append(
                f"{name} {c['withheld']['first']} to {c['withheld']['last']} named by evidence"
                " did not come"
            )
    refused = body["refused"]
    assert isinstance(refused, dict)
    if refused:
        total = sum(refused.values())
        so_so.append(f"{total} message(s) refused: {', '.join(refused)}")
    if execs["denied"]:
        so_so.append(f"{execs['denied']} program(s) denied")
    return ("critical" if bad else "warning" if so_so else "ok"), bad + so_so
