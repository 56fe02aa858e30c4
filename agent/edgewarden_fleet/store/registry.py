"""Who is known: tokens, devices, certificates. One atomic step from a token to a registered device.

Rules of ``redeem``, in order, all inside one write transaction:

1. the secret's hash is known                                        ``token_unknown``
2. the token is for this device                                      ``token_foreign_device``
3. not used before, except by this very key (an answer was lost)     ``token_used``
4. not expired                                                       ``token_expired``
   and the device is not revoked                                     ``revoked``
5. a device keeps its TPM, a TPM its device (lineage.py)              ``lineage_conflict``
6. a device that is known keeps its key for ever                     ``device_exists``
7. a key belongs to one device                                       ``csr_invalid``

Only then is the token marked and the certificate's serial registered. A refusal leaves the token
as it was.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from edgewarden.errors import WireRefusal
from edgewarden.wire.topics import session_name
from edgewarden_fleet.store import lineage
from edgewarden_fleet.store.lineage import Lineage
from edgewarden_fleet.store.schema import transaction

RETIRED = "~"
"""Between a device's id and the number of a board that is gone (replaced.py). Not in a device id's
alphabet (wire/record.py)."""


@dataclass(frozen=True, slots=True)
class Registered:
    """One device of the registry.

    Attributes:
        board: which board of its place; 1 for those that an earlier version enrolled.
    """

    device: str
    tenant: str
    public_key: bytes
    grade: str
    serial: str
    not_after_utc_s: float
    revoked: bool
    board: int


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate about to be registered."""

    serial: str
    pem: str
    not_after_utc_s: float


def add_token(
    db: sqlite3.Connection, secret: bytes, device: str, now_utc_s: float, ttl_s: float
) -> None:
    """Remember a token by its secret's hash."""
    with transaction(db):
        db.execute(
            "INSERT INTO token VALUES (?, ?, ?, ?, NULL, NULL)",
            (_hash(secret), device, now_utc_s, now_utc_s + ttl_s),
        )


def redeem(
    db: sqlite3.Connection,
    secret: bytes,
    device: str,
    tenant: str,
    public_key: bytes,
    certificate: Issued,
    now_utc_s: float,
    grade: str = "G0",
    tpm: Lineage | None = None,
    board: int = 1,
) -> None:
    """Consume a token and register its device with this key and certificate.

    Args:
        grade: where the key is kept; a known device's only ever rises.
        tpm: what was proven of its TPM.
        board: ``board_of`` when the certificate was made. It is still that: whatever counts a
            place's boards on voids the place's tokens with it (replaced.py).

    Raises:
        WireRefusal: by the names in this module's docstring; nothing was changed.
    """
    with transaction(db):
        check_token(db, secret, device, public_key, now_utc_s)
        if tpm is not None:
            lineage.check(db, device, tpm)
        known = db.execute("SELECT public_key FROM device WHERE device = ?", (device,)).fetchone()
        if known is not None and known["public_key"] != public_key:
            raise WireRefusal("device_exists", f"{device} is enrolled with another key")
        other = db.execute(
            "SELECT device FROM device WHERE public_key = ? AND device <> ?", (public_key, device)
        ).fetchone()
        if other is not None:
            raise WireRefusal("csr_invalid", "the key belongs to another device")
        db.execute(
            "UPDATE token SET used_utc_s = coalesce(used_utc_s, ?), used_by = ?"
            " WHERE secret_sha256 = ?",
            (now_utc_s, public_key, _hash(secret)),
        )
        c = certificate
        db.execute(
            "INSERT INTO device (device, tenant, public_key, grade, serial, certificate,"
            " not_after_utc_s, enrolled_utc_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (device) DO UPDATE SET grade = max(grade, excluded.grade),"
            " serial = excluded.serial, certificate = excluded.certificate,"
            " not_after_utc_s = excluded.not_after_utc_s",
            (device, tenant, public_key, grade, c.serial, c.pem, c.not_after_utc_s, now_utc_s),
        )
        if known is None and board > 1:
            db.execute("INSERT INTO board VALUES (?, ?)", (device, board))
        if tpm is not None:
            lineage.save(db, device, tpm, now_utc_s)


def check_token(
    db: sqlite3.Connection, secret: bytes, device: str, public_key: bytes, now_utc_s: float
) -> None:
    """Rules 1 to 4; changes nothing, raises WireRefusal."""
    row = db.execute("SELECT * FROM token WHERE secret_sha256 = ?", (_hash(secret),)).fetchone()
    if row is None:
        raise WireRefusal("token_unknown", "this token was never issued here")
    if row["device"] != device:
        raise WireRefusal("token_foreign_device", "the token is for another device")
    if row["used_utc_s"] is not None and row["used_by"] != public_key:
        raise WireRefusal("token_used", "the token has been used")
    if row["expires_utc_s"] <= now_utc_s:
        raise WireRefusal("token_expired", "the token's time is over")
    known = find(db, device)
    if known is not None and known.revoked:
        raise WireRefusal("revoked", "the device is revoked; another board needs `replace`")


def renewed(db: sqlite3.Connection, device: str, public_key: bytes, certificate: Issued) -> None:
    """Another certificate for the key that is registered.

    Raises:
        WireRefusal: ``revoked``, the device was revoked or replaced while the CA signed.
    """
    c = certificate
    done = db.execute(
        "UPDATE device SET serial = ?, certificate = ?, not_after_utc_s = ?"
        " WHERE device = ? AND public_key = ? AND revoked_utc_s IS NULL",
        (c.serial, c.pem, c.not_after_utc_s, device, public_key),
    )
    if done.rowcount != 1:
        raise WireRefusal("revoked", "the device was revoked meanwhile")


def find(db: sqlite3.Connection, device: str) -> Registered | None:
    """The registry's entry of a device."""
    row = db.execute(
        "SELECT d.device, tenant, public_key, grade, serial, not_after_utc_s,"
        " revoked_utc_s IS NOT NULL, coalesce(b.number, 1)"
        " FROM device d LEFT JOIN board b USING (device) WHERE d.device = ?",
        (device,),
    ).fetchone()
    if row is None:
        return None
    name, tenant, public_key, grade, serial, not_after_utc_s, revoked, board = row
    return Registered(
        name, tenant, public_key, grade, serial, not_after_utc_s, bool(revoked), board
    )


def board_of(db: sqlite3.Connection, device: str) -> int:
    """Which board of its place this device's certificate is for, known or about to be."""
    known = find(db, device)
    if known is not None:
        return known.board
    row = db.execute("SELECT count(*) FROM replaced WHERE device = ?", (device,)).fetchone()
    return 1 + int(row[0])


def sessions(db: sqlite3.Connection) -> tuple[dict[str, str], set[str]]:
    """Names at the broker (wire/topics.py): of the boards that may speak, each with its device; of
    those that are revoked or replaced."""
    rows = db.execute(
        "SELECT d.device, coalesce(b.number, 1), d.revoked_utc_s IS NOT NULL FROM device d"
        " LEFT JOIN board b USING (device)"
    )
    may: dict[str, str] = {}
    gone: set[str] = set()
    for known_as, board, revoked in rows:
        device = known_as.partition(RETIRED)[0]
        name = session_name(device, board)
        if revoked:
            gone.add(name)
        else:
            may[name] = device
    return may, gone - may.keys()


def ak_public(db: sqlite3.Connection, device: str) -> bytes | None:
    """TPMT_PUBLIC of the attestation key that enrolment bound to a device; None without a TPM."""
    row = db.execute("SELECT ak_public FROM enrolled_tpm WHERE device = ?", (device,)).fetchone()
    return None if row is None else bytes(row[0])


def revoke(db: sqlite3.Connection, device: str, why: str, now_utc_s: float) -> bool:
    """Mark a device: nothing it sends is accepted from now on. False when it is not known."""
    with transaction(db):
        changed = db.execute(
            "UPDATE device SET revoked_utc_s = ?, revoked_why = ? WHERE device = ?"
            " AND revoked_utc_s IS NULL",
            (now_utc_s, why, device),
        )
    return changed.rowcount == 1 or find(db, device) is not None


def seen(db: sqlite3.Connection, device: str, now_utc_s: float) -> None:
    """Note when something verified last came from a device."""
    db.execute("UPDATE device SET last_seen_utc_s = ? WHERE device = ?", (now_utc_s, device))


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
