"""Which TPM a device is: its EK, AK and TLS key, for as long as the device is known.

A device that was enrolled with a TPM stays with it, and a TPM belongs to one device: the same id
with another EK, AK or TLS key is ``lineage_conflict`` (keylime took the same id from another TPM,
its issue 1820). Only `edgewarden-fleet replace` begins a new lineage for an id.

Called inside the registry's transaction; the refusal rolls all of it back.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgewarden.errors import WireRefusal


@dataclass(frozen=True, slots=True)
class Lineage:
    """Keys that belong together.

    Attributes:
        ek_name: what the TPM calls its endorsement key.
        ek_public, ak_public, tls_public: TPMT_PUBLIC.
        vouched_by: subject of the maker's root, or ``listed``.
    """

    ek_name: bytes
    ek_public: bytes
    ak_public: bytes
    tls_public: bytes
    vouched_by: str


def of_device(db: sqlite3.Connection, device: str) -> Lineage | None:
    """The lineage a device was enrolled with; None without a TPM."""
    row = db.execute(
        "SELECT * FROM tpm_lineage JOIN enrolled_tpm USING (device) WHERE device = ?", (device,)
    ).fetchone()
    if row is None:
        return None
    return Lineage(
        row["ek_name"], row["ek_public"], row["ak_public"], row["tls_public"], row["vouched_by"]
    )


def check(db: sqlite3.Connection, device: str, asked: Lineage) -> None:
    """Hold a request to what is known of its device and of its TPM.

    Raises:
        WireRefusal: ``lineage_conflict``.
    """
    known = of_device(db, device)
    if known is not None:
        for name, key, kept in (
            ("TPM", asked.ek_name, known.ek_name),
            ("attestation key", asked.ak_public, known.ak_public),
            ("TLS key", asked.tls_public, known.tls_public),
        ):
            if key != kept:
                raise WireRefusal("lineage_conflict", f"{device} was enrolled with another {name}")
        return
    other = (
        db.execute("SELECT device FROM tpm_lineage WHERE ek_name = ?", (asked.ek_name,)).fetchone()
        or db.execute(
            "SELECT device FROM enrolled_tpm WHERE ak_public = ?", (asked.ak_public,)
        ).fetchone()
    )
    if other is not None:
        raise WireRefusal("lineage_conflict", f"this TPM is {other['device']}")


def save(db: sqlite3.Connection, device: str, lineage: Lineage, now_utc_s: float) -> None:
    """Remember it; nothing changes when it is known."""
    db.execute(
        "INSERT OR IGNORE INTO tpm_lineage VALUES (?, ?, ?, ?, ?)",
        (device, lineage.ek_name, lineage.ek_public, lineage.tls_public, lineage.vouched_by),
    )
    db.execute(
        "INSERT OR IGNORE INTO enrolled_tpm VALUES (?, ?, ?)",
        (device, lineage.ak_public, now_utc_s),
    )


def forget(db: sqlite3.Connection, device: str) -> None:
    """Begin anew: the id may get another TPM, the TPM another id. For `replace` alone."""
    for table in ("tpm_lineage", "enrolled_tpm", "tpm_state"):
        db.execute(f"DELETE FROM {table} WHERE device = ?", (device,))  # noqa: S608 - from a tuple
