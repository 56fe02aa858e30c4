"""The gateway's exchange with the enrolment service: one bounded HTTPS request, and what is
believed of an answer.

The service proves itself by a root that was pinned before. Then an answer's certificate is believed
when it holds our key, names our device in its SAN URI, has the name of one of its boards and leads
to one of the roots in the answer: those are the gateway's roots from then on, which is how a fleet
gets another one without anybody travelling. How long a certificate lasts and under which issuer is
the fleet's to decide.

Blocks on the network; used by commands, never by the daemon (it needs the X.509 parser).

    body = ask(host, port, pinned_context(ca_pem), "POST", "/v1/enroll", data)
    identity = keep(state_dir, signer, url, check_answer(parse_answer(body), signer, device))
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import ssl
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edgewarden.enrol import folder
from edgewarden.errors import OperatorFault, PeerUnavailable, TrustFault, WireRefusal
from edgewarden.plain import dataclass
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import verifier_for
from edgewarden.trust.ladder import Keys, OwnKey
from edgewarden.wire import bodies, enrol
from edgewarden.wire.topics import device_of

TIMEOUT_S = 15.0
"""A CA answers in milliseconds; a cellular link with a slow start needs a few seconds."""
MAX_ROOTS = 4
"""One, and while it is being replaced two; as many again of another CA."""
_UNREADABLE = (
    ValueError, KeyError, TypeError, InvalidSignature, UnsupportedAlgorithm, WireRefusal,
    x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What reading and checking a foreign certificate can raise."""


@dataclass(frozen=True, slots=True)
class Certified:
    """An answer that was found to be ours.

    Attributes:
        session: what this board is called at the broker (wire/topics.py).
    """

    device: str
    session: str
    answer: enrol.EnrolAnswer
    leaf: x509.Certificate


def keep(state_dir: Path, signer: OwnKey, url: str, certified: Certified, keys: Keys) -> Identity:
    """Store key, certificate and what the answer says of the fleet; raises HardwareFault."""
    answer, leaf = certified.answer, certified.leaf
    return folder.store(
        state_dir,
        signer,
        {
            "device": certified.device,
            "session": certified.session,
            "tenant": answer.tenant,
            "grade": signer.grade,
            "serial": f"{leaf.serial_number:x}",
            "not_before_utc": _utc(leaf.not_valid_before_utc),
            "not_after_utc": _utc(leaf.not_valid_after_utc),
            "service": url,
            "broker": {"host": answer.broker_host, "port": answer.broker_port},
            "verifier_key": answer.verifier_key.hex(),
        },
        answer.certificate_pem,
        answer.ca_pem,
        keys,
    )


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def host_and_port(url: str) -> tuple[str, int]:
    """Take the URL apart; raises OperatorFault EW-ID-008."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as fault:  # a port out of range, a bracket left open
        host, port, why = None, 0, f": {fault}"
    else:
        why = ""
    if not host or parts.scheme != "https":
        raise OperatorFault(
            f"{url!r} is not https://host:port{why}",
            code="EW-ID-008",
            next_step="use the URL that `edgewarden-fleet serve` prints",
        )
    return host, port


def signing_request(signer: OwnKey, device: str) -> str:
    """PKCS#10 for this key, PEM; signed by it, which proves that it is held here."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    request = builder.sign(signer.private_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def ask(
    host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None
) -> bytes:
    """One bounded HTTPS exchange; returns the body of any answer."""
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().read(bodies.MAX_MESSAGE_BYTES + 1)
    except ssl.SSLCertVerificationError as fault:
        raise TrustFault(
            f"the service's certificate does not hold: {fault.verify_message}",
            code="EW-ID-009",
            next_step="check host name and clock; if both are right, stop and report it",
        ) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise PeerUnavailable(
            f"{host}:{port} does not answer: {fault}",
            code="EW-ID-010",
            next_step=(
                "check the network (`edgewarden doctor network`), then run the same command again"
            ),
        ) from fault
    finally:
        connection.close()


def check_answer(
    answer: enrol.EnrolAnswer, signer: OwnKey, device: str, tenant: str = ""
) -> Certified:
    """Hold an answer to what was asked for.

    Args:
        answer: of a service that has proven itself.
        tenant: the one it must be of; "": whichever.

    Raises:
        TrustFault: EW-ID-011, naming what does not fit.
    """
    if tenant and answer.tenant != tenant:
        raise _bad_answer("it is of another tenant")
    try:
        verifier_for(answer.verifier_key)
        chain = x509.load_pem_x509_certificates(answer.certificate_pem.encode())
        roots = x509.load_pem_x509_certificates(answer.ca_pem.encode())
        above = [root for root in roots if root.subject == chain[-1].issuer]
        for child, parent in itertools.pairwise(chain):
            child.verify_directly_issued_by(parent)
        _check_under(chain[-1], above)
        key = chain[0].public_key()
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        common = [
            str(c.value) for c in chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
        may_sign = [
            root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            for root in roots
        ]
    except _UNREADABLE as fault:
        raise _bad_answer(f"it cannot be checked ({type(fault).__name__}: {fault})") from fault
    if not above:
        raise _bad_answer("it leads to none of the roots beside it")
    if len(roots) > MAX_ROOTS or not all(may_sign):
        raise _bad_answer("its roots are no roots")
    if key != signer.private_key().public_key():
        raise _bad_answer("it is for another key")
    if not names_device(names, answer.tenant, device):
        raise _bad_answer("it names another device")
    if len(common) != 1 or device_of(common[0]) != device:
        raise _bad_answer("the broker would know it by another name")
    return Certified(device, common[0], answer, chain[0])


def _check_under(top: x509.Certificate, above: list[x509.Certificate]) -> None:
    """One of these signed it; raises what cryptography does. A CA that renews its root with another
    key may keep its name: which of the two it is, the signature says."""
    for root in above[:-1]:
        with contextlib.suppress(*_UNREADABLE):
            top.verify_directly_issued_by(root)
            return
    for root in above[-1:]:
        top.verify_directly_issued_by(root)


def life_of(identity: Identity) -> tuple[float, float]:
    """From when until when the present certificate is valid, seconds since 1970; raises
    TrustFault."""
    leaf = x509.load_der_x509_certificate(identity.x5chain()[0])
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


def names_device(names: x509.SubjectAlternativeName, tenant: str, device: str) -> bool:
    """Is this exactly one name, and this gateway's: the URI, or the DNS name that stands for it?
    No device's (""): never."""
    found = [(type(name), name.value) for name in names]
    return bool(device) and found in (
        [(x509.UniformResourceIdentifier, device_urn(tenant, device))],
        [(x509.DNSName, device_host(tenant, device))],
    )


def device_host(tenant: str, device: str) -> str:
    """The same as a DNS name that never resolves (RFC 6761 §6.4), for CAs that know no URIs."""
    return f"{device}.{tenant}.gateway.edgewarden.invalid"


def device_urn(tenant: str, device: str) -> str:
    """The SAN URI that names a gateway."""
    return f"urn:edgewarden:device:{tenant}:{device}"


def _bad_answer(why: str) -> TrustFault:
    return TrustFault(
        f"the certificate in the answer is not ours: {why}",
        code="EW-ID-011",
        next_step="report it to the fleet's operator; nothing was stored",
    )
