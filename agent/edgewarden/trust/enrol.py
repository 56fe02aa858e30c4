"""Enrolment, the gateway's side: a key made here, a certificate from the token's CA alone.

1. read the token; it names the device and the root certificate's SHA-256
2. GET /v1/ca over TLS that proves nothing yet; it counts only when its SHA-256 is the token's; then
   make the key: of the highest grade that this board carries a handshake with (ladder.py)
3. POST the signing request over TLS that trusts that root alone and checks the host name
4. believe the answer only when the certificate holds our key, names our device and was issued under
   the root
5. store key and certificate whole (trust/identity.py)

Renewal is the same with the key and the root that are there: it begins at step 3.

Nothing secret crosses step 2: an impostor there can hand out bytes, and bytes with another
fingerprint end it (``token_foreign_ca``). Blocks on the network; used by the command, never by the
daemon (it needs the X.509 parser).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import ssl
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edgewarden.errors import (
    EdgewardenError,
    OperatorFault,
    PeerUnavailable,
    TrustFault,
    WireRefusal,
)
from edgewarden.trust import identity as store
from edgewarden.trust.activation import TpmEnrolment
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import verifier_for
from edgewarden.trust.ladder import AUTO, Choice, Keys, OwnKey, check_lower, choose
from edgewarden.trust.selftest import prove
from edgewarden.trust.tls import pinned_context
from edgewarden.trust.tpmkey import TpmKey
from edgewarden.wire import bodies, enrol, enrol_tpm

TIMEOUT_S = 15.0
"""A CA answers in milliseconds; a cellular link with a slow start needs a few seconds."""
MAX_CA_BYTES = 16 * 1024
_UNREADABLE = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, WireRefusal, x509.InvalidVersion,
    x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What reading and checking a foreign certificate can raise."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What key the operator wants.

    Attributes:
        keys: the places where this machine may keep one.
        grade: a grade, or ``auto`` for the highest that works.
        accept_lower: a grade that may be had although a higher one was recorded here, "" for none.
        chosen: hears how it was chosen, before anything is sent.
    """

    keys: Keys = field(default_factory=Keys)
    grade: str = AUTO
    accept_lower: str = ""
    chosen: Callable[[Choice], None] = lambda _: None


def enroll(state_dir: Path, url: str, token_text: str, wish: Wish | None = None) -> Identity:
    """Get this gateway its first identity.

    Args:
        state_dir: the agent's state folder.
        url: ``https://host:port`` of the fleet's enrolment service.
        token_text: one line as printed by ``edgewarden-fleet token new``.
        wish: which key; None for the best one in the usual places.

    Raises:
        OperatorFault: already enrolled, or the URL cannot be used.
        WireRefusal: token or answer refused; ``name`` is the same on both sides.
        TrustFault: the service is not the one the token was made for; EW-ID-033, the key would be
            of a lower grade than the last; EW-ID-034, the grade that is wanted cannot be had.
        PeerUnavailable: no answer; the same command may be run again with the same token.
    """
    host, port = host_and_port(url)
    token = enrol.parse_token(token_text)
    if (state_dir / store.FOLDER / store.CURRENT).exists():
        raise OperatorFault(
            "this gateway already has an identity",
            code="EW-ID-007",
            next_step=(
                "see `edgewarden identity show`; for a new certificate, `edgewarden identity renew`"
            ),
        )
    ca_pem = _fetch_root(host, port, token.ca_sha256)
    wish = wish or Wish()
    choice = _choose(state_dir, wish)
    wish.chosen(choice)
    service = _Service(host, port, token, ca_pem, wish.keys)
    grade, recorded = choice.key.grade, store.recorded_grade(state_dir)
    try:
        check_lower(grade, recorded, wish.accept_lower)
    except TrustFault:
        # The fleet is told in any case; what it answers changes nothing here.
        with contextlib.suppress(EdgewardenError):
            service.certify(choice.key, recorded, accept_lower=False)
        raise
    answer, leaf = service.certify(choice.key, recorded, accept_lower=wish.accept_lower == grade)
    return _keep(state_dir, choice.key, token, answer, leaf, ca_pem, wish.keys)


def _choose(state_dir: Path, wish: Wish) -> Choice:
    """The key of this enrolment, proven from the file that it will be kept in."""
    kept = store.pending(state_dir, wish.keys)

    def prove_kept(key: OwnKey) -> None:
        prove(key, store.keep_pending(state_dir, key))

    return choose(wish.keys, wish.grade, prove_kept, kept)


def renew(state_dir: Path, url: str, token_text: str, keys: Keys | None = None) -> Identity:
    """Get the present key a new certificate, before the old one has ended or after.

    The root of the present identity is the only one believed, from the first byte on: a token of
    another fleet cannot move this gateway there.

    Args:
        state_dir: the agent's state folder, with an identity.
        url: as for ``enroll``.
        token_text: a new token for this very device.
        keys: the places where this machine keeps its key; None for the usual ones.

    Raises:
        as ``enroll``, and TrustFault EW-ID-004 when there is no identity to renew. The present
        identity stays current whatever is raised.
    """
    host, port = host_and_port(url)
    token = enrol.parse_token(token_text)
    identity = store.load(state_dir, keys)
    ca_pem = identity.root_pem()
    if [hashlib.sha256(root).digest() for root in store.pem_to_der(ca_pem)] != [token.ca_sha256]:
        raise TrustFault(
            "token_foreign_ca: the token is of another fleet than this gateway",
            code="EW-ID-009",
            next_step="get a token from the fleet that this gateway belongs to",
        )
    if token.device != identity.device:
        raise OperatorFault(
            f"the token is for {token.device}, this gateway is {identity.device}",
            code="EW-ID-002",
            next_step=f"ask for a token made with `--device {identity.device}`",
        )
    signer = identity.signer()
    service = _Service(host, port, token, ca_pem, identity.keys)
    answer, leaf = service.certify(signer)
    if answer.tenant != identity.tenant:
        raise _bad_answer("it is of another tenant")
    return _keep(state_dir, signer, token, answer, leaf, ca_pem, identity.keys)


@dataclass(frozen=True, slots=True)
class _Service:
    """The enrolment service of one token."""

    host: str
    port: int
    token: enrol.Token
    ca_pem: str
    keys: Keys

    def certify(
        self, key: OwnKey, recorded: str = "", *, accept_lower: bool = False
    ) -> tuple[enrol.EnrolAnswer, x509.Certificate]:
        """Steps 3 and 4: the answer, and the leaf in it that was found to be ours.

        Args:
            recorded: the grade of the key before this one.
            accept_lower: a person meant the lower grade.
        """
        token, tpm = self.token, None
        if isinstance(key, TpmKey):
            tpm = TpmEnrolment(self.keys.tpm(), key)
        request = enrol.EnrolRequest(
            str(token), token.device, _signing_request(key, token),
            key.grade, recorded, accept_lower, None if tpm is None else tpm.shown(),
        )  # fmt: skip
        said = self._post("/v1/enroll", enrol.encode_request(request))
        if tpm is not None and enrol_tpm.is_challenge(said):
            answer = tpm.answer(enrol_tpm.parse_challenge(said))
            said = self._post("/v1/enroll/activate", enrol_tpm.encode_activation(answer))
        answered = enrol.parse_answer(said)
        return answered, _check_answer(answered, key, token, self.ca_pem)

    def _post(self, path: str, body: bytes) -> bytes:
        return _ask(self.host, self.port, pinned_context(self.ca_pem), "POST", path, body)


def _keep(state_dir: Path, signer: OwnKey, token: enrol.Token, answer: enrol.EnrolAnswer,
          leaf: x509.Certificate, ca_pem: str, keys: Keys) -> Identity:  # fmt: skip
    """Step 5."""
    not_after = leaf.not_valid_after_utc.astimezone(UTC)
    return store.store(
        state_dir,
        signer,
        {
            "device": token.device,
            "tenant": answer.tenant,
            "grade": signer.grade,
            "serial": f"{leaf.serial_number:x}",
            "not_after_utc": not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "broker": {"host": answer.broker_host, "port": answer.broker_port},
            "verifier_key": answer.verifier_key.hex(),
        },
        answer.certificate_pem,
        ca_pem,
        keys,
    )


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


def _fetch_root(host: str, port: int, fingerprint: bytes) -> str:
    """Fetch the root certificate; nothing is believed but its fingerprint."""
    unproven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproven.check_hostname = False
    unproven.verify_mode = ssl.CERT_NONE
    body = _ask(host, port, unproven, "GET", "/v1/ca", None)
    try:
        certificates = store.pem_to_der(body[:MAX_CA_BYTES].decode("ascii", "replace"))
    except TrustFault:
        certificates = []
    if len(certificates) != 1 or hashlib.sha256(certificates[0]).digest() != fingerprint:
        raise TrustFault(
            "token_foreign_ca: the service's root certificate is not the one the token names",
            code="EW-ID-009",
            next_step=(
                "check the URL; if it is right, somebody answers in the fleet's place: stop "
                "and report"
            ),
        )
    return ssl.DER_cert_to_PEM_cert(certificates[0])


def _signing_request(signer: OwnKey, token: enrol.Token) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, token.device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    request = builder.sign(signer.private_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _ask(
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


def _check_answer(
    answer: enrol.EnrolAnswer, signer: OwnKey, token: enrol.Token, ca_pem: str
) -> x509.Certificate:
    """Return the leaf if it is ours under the pinned root; raises TrustFault otherwise."""
    try:
        verifier_for(answer.verifier_key)
        chain = x509.load_pem_x509_certificates(answer.certificate_pem.encode())
        chain.append(x509.load_pem_x509_certificate(ca_pem.encode()))
        for child, parent in itertools.pairwise(chain):
            child.verify_directly_issued_by(parent)
        key = chain[0].public_key()
        uris = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = uris.value.get_values_for_type(x509.UniformResourceIdentifier)
    except _UNREADABLE as fault:
        raise _bad_answer(f"it cannot be checked ({type(fault).__name__}: {fault})") from fault
    if key != signer.private_key().public_key():
        raise _bad_answer("it is for another key")
    if names != [device_urn(answer.tenant, token.device)]:
        raise _bad_answer("it names another device")
    return chain[0]


def device_urn(tenant: str, device: str) -> str:
    """The SAN URI that names a gateway."""
    return f"urn:edgewarden:device:{tenant}:{device}"


def _bad_answer(why: str) -> TrustFault:
    return TrustFault(
        f"the certificate in the answer is not ours: {why}",
        code="EW-ID-011",
        next_step="report it to the fleet's operator; nothing was stored",
    )
