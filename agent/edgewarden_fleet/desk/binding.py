"""Is this TPM one that the operator trusts, and do these keys live in it?

``trusted_ek``: the EK's certificate leads to a pinned root of a maker, or the EK's name stands on
the operator's list (many TPMs come without a certificate):

    DIR/tpm/roots/*.pem    certificates of makers: roots, and what stands between
    DIR/tpm/allowed        names of EKs, one a line, hex as refusals print it; # begins a comment

The chain is walked by hand: EK certificates have subject names and key usages that a verifier of
web certificates refuses. Dates are not judged: a chip does not go bad with its maker's certificate.

``check_keys``: AK restricted, made in its TPM and never to leave it; TLS key likewise, signing, and
the one of the signing request. ``check_certify``: the AK says that it has the TLS key beside it,
after it opened the credential.

Refusals: ``ek_untrusted``, ``tpm_keys``, ``bad_tpm``.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire import enrol_tpm
from edgewarden.wire import tpm as forms
from edgewarden.wire.enrol_tpm import Activation, TpmKeys
from edgewarden.wire.tpm import Alg, Attribute, Public

FOLDER = "tpm"
MAX_CHAIN = 4
"""EK, one or two between, root: what makers have; a bound, so that a loop ends."""
_BOUND = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
_UNREADABLE = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion,
    KeyError,  # a garbled name, in cryptography 43
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Makers:
    """Whom the operator trusts to have made a TPM.

    Attributes:
        certificates: roots and what stands between.
        allowed: names of single EKs.
    """

    certificates: Sequence[x509.Certificate] = ()
    allowed: frozenset[bytes] = frozenset()

    @classmethod
    def open(cls, fleet: Path) -> Makers:
        """Read DIR/tpm; a folder that is not there trusts nobody.

        Raises:
            OperatorFault: EW-SET-030, a file that cannot be read.
        """
        folder, found = fleet / FOLDER, list[x509.Certificate]()
        names: set[bytes] = set()
        try:
            for path in sorted(folder.glob("roots/*.pem")):
                found += x509.load_pem_x509_certificates(path.read_bytes())
            listed = folder / "allowed"
            for line in listed.read_text().splitlines() if listed.exists() else ():
                text = line.partition("#")[0].strip()
                if text:
                    names.add(bytes.fromhex(text))
        except (OSError, ValueError) as fault:
            raise OperatorFault(
                f"{folder}: {fault}",
                code="EW-SET-030",
                next_step="roots/*.pem are certificates; allowed has one EK name in hex on a line",
            ) from fault
        return cls(tuple(found), frozenset(names))


def trusted_ek(makers: Makers, ek: Public, certificate: bytes) -> str:
    """Who vouches for an EK: ``listed``, or the subject of a maker's root.

    Raises:
        WireRefusal: ``ek_untrusted``, with the name to put on the list.
    """
    if ek.name in makers.allowed:
        return "listed"
    if not certificate:
        raise _untrusted(ek, "its TPM has no certificate")
    try:
        leaf = x509.load_der_x509_certificate(_trimmed(certificate))
        same = _same_key(leaf, ek)
        _ = leaf.issuer  # a name is parsed only when it is asked for
    except _UNREADABLE as fault:
        raise _untrusted(ek, f"its certificate cannot be read ({type(fault).__name__})") from None
    if not same:
        raise _untrusted(ek, "its certificate is another key's")
    return _walk(makers, ek, leaf)


def _walk(makers: Makers, ek: Public, leaf: x509.Certificate) -> str:
    """Follow issuers through pinned certificates up to one that signs itself."""
    at = leaf
    for _ in range(MAX_CHAIN):
        above = next((c for c in makers.certificates if _issued(at, c)), None)
        if above is None:
            raise _untrusted(ek, f"nobody pinned is {at.issuer.rfc4514_string()!r}")
        if above.subject == above.issuer and _issued(above, above):
            return above.subject.rfc4514_string()
        at = above
    raise _untrusted(ek, f"no root within {MAX_CHAIN} certificates")


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        if child.issuer != parent.subject:
            return False
        basic = parent.extensions.get_extension_for_class(x509.BasicConstraints)
        child.verify_directly_issued_by(parent)
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return basic.value.ca


def _same_key(certificate: x509.Certificate, ek: Public) -> bool:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return (numbers.n, numbers.e) == (int.from_bytes(ek.modulus, "big"), 65537)
    if isinstance(key, ec.EllipticCurvePublicKey) and ek.point is not None:
        x, y = (int.from_bytes(half, "big") for half in ek.point)
        return key.public_numbers() == ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
    return False


def _trimmed(der: bytes) -> bytes:
    """A certificate without what pads its NV area: as long as its outer SEQUENCE says."""
    if der[:2] == b"\x30\x82" and len(der) >= 4:
        return der[: 4 + int.from_bytes(der[2:4], "big")]
    return der


def check_keys(keys: TpmKeys, point: tuple[bytes, bytes]) -> tuple[Public, Public]:
    """AK and TLS key of a request, held to what each must be.

    Args:
        point: (x, y) of the signing request's key.

    Raises:
        WireRefusal: ``bad_tpm``, ``tpm_keys``.
    """
    ak, tls = forms.parse_public(keys.ak_public), forms.parse_public(keys.tls_public)
    for name, key in (("AK", ak), ("TLS key", tls)):
        if key.attributes & _BOUND != _BOUND:
            raise WireRefusal("tpm_keys", f"the {name} was not made in its TPM, or may leave it")
        if Attribute.SIGN not in key.attributes or Attribute.DECRYPT in key.attributes:
            raise WireRefusal("tpm_keys", f"the {name} does not only sign")
    # With ECDSA as its scheme it is P-256; so is the TLS key, or it has no point.
    if Attribute.RESTRICTED not in ak.attributes or ak.scheme is not Alg.ECDSA:
        raise WireRefusal("tpm_keys", "the AK would sign what others hand it")
    if tls.point != point:
        raise WireRefusal("tpm_keys", "the TLS key is not the signing request's")
    return ak, tls


def check_certify(ak: Public, tls: Public, activation: Activation, secret: bytes) -> None:
    """The AK's word on the TLS key, made after the credential was opened.

    Raises:
        WireRefusal: ``bad_tpm``, ``tpm_keys``.
    """
    said = forms.parse_certify(activation.certify)
    signature = forms.parse_signature(activation.certify_signature)
    if not hmac.compare_digest(said.qualifying, enrol_tpm.qualifying(secret)):
        raise WireRefusal("tpm_keys", "the certification is of another enrolment")
    if said.name != tls.name:
        raise WireRefusal("tpm_keys", "the certification is of another key")
    assert ak.point is not None
    x, y = (int.from_bytes(part, "big") for part in ak.point)
    r, s = (int.from_bytes(part, "big") for part in (signature.value[:32], signature.value[32:]))
    try:  # an RSA signature has no such halves, and fails as any other wrong one
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        key.verify(encode_dss_signature(r, s), activation.certify, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        raise WireRefusal("tpm_keys", "the certification is not signed by the AK") from None


def _untrusted(ek: Public, why: str) -> WireRefusal:
    return WireRefusal("ek_untrusted", f"EK {ek.name.hex()}: {why}")
