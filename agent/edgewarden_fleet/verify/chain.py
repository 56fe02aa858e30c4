"""Believing a certificate chain: from a gateway's leaf to our root, by hand.

By hand, because a web-PKI verifier checks other things (host names, server purpose) and hides
which rule failed. The rules, in order, each with its refusal:

1. exactly leaf and issuing certificate, readable DER               ``bad_chain``
2. issuing signed by our root, leaf signed by issuing; P-256 only   ``bad_chain``
3. issuing is a CA that may sign certificates, leaf is no CA        ``bad_chain``
4. leaf's extended key usage is clientAuth and nothing else         ``wrong_purpose``
5. leaf names a gateway: one SAN URI, CN and O say the same         ``bad_name``
6. both valid at the time of receipt                                ``cert_expired`` /
   ``cert_not_yet_valid``

Time is the verifier's own clock at receipt: a gateway's clock is what is to be judged. A record
whose introduction was signed by a certificate that expired on the way is refused and must be
introduced again by the renewed one.

Left to others: registered, revoked, replaced (store/registry.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.errors import WireRefusal
from edgewarden.trust.enrol import device_urn
from edgewarden.trust.keys import public_cose_key

MAX_CERTIFICATE_BYTES = 4096
"""Ours are 0.6 kB; a customer's own issuing tier may carry policies and URLs."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a believed chain says."""

    tenant: str
    device: str
    public_key: bytes
    serial: str


def check_chain(x5chain: Sequence[bytes], root: x509.Certificate, now_utc_s: float) -> Identity:
    """Return the gateway a chain names.

    Raises:
        WireRefusal: by the names in this module's docstring.
    """
    if len(x5chain) != 2 or max(map(len, x5chain)) > MAX_CERTIFICATE_BYTES:
        raise WireRefusal("bad_chain", "not a leaf and its issuing certificate")
    try:
        leaf, issuing = (x509.load_der_x509_certificate(c) for c in x5chain)
        issuing.verify_directly_issued_by(root)
        leaf.verify_directly_issued_by(issuing)
        keys = [c.public_key() for c in (leaf, issuing)]
        extensions = leaf.extensions, issuing.extensions
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
    tenant, device = _name(leaf, extensions[0])
    for certificate in (leaf, issuing):
        if now_utc_s > certificate.not_valid_after_utc.timestamp():
            raise WireRefusal(
                "cert_expired", f"ended {certificate.not_valid_after_utc:%Y-%m-%dT%H:%MZ}"
            )
        if now_utc_s < certificate.not_valid_before_utc.timestamp():
            raise WireRefusal(
                "cert_not_yet_valid", f"begins {certificate.not_valid_before_utc:%Y-%m-%dT%H:%MZ}"
            )
    return Identity(tenant, device, public_cose_key(key), f"{leaf.serial_number:x}")


def _check_roles(leaf: x509.Extensions, issuing: x509.Extensions) -> None:
    try:
        may_sign = (
            issuing.get_extension_for_class(x509.BasicConstraints).value.ca
            and issuing.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        )
        leaf_is_ca = leaf.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf_signs = leaf.get_extension_for_class(x509.KeyUsage).value.digital_signature
        purposes = list(leaf.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound as fault:
        raise WireRefusal("bad_chain", f"an extension is missing: {fault.oid._name}") from None
    if not may_sign or leaf_is_ca or not leaf_signs:
        raise WireRefusal("bad_chain", "a certificate is used for what it may not do")
    if purposes != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise WireRefusal("wrong_purpose", "the certificate is not for clients alone")


def _name(leaf: x509.Certificate, extensions: x509.Extensions) -> tuple[str, str]:
    common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organisation = leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise WireRefusal("bad_name", "the certificate names no gateway") from None
    if len(common) != 1 or len(organisation) != 1:
        raise WireRefusal("bad_name", "the subject is not one tenant and one device")
    device, tenant = str(common[0].value), str(organisation[0].value)
    if [n.value for n in names] != [device_urn(tenant, device)]:
        raise WireRefusal("bad_name", "the SAN URI and the subject name different gateways")
    return tenant, device
