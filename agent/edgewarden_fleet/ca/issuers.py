"""Who signs: one port, behind which any CA may stand.

``issue`` gets a signing request whose own signature was checked and whose key is P-256, and who the
key belongs to; it returns leaf and issuing certificate. What comes back is not believed because
somebody signed it: ``checked`` holds it to what a verifier will hold it to later (verify/chain.py),
so that a CA with another profile is found out at the desk and not in the field.

    BuiltIn      the fleet folder's own issuing certificate and key
    Cmp, Cfssl   external.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from edgewarden.errors import PeerFault, WireRefusal
from edgewarden.trust.keys import public_cose_key
from edgewarden.wire.topics import session_name
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.store.registry import Issued
from edgewarden_fleet.verify.chain import check_chain

MIN_DAYS = 1.0
"""It is renewed in its last third, and looked at each hour."""
MAX_DAYS = 400.0
"""A CA's usual profile is a year. Short life is the first line of revocation: ten years are not
taken because somebody's profile says so."""
UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)  # fmt: skip
"""Critical extensions that every TLS library knows; any other locks the gateway out."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to be made.

    Attributes:
        csr_pem: the request; nothing in it counts but its key.
        board: which board of its place (wire/topics.py).
    """

    tenant: str
    device: str
    key: ec.EllipticCurvePublicKey
    csr_pem: str
    board: int = 1

    @property
    def session(self) -> str:
        """The CN: what the broker is to call it."""
        return session_name(self.device, self.board)


@dataclass(frozen=True, slots=True)
class Chain:
    """What a gateway presents."""

    leaf: x509.Certificate
    issuing: x509.Certificate

    def pem(self) -> str:
        """Leaf first."""
        return certificates.pem(self.leaf) + certificates.pem(self.issuing)

    def issued(self) -> Issued:
        """For the registry."""
        return Issued(
            certificates.serial_hex(self.leaf),
            certificates.pem(self.leaf),
            self.leaf.not_valid_after_utc.timestamp(),
        )


class Issuer(Protocol):
    """A CA. Blocks on the network where it is another's; from one thread at a time.

    Raises PeerUnavailable when it does not answer, PeerFault EW-ID-040 when it refuses.
    """

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """Have a certificate signed."""


class BuiltIn:
    """The folder's own."""

    def __init__(self, issuing: Authority) -> None:
        self._issuing = issuing

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """See Issuer; never blocks, refuses when the issuing certificate has ended."""
        leaf = certificates.make_gateway(
            self._issuing, wanted.key, wanted.tenant, wanted.device, now_utc_s,
            board=wanted.board,
        )  # fmt: skip
        return Chain(leaf, self._issuing.certificate)


def checked(
    chain: Chain, wanted: Wanted, roots: Sequence[x509.Certificate], now_utc_s: float
) -> Chain:
    """Return the chain if every verifier will believe it.

    Raises:
        PeerFault: EW-ID-040, it is not what was asked for.
    """
    try:
        identity = check_chain([certificates.der(c) for c in (chain.leaf, chain.issuing)], roots,
                               now_utc_s)  # fmt: skip
        if (identity.tenant, identity.device) != (wanted.tenant, wanted.device):
            raise WireRefusal("bad_name", "it names another gateway")
        if identity.session != wanted.session:
            raise WireRefusal("bad_name", "the broker would take it for another board")
        if identity.public_key != public_cose_key(wanted.key):
            raise WireRefusal("bad_chain", "it is for another key")
        if identity.ends_utc_s > identity.issuing_ends_utc_s:
            # The gateway would plan its renewal by a date on which nobody believes it any more.
            raise WireRefusal("bad_chain", "it would outlive its issuer")
        days = (identity.ends_utc_s - now_utc_s) / 86400
        if not MIN_DAYS <= days <= MAX_DAYS:
            raise WireRefusal("bad_chain", f"it is good for {days:.1f} days")
        for one in (chain.leaf, chain.issuing):
            if not {e.oid for e in one.extensions if e.critical} <= UNDERSTOOD:
                raise WireRefusal("bad_chain", "the broker would not understand all of it")
    except WireRefusal as refusal:
        raise PeerFault(
            f"the CA's certificate for {wanted.device} cannot be used: {refusal.text}",
            code="EW-ID-040",
            next_step=(
                "correct the CA's profile: clientAuth alone, P-256, the SAN URI kept; where its own"
                " certificate ends soon, `edgewarden-fleet ca rotate issuing` or the CA's way"
            ),
        ) from refusal
    return chain
