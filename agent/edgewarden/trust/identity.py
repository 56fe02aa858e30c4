"""The gateway's identity on disk, as everybody reads it.

    state/identity/current -> identity-3/
        key.pem        0600, made here, never leaves: PKCS#8, sealed, or wrapped by a TPM
        cert.pem       leaf, then issuing CA
        ca.pem         the root, pinned at enrolment
        identity.json  device, tenant, grade, serial, end of validity, broker, verifier's key

Who writes it, and what else lies beside it: enrol/folder.py. ``current`` is replaced whole, so
what is read is the old identity or the new one, never half of each.

Loading needs no X.509 parser: what the daemon must know of its certificate was written beside it at
enrolment.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

from edgewarden.errors import TrustFault
from edgewarden.plain import dataclass, field
from edgewarden.trust.ladder import Keys, OwnKey

FOLDER = "identity"
CURRENT = "current"
SCHEMA = "edgewarden.identity/1"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this gateway is and whom it trusts.

    Attributes:
        folder: where key.pem, cert.pem and ca.pem lie (resolved, so a later swap does not mix
        pairs).
        not_after_utc: RFC 3339, seconds, ``Z``.
        verifier_key: COSE_Key of the fleet's verifier.
        keys: how this process reaches what holds the key.
    """

    folder: Path
    device: str
    tenant: str
    grade: str
    serial: str
    not_after_utc: str
    broker_host: str
    broker_port: int
    verifier_key: bytes
    keys: Keys = field(default_factory=Keys, compare=False, repr=False)
    service: str = ""
    """``https://host:port`` of the enrolment service; "" in a folder of an earlier version."""
    session: str = ""
    """What the broker calls this board: the certificate's CN; "" in a folder of an earlier version,
    where it is the device's id."""

    @property
    def key_path(self) -> Path:
        """The private key's file."""
        return self.folder / "key.pem"

    @property
    def cert_path(self) -> Path:
        """Leaf and issuing certificate."""
        return self.folder / "cert.pem"

    @property
    def ca_path(self) -> Path:
        """The pinned root."""
        return self.folder / "ca.pem"

    def signer(self) -> OwnKey:
        """The key, from whatever holds it; blocks, raises TrustFault or HardwareFault."""
        return self.keys.open(_read(self.key_path), self.grade)

    def root_pem(self) -> str:
        """The pinned root; raises TrustFault."""
        return _read(self.ca_path).decode("ascii", "replace")

    def x5chain(self) -> tuple[bytes, ...]:
        """DER of leaf and issuing certificate, leaf first; raises TrustFault."""
        chain = pem_to_der(_read(self.cert_path).decode("ascii", "replace"))
        if not chain:
            raise damaged("cert.pem holds no certificate")
        return tuple(chain)


def load(state_dir: Path, keys: Keys | None = None) -> Identity:
    """Read the current identity.

    Args:
        keys: how this process reaches what holds its key; None for the usual places.

    Raises:
        TrustFault: EW-ID-004 when the gateway is not enrolled, EW-ID-005 when the folder is
        damaged or
            the key can be read by others.
    """
    link = state_dir / FOLDER / CURRENT
    if not os.path.lexists(link):
        raise TrustFault(
            "this gateway has no identity yet",
            code="EW-ID-004",
            next_step=(
                "get a token from the fleet and run `edgewarden enroll --ca URL --token-file F`"
            ),
        )
    folder = link.resolve()
    try:
        mode = (folder / "key.pem").stat().st_mode
        body = json.loads((folder / "identity.json").read_text())
    except (OSError, ValueError) as fault:
        raise damaged(str(fault)) from fault
    if stat.S_IMODE(mode) & 0o077:
        raise TrustFault(
            f"{folder.name}/key.pem can be read by other users (mode {stat.S_IMODE(mode):04o})",
            code="EW-ID-005",
            next_step="treat the key as copied: revoke this identity and enrol again",
        )
    try:
        return Identity(
            folder=folder,
            device=str(body["device"]),
            tenant=str(body["tenant"]),
            grade=str(body["grade"]),
            serial=str(body["serial"]),
            not_after_utc=str(body["not_after_utc"]),
            broker_host=str(body["broker"]["host"]),
            broker_port=int(body["broker"]["port"]),
            verifier_key=bytes.fromhex(body["verifier_key"]),
            keys=keys or Keys(),
            service=str(body.get("service", "")),
            session=str(body.get("session", "")),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise damaged(f"identity.json: {fault!r}") from fault


def replaced(state_dir: str | Path, identity: Identity) -> bool:
    """Whether another identity is current by now; an identity that is gone replaces nothing.

    One readlink: cheap enough for every second.
    """
    try:
        return os.readlink(f"{state_dir}/{FOLDER}/{CURRENT}") != identity.folder.name
    except OSError:
        return False


def pem_to_der(text: str) -> list[bytes]:
    """Every certificate of a PEM text as DER; raises TrustFault when one is garbled."""
    out: list[bytes] = []
    for block in text.split(_BEGIN)[1:]:
        try:
            body = "".join(block.split(_END)[0].split())
            out.append(base64.b64decode(body, validate=True))
        except ValueError as fault:
            raise damaged("cert.pem is garbled") from fault
    return out


def damaged(why: str) -> TrustFault:
    """What is said of a folder that is not whole."""
    return TrustFault(
        f"the identity folder is damaged: {why}",
        code="EW-ID-005",
        next_step="restore state/identity from a backup of this very device, or enrol again",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise damaged(f"{path.name}: {fault.strerror}") from fault
