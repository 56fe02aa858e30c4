"""Enrolment, the operator's side: a token for one device, a certificate for whoever brings it with
a key.

    text = str(new_token(db, root, "gw-demo", now_utc_s, ttl_s=3600))
    answer = enrol_device(db, office, request, now_utc_s)      (enrolment.py calls it)

Order of ``enrol_device``: token readable, for this device, of this CA; signing request sound; then
one transaction (store/registry.py) that consumes the token and registers the certificate. The
certificate is signed before that transaction: signing can fail, and a token must not be spent on a
failure.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.trust.keys import public_cose_key
from edgewarden.wire import enrol
from edgewarden.wire.record import is_identifier
from edgewarden.wire.topics import MAX_SESSION_NAME, session_name
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.external import Cfssl, Cmp
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.issuers import BuiltIn, Chain, Issuer, Wanted, checked
from edgewarden_fleet.ca.settings import FleetSettings
from edgewarden_fleet.desk.binding import Makers
from edgewarden_fleet.store import registry
from edgewarden_fleet.store.lineage import Lineage

MAX_TTL_S = 7 * 86400
"""A token on paper in a van for a week is the longest that a single-use secret should wait."""


@dataclass(frozen=True, slots=True)
class Office:
    """What enrolment needs of the fleet folder, read once."""

    settings: FleetSettings
    roots: tuple[x509.Certificate, ...]
    issuer: Issuer
    verifier_key: bytes
    folder: Path

    @classmethod
    def open(cls, folder: FleetFolder) -> Office:
        """Read settings, certificates and keys; raises OperatorFault."""
        return cls(
            folder.settings(),
            tuple(folder.roots()),
            _issuer(folder),
            folder.verifier().public_key(),
            folder.path,
        )

    def makers(self) -> Makers:
        """Whom the operator trusts to have made a TPM, as it stands now.

        Raises:
            WireRefusal: ``ek_untrusted``, a file there cannot be read.
        """
        try:
            return Makers.open(self.folder)
        except OperatorFault as fault:
            raise WireRefusal("ek_untrusted", f"the operator's list is broken: {fault}") from fault

    def roots_pem(self) -> str:
        """What a gateway is to believe."""
        return "".join(map(certificates.pem, self.roots))

    def answer(self, chain: Chain) -> enrol.EnrolAnswer:
        """What a gateway gets with a certificate: everything it is to believe from now on."""
        return enrol.EnrolAnswer(
            tenant=self.settings.tenant,
            certificate_pem=chain.pem(),
            ca_pem=self.roots_pem(),
            verifier_key=self.verifier_key,
            broker_host=self.settings.broker.host,
            broker_port=self.settings.broker.port,
        )

    def root_sha256(self) -> bytes:
        """The fingerprint a token carries."""
        return hashlib.sha256(certificates.der(self.roots[0])).digest()


def _issuer(folder: FleetFolder) -> Issuer:
    wanted = folder.settings().ca
    if wanted.backend == "cmp":
        return Cmp(wanted, folder.path)
    if wanted.backend == "cfssl":
        return Cfssl(wanted, folder.path)
    return BuiltIn(folder.issuing())


def new_token(
    db: sqlite3.Connection, root: x509.Certificate, device: str, now_utc_s: float, ttl_s: int
) -> enrol.Token:
    """Make a token; its secret exists only in what is returned.

    Raises:
        OperatorFault: EW-SET-024 for a device id or lifetime that cannot be.
    """
    if not is_identifier(device):
        raise OperatorFault(
            f"{device!r} is not a device id",
            code="EW-SET-024",
            next_step="use a-z, 0-9 and -, at most 63 characters, beginning with a letter or digit",
        )
    if len(session_name(device, registry.board_of(db, device))) > MAX_SESSION_NAME:
        raise OperatorFault(
            f"{device!r} is too long for another board: its certificate's name would not fit",
            code="EW-SET-024",
            next_step="enrol the new board under another, shorter device id",
        )
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise OperatorFault(
            f"a lifetime of {ttl_s} s cannot be",
            code="EW-SET-024",
            next_step=f"use 1 to {MAX_TTL_S} seconds",
        )
    secret = secrets.token_bytes(enrol.SECRET_BYTES)
    registry.add_token(db, secret, device, now_utc_s, ttl_s)
    return enrol.Token(device, secret, hashlib.sha256(certificates.der(root)).digest())


def check_token(
    db: sqlite3.Connection,
    office: Office,
    request: enrol.EnrolRequest,
    now_utc_s: float,
) -> ec.EllipticCurvePublicKey:
    """The request's key, if its token would get a certificate for it now; raises WireRefusal.
    Spends nothing, and reads nothing of a request before its token."""
    token = _read_token(office, request)
    key = certificates.read_request(request.csr_pem)
    registry.check_token(db, token.secret, request.device, public_cose_key(key), now_utc_s)
    return key


def _read_token(office: Office, request: enrol.EnrolRequest) -> enrol.Token:
    token = enrol.parse_token(request.token)
    if token.device != request.device:
        raise WireRefusal("token_foreign_device", "the token is for another device")
    if token.ca_sha256 != office.root_sha256():
        raise WireRefusal("token_foreign_ca", "the token was issued by another fleet")
    return token


def enrol_device(
    db: sqlite3.Connection,
    office: Office,
    request: enrol.EnrolRequest,
    now_utc_s: float,
    lineage: Lineage | None = None,
) -> enrol.EnrolAnswer:
    """Issue and register a certificate.

    Args:
        lineage: what was proven of the gateway's TPM (enrolment.py); None without one.

    Raises:
        WireRefusal: by a name of wire/enrol.py; nothing was issued.
    """
    if (lineage is None) == (request.grade == "G2"):
        raise WireRefusal("tpm_keys", "G2 is what was proven of a TPM, and nothing else")
    token = _read_token(office, request)
    key = certificates.read_request(request.csr_pem)
    board = registry.board_of(db, request.device)
    wanted = Wanted(office.settings.tenant, request.device, key, request.csr_pem, board)
    chain = checked(office.issuer.issue(wanted, now_utc_s), wanted, office.roots, now_utc_s)
    public = public_cose_key(key)
    registry.redeem(
        db, token.secret, request.device, wanted.tenant, public, chain.issued(), now_utc_s,
        request.grade, lineage, board,
    )  # fmt: skip
    return office.answer(chain)
