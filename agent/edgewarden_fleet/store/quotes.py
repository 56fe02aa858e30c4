"""What is remembered of each gateway's TPM: where its counters stood, which keys and PCR values it
showed last. One step each, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from edgewarden.appraise.quotes import Enrolled, Mark, Vouched
from edgewarden.wire.quoted import TpmKeys

_PCR_BYTES = 32


def enrolled(db: sqlite3.Connection, device: str, ak_public: bytes) -> Enrolled:
    """The enrolled key, with what was remembered under it."""
    row = db.execute(
        "SELECT * FROM tpm_state WHERE device = ? AND ak_public = ?", (device, ak_public)
    ).fetchone()
    if row is None:
        return Enrolled(ak_public)
    return Enrolled(
        ak_public,
        TpmKeys(row["ak_public"], row["tls_public"], row["certify"], row["certify_signature"]),
        _values(row["pcrs"]),
        Mark(row["reset_count"], row["clock_ms"], row["boot_id"]),
    )


def remember(db: sqlite3.Connection, device: str, vouched: Vouched, now_utc_s: float) -> None:
    """Keep what a believed quote showed."""
    keys, mark = vouched.keys, vouched.mark
    db.execute(
        "INSERT OR REPLACE INTO tpm_state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            device, mark.reset_count, mark.clock_ms, mark.boot_id, keys.ak_public,
            keys.tls_public, keys.certify, keys.certify_signature, _joined(vouched.pcrs),
            now_utc_s,
        ),
    )  # fmt: skip


def ask_whole(db: sqlite3.Connection, device: str) -> None:
    """The next challenge asks for everything."""
    db.execute("INSERT OR IGNORE INTO ask_whole VALUES (?)", (device,))


def asked_whole(db: sqlite3.Connection, device: str) -> bool:
    """True once for each ask_whole."""
    return db.execute("DELETE FROM ask_whole WHERE device = ?", (device,)).rowcount == 1


def waiting(db: sqlite3.Connection) -> list[str]:
    """Devices whose next challenge is to ask for everything."""
    return [row[0] for row in db.execute("SELECT device FROM ask_whole ORDER BY device")]


def _joined(pcrs: Mapping[int, bytes] | None) -> bytes | None:
    return None if pcrs is None else b"".join(pcrs[n] for n in sorted(pcrs))


def _values(joined: bytes | None) -> dict[int, bytes] | None:
    if joined is None:
        return None
    count = len(joined) // _PCR_BYTES
    return {n: joined[_PCR_BYTES * n : _PCR_BYTES * (n + 1)] for n in range(count)}
