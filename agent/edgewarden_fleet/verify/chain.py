"""Believing a certificate chain: from a gateway's leaf to our root, by hand.

By hand, because a web-PKI verifier checks other things (host names, server purpose) and hides
which rule failed. The rules, in order, each with its refusal:

1. exactly leaf and issuing certificate, readable DER               ``bad_chain``
2. issuing signed by our root, leaf signed by issuing; P-256 only   ``bad_chain``
3. issuing is a CA that may sign certificates, leaf is no CA        ``bad_chain``
4. leaf's extended key usage is clientAuth and nothing else         ``wrong_purpose``
5. leaf names a gateway: one SAN (the URI, or the DNS name that stands for it where a CA knows no
   URIs), O says the same and CN one of its boards (wire/topics.py)
                                                                     ``bad_name``
6. both valid at the time of receipt                                ``cert_expired`` /
   ``cert_not_yet_valid``

Time is the verifier's own clock at receipt: a gateway's clock is what is to be judged. Rules 1 to
5 are ``read_chain``, 6 is ``check_dates``: a gateway that was off line for longer than its
certificate lived has renewed it by the time its backlog comes, and the caller, who knows the
registry, holds that to be enough (pipeline.py).

Left to others: registered, revoked, renewed (store/registry.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.enrol.service import names_device
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import public_cose_key, verifier_of
from edgewarden.wire import cose
from edgewarden.wire.topics import device_of

MAX_CERTIFICATE_BYTES = 4096
"""Ours are 0.6 kB; a customer's own issuing tier may carry policies and URLs."""
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
ISSUERS_KEPT = 64
"""Whoever sends ever others only makes us verify again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a believed chain says.

    Attributes:
        session: what the broker calls the board: the leaf's CN.
        serial: of the leaf, hex.
        verify: did the leaf's key sign this.
        begins_utc_s: when the later of the two certificates begins to be valid.
        ends_utc_s: when the leaf ends.
        issuing_ends_utc_s: when the issuing certificate ends.
    """

    tenant: str
    device: str
    session: str
    public_key: bytes
    serial: str
    begins_utc_s: float
    ends_utc_s: float
    issuing_ends_utc_s: float
    verify: cose.Verify = field(compare=False, repr=False)


def check_chain(
    x5chain: Sequence[bytes], roots: Sequence[x509.Certificate], now_utc_s: float
) -> Identity:
    """Return the gateway a chain names, valid now.

    Raises:
        WireRefusal: by the names in this module's docstring.
    """
    identity = read_chain(x5chain, roots)
    check_dates(identity, now_utc_s)
    return identity


def check_dates(identity: Identity, now_utc_s: float) -> None:
    """Rule 6; raises WireRefusal."""
    check_issuing(identity, now_utc_s)
    if now_utc_s > identity.ends_utc_s:
        raise WireRefusal("cert_expired", f"ended {_day(identity.ends_utc_s)}")


def check_issuing(identity: Identity, now_utc_s: float) -> None:
    """Rule 6 without the leaf's end; raises WireRefusal."""
    if now_utc_s > identity.issuing_ends_utc_s:
        raise WireRefusal("cert_expired", f"its issuer ended {_day(identity.issuing_ends_utc_s)}")
    if now_utc_s < identity.begins_utc_s:
        raise WireRefusal("cert_not_yet_valid", f"begins {_day(identity.begins_utc_s)}")


def read_chain(x5chain: Sequence[bytes], roots: Sequence[x509.Certificate]) -> Identity:
    """Return the gateway a chain names, whenever it was or will be valid.

    Args:
        x5chain: DER, leaf first.
        roots: any of these may have signed the issuing certificate.

    Raises:
        WireRefusal: by the names in this module's docstring.
    """
    if len(x5chain) != 2 or max(map(len, x5chain)) > MAX_CERTIFICATE_BYTES:
        raise WireRefusal("bad_chain", "not a leaf and its issuing certificate")
    try:
        leaf = x509.load_der_x509_certificate(x5chain[0])
        issuing = _issuing(x5chain[1], tuple(roots))
        leaf.verify_directly_issued_by(issuing)
        keys = [c.public_key() for c in (leaf, issuing)]
        extensions = _Extensions(leaf), _Extensions(issuing)
    except (
        ValueError,
        TypeError,
        InvalidSignature,
        x509.DuplicateExtension,
        x509.InvalidVersion,  # neither is a ValueError
    ) as fault:
        raise WireRefusal(
            "bad_chain", f"it does not lead to our root ({type(fault).__name__})"
        ) from None
    key = keys[0]
    if not all(
        isinstance(k, ec.EllipticCurvePublicKey) and k.curve.name == "secp256r1" for k in keys
    ):
        raise WireRefusal("bad_chain", "a key is not P-256")
    assert isinstance(key, ec.EllipticCurvePublicKey)
    _check_roles(*extensions)
    tenant, device, session = _name(leaf, extensions[0])
    both = (leaf, issuing)
    return Identity(
        tenant, device, session, public_key=public_cose_key(key), serial=f"{leaf.serial_number:x}",
        begins_utc_s=max(c.not_valid_before_utc.timestamp() for c in both),
        ends_utc_s=leaf.not_valid_after_utc.timestamp(),
        issuing_ends_utc_s=issuing.not_valid_after_utc.timestamp(), verify=verifier_of(key),
    )  # fmt: skip


@lru_cache(maxsize=ISSUERS_KEPT)
def _issuing(der: bytes, roots: tuple[x509.Certificate, ...]) -> x509.Certificate:
    """The issuing certificate, signed by one of these very roots; raises what cryptography does.

    One signature for a fleet: a thousand gateways show the same. What was refused is not kept, and
    its dates and its use are looked at each time.
    """
    issuing = x509.load_der_x509_certificate(der)
    _check_under(issuing, roots)
    return issuing


def _check_under(issuing: x509.Certificate, roots: Sequence[x509.Certificate]) -> None:
    """Raise what cryptography raises unless one of the roots has signed it. Names are compared by
    it, never read here: reading a garbled one raises KeyError in cryptography 43."""
    for root in roots[:-1]:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            issuing.verify_directly_issued_by(root)
            return
    issuing.verify_directly_issued_by(roots[-1])


def _day(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%MZ")


class _Extensions:
    """A certificate's extensions by what they are: read once, each asked for by its class."""

    def __init__(self, certificate: x509.Certificate) -> None:
        values = (extension.value for extension in certificate.extensions)
        self._values = {type(value): value for value in values}

    def get(self, kind: type[_Kind]) -> _Kind:
        """Raises ExtensionNotFound."""
        found = self._values.get(kind)
        if found is None:
            raise x509.ExtensionNotFound(f"no {kind.oid._name}", kind.oid)
        return cast("_Kind", found)


def _check_roles(leaf: _Extensions, issuing: _Extensions) -> None:
    try:
        may_sign = (
            issuing.get(x509.BasicConstraints).ca and issuing.get(x509.KeyUsage).key_cert_sign
        )
        leaf_is_ca = leaf.get(x509.BasicConstraints).ca
        leaf_signs = leaf.get(x509.KeyUsage).digital_signature
        purposes = list(leaf.get(x509.ExtendedKeyUsage))
    except x509.ExtensionNotFound as fault:
        raise WireRefusal("bad_chain", f"an extension is missing: {fault.oid._name}") from None
    if not may_sign or leaf_is_ca or not leaf_signs:
        raise WireRefusal("bad_chain", "a certificate is used for what it may not do")
    if purposes != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise WireRefusal("wrong_purpose", "the certificate is not for clients alone")


def _name(leaf: x509.Certificate, extensions: _Extensions) -> tuple[str, str, str]:
    subject = list(leaf.subject)
    common = [a.value for a in subject if a.oid == NameOID.COMMON_NAME]
    organisation = [a.value for a in subject if a.oid == NameOID.ORGANIZATION_NAME]
    try:
        names = extensions.get(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise WireRefusal("bad_name", "the certificate names no gateway") from None
    if len(common) != 1 or len(organisation) != 1:
        raise WireRefusal("bad_name", "the subject is not one tenant and one device")
    session, tenant = str(common[0]), str(organisation[0])
    device = device_of(session)
    if not names_device(names, tenant, device):
        raise WireRefusal("bad_name", "the SAN and the subject name different gateways")
    return tenant, device, session
