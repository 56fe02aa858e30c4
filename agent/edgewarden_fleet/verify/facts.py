"""What a believed record says, taken apart for the store: readings, counters, exec verdicts,
findings.

The record stands whatever its body holds: signature and chain are one matter, a fact this version
cannot read is another. Such a body becomes a finding ``unreadable_facts`` and nothing of it is
used.

Gateways state the time of a fact as CLOCK_BOOTTIME; the record that carries it ties that to wall
time (record.py, field 6).
"""

from __future__ import annotations

import sqlite3

from edgewarden.errors import WireRefusal
from edgewarden.judge.describe import describe
from edgewarden.wire.devices import decode_statement
from edgewarden.wire.facts import OCSF, Event, Severity, event_from_map, readings_from_senml
from edgewarden.wire.record import Kind, Record
from edgewarden.wire.timing import ANCHOR_CODE, moment_from
from edgewarden_fleet.store import anchors, records, submodules

MAX_ITEMS = 65_536
"""Readings or events of one record; a 128 kB record holds fewer than this at two bytes each."""
MAX_CHANNELS = 1024
"""Channels (and counters) shown per device: 32 ports with 32 channels. Further names are not
shown; their records stand."""
MAX_TEXT = 300
MAX_COUNT = 2**53 - 1
"""Where a counter stops: what every JSON reader keeps exact. Two of these still fit SQLite's 64
bits; beyond them it would answer in floating point, which a STRICT table refuses."""

Place = tuple[int, int]
"""(class, sequence) of a record; (MEMORY, number of its row) of one in memory."""


def keep(
    db: sqlite3.Connection, record: Record, now_utc_s: float, place: Place | None = None
) -> None:
    """Store the facts of one accepted record.

    Args:
        place: what its facts are found by, where that is not class and sequence (memory.py).
    """
    place = place or (int(record.record_class), record.seq)
    try:
        if record.kind == Kind.BATCH:
            _keep_batch(db, record, place, now_utc_s)
        elif record.kind == Kind.EVENT:
            _keep_event(db, record, place, 0, event_from_map(record.body), now_utc_s)
    except WireRefusal as refusal:
        records.add_finding(
            db, record.device, "unreadable_facts", Severity.MEDIUM, refusal.text, now_utc_s, *place
        )


def _keep_batch(db: sqlite3.Connection, record: Record, place: Place, now_utc_s: float) -> None:
    events = record.body.get("events", [])
    counts = record.body.get("counts", {})
    if not isinstance(events, list) or not isinstance(counts, dict) or len(events) > MAX_ITEMS:
        raise WireRefusal("bad_fact", "events or counts is not what it should be")
    readings = readings_from_senml(record.body.get("readings", []), record.time.boot_ns)
    parsed = [event_from_map(event, f"events[{i}]") for i, event in enumerate(events)]
    numbers = {k: v for k, v in counts.items() if isinstance(k, str) and type(v) is int}
    latest: dict[tuple[str, str], tuple[str, str, float, int, str]] = {}
    for r in readings:
        key = (r.source[:64], r.name[:64])
        count = latest[key][3] if key in latest else 0
        # A clock years ahead must not stand in front of what comes after it was set.
        at = min(_wall(record, r.seen_mono_ns), now_utc_s)
        many = 1 if r.spread is None else r.spread.count
        count = min(count + many, MAX_COUNT)
        latest[key] = (r.unit[:32], _show(r.value), at, count, str(r.quality))
    for source, name in _room(db, "reading", "source, name", record.device, list(latest)):
        unit, value, at, count, quality = latest[(source, name)]
        db.execute(
            "INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " unit = CASE WHEN excluded.at_utc_s >= at_utc_s THEN excluded.unit ELSE unit END,"
            " quality = CASE WHEN excluded.at_utc_s >= at_utc_s THEN excluded.quality"
            " ELSE quality END,"
            " value = CASE WHEN excluded.at_utc_s >= at_utc_s THEN excluded.value ELSE value END,"
            " at_utc_s = max(at_utc_s, excluded.at_utc_s),"
            " count = min(count + excluded.count, ?)",
            (record.device, source, name, unit, value, at, count, quality, MAX_COUNT),
        )
    for (name,) in _room(db, "counter", "name", record.device, [(n,) for n in numbers]):
        number = numbers[name]
        db.execute(
            "INSERT INTO counter VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = min(value + excluded.value, ?)",
            (record.device, name[:64], max(0, min(number, MAX_COUNT)), MAX_COUNT),
        )
    for i, event in enumerate(parsed):
        _keep_event(db, record, place, i, event, now_utc_s)


def _keep_event(
    db: sqlite3.Connection, record: Record, place: Place, item: int, event: Event, now_utc_s: float
) -> None:
    at = _wall(record, event.seen_mono_ns)
    if event.code == ANCHOR_CODE:
        _keep_anchor(db, record, event)
    detail = event.detail
    said = detail.get("device_statement")
    if event.class_uid == OCSF.CONFIG_STATE and isinstance(said, bytes):
        submodules.add(db, record.device, place, decode_statement(said), said, now_utc_s)
        return
    action = detail.get("action")
    if event.class_uid == OCSF.PROCESS_ACTIVITY and isinstance(action, str):
        file = detail.get("file")
        path, digest = (
            (file.get("path"), file.get("sha256")) if isinstance(file, dict) else ("", b"")
        )
        db.execute(
            "INSERT INTO exec_verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.device, *place, item, action[:32],
                digest if isinstance(digest, bytes) and len(digest) == 32 else b"",
                _text(path), _text(detail.get("rule")), _text(detail.get("tier")),
                _text(detail.get("mode")), int(event.severity_id), at,
            ),
        )  # fmt: skip
        if action == "denied":
            shown = digest.hex()[:16] if isinstance(digest, bytes) else "?"
            rule = _text(detail.get("rule"))
            records.add_finding(
                db, record.device, "exec_denied", int(event.severity_id),
                f"{_text(path)} sha256 {shown}.." + (f" rule {rule}" if rule else ""), at, *place,
            )  # fmt: skip
    elif event.severity_id >= Severity.HIGH or event.class_uid == OCSF.DETECTION_FINDING:
        records.add_finding(
            db, record.device, event.code or event.class_uid.name.lower(), int(event.severity_id),
            describe(event), at, *place,
        )  # fmt: skip


def _keep_anchor(db: sqlite3.Connection, record: Record, event: Event) -> None:
    detail = event.detail
    moment = moment_from(event.seen_mono_ns, detail.get("utc_ns"), detail.get("uncertainty_ms"))
    if moment is not None:
        anchors.add(db, record.device, record.boot_id, moment, _text(detail.get("source")))


def _room(
    db: sqlite3.Connection, table: str, columns: str, device: str, names: list[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """The names that may be shown: all while there is room, else those shown already."""
    rows = db.execute(
        f"SELECT {columns} FROM {table} WHERE device = ?",  # noqa: S608 - names of this file's own
        (device,),
    ).fetchall()
    if len(rows) + len(names) <= MAX_CHANNELS:
        return names
    known = {tuple(row) for row in rows}
    return [name for name in names if name in known]


def _wall(record: Record, mono_ns: int) -> float:
    """Seconds since 1970 of a moment the gateway gave as time since boot."""
    return (record.time.wall_ns - (record.time.boot_ns - mono_ns)) / 1e9


def _show(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, (int, float)) else value[:MAX_TEXT]


def _text(value: object) -> str:
    if value is None:
        return ""
    return (value.hex() if isinstance(value, bytes) else str(value))[:MAX_TEXT]
