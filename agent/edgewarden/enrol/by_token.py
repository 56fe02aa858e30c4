"""Enrolment, the gateway's side: a key made here, a certificate from the token's CA alone.

1. read the token; it names the device and the root certificate's SHA-256
2. GET /v1/ca over TLS that proves nothing yet; it counts only when its SHA-256 is the token's; then
   make the key: of the highest grade that this board carries a handshake with (ladder.py)
3. POST the signing request over TLS that trusts that root alone and checks the host name
4. believe the answer only when the certificate holds our key, names our device and was issued under
   the root
5. store key and certificate whole (folder.py)

A new certificate by token (a gateway that was off line for too long) is the same with the key and
the root that are there: it begins at step 3. Renewal without a token: renewal.py.

Nothing secret crosses step 2: an impostor there can hand out bytes, and bytes with another
fingerprint end it (``token_foreign_ca``). Blocks on the network; used by the command, never by the
daemon (it needs the X.509 parser).
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

from edgewarden.enrol import folder
from edgewarden.enrol.service import (
    Certified,
    ask,
    check_answer,
    host_and_port,
    keep,
    signing_request,
)
from edgewarden.errors import EdgewardenError, OperatorFault, TrustFault
from edgewarden.plain import dataclass, field
from edgewarden.trust import identity as store
from edgewarden.trust.activation import TpmEnrolment
from edgewarden.trust.identity import Identity
from edgewarden.trust.ladder import AUTO, Choice, Keys, OwnKey, check_lower, choose
from edgewarden.trust.selftest import prove
from edgewarden.trust.tls import pinned_context
from edgewarden.trust.tpmkey import TpmKey
from edgewarden.wire import enrol, enrol_tpm

MAX_CA_BYTES = 16 * 1024


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
        OperatorFault: already enrolled, another enrolment is under way (EW-ID-041), or the URL
            cannot be used.
        WireRefusal: token or answer refused; ``name`` is the same on both sides.
        TrustFault: the service is not the one the token was made for; EW-ID-033, the key would be
            of a lower grade than the last; EW-ID-034, the grade that is wanted cannot be had.
        PeerUnavailable: no answer; the same command may be run again with the same token.
    """
    host, port = host_and_port(url)
    token = enrol.parse_token(token_text)
    with folder.locked(state_dir, make=True):
        return _enroll(state_dir, url, (host, port), token, wish or Wish())


def _enroll(
    state_dir: Path, url: str, at: tuple[str, int], token: enrol.Token, wish: Wish
) -> Identity:
    host, port = at
    if (state_dir / store.FOLDER / store.CURRENT).exists():
        raise OperatorFault(
            "this gateway already has an identity",
            code="EW-ID-007",
            next_step=(
                "for a new certificate, `edgewarden identity renew`; for another key,"
                " `edgewarden explain EW-ID-007`"
            ),
        )
    ca_pem = _fetch_root(host, port, token.ca_sha256)
    choice = _choose(state_dir, wish)
    wish.chosen(choice)
    service = _Service(host, port, token, ca_pem, wish.keys)
    grade, recorded = choice.key.grade, folder.recorded_grade(state_dir)
    try:
        check_lower(grade, recorded, wish.accept_lower)
    except TrustFault:
        # The fleet is told in any case; what it answers changes nothing here.
        with contextlib.suppress(EdgewardenError):
            service.certify(choice.key, recorded, accept_lower=False)
        raise
    certified = service.certify(choice.key, recorded, accept_lower=wish.accept_lower == grade)
    return keep(state_dir, choice.key, url, certified, wish.keys)


def _choose(state_dir: Path, wish: Wish) -> Choice:
    """The key of this enrolment, proven from the file that it will be kept in."""
    kept = folder.pending(state_dir, wish.keys)

    def prove_kept(key: OwnKey) -> None:
        prove(key, folder.keep_pending(state_dir, key))

    return choose(wish.keys, wish.grade, prove_kept, kept)


def renew(
    state_dir: Path,
    url: str,
    token_text: str,
    keys: Keys | None = None,
    at_utc_s: int | None = None,
) -> Identity:
    """Get the present key a new certificate, before the old one has ended or after.

    The root of the present identity is the only one believed, from the first byte on: a token of
    another fleet cannot move this gateway there.

    Args:
        state_dir: the agent's state folder, with an identity.
        url: as for ``enroll``.
        token_text: a new token for this very device.
        keys: the places where this machine keeps its key; None for the usual ones.
        at_utc_s: what time it is, where the system's clock does not know.

    Raises:
        as ``enroll``, and TrustFault EW-ID-004 when there is no identity to renew. The present
        identity stays current whatever is raised.
    """
    host, port = host_and_port(url)
    token = enrol.parse_token(token_text)
    identity = store.load(state_dir, keys)
    ca_pem = identity.root_pem()
    if token.ca_sha256 not in [hashlib.sha256(der).digest() for der in store.pem_to_der(ca_pem)]:
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
    service = _Service(host, port, token, ca_pem, identity.keys, identity.tenant, at_utc_s)
    certified = service.certify(signer)
    return keep(state_dir, signer, url, certified, identity.keys)


@dataclass(frozen=True, slots=True)
class _Service:
    """The enrolment service of one token.

    Attributes:
        tenant: the one its answer must be of; "": whichever.
        at_utc_s: what time it is, where the system's clock does not know.
    """

    host: str
    port: int
    token: enrol.Token
    ca_pem: str
    keys: Keys
    tenant: str = ""
    at_utc_s: int | None = None

    def certify(self, key: OwnKey, recorded: str = "", *, accept_lower: bool = False) -> Certified:
        """Steps 3 and 4.

        Args:
            recorded: the grade of the key before this one.
            accept_lower: a person meant the lower grade.
        """
        token, tpm = self.token, None
        if isinstance(key, TpmKey):
            tpm = TpmEnrolment(self.keys.tpm(), key)
        request = enrol.EnrolRequest(
            str(token), token.device, signing_request(key, token.device),
            key.grade, recorded, accept_lower, None if tpm is None else tpm.shown(),
        )  # fmt: skip
        said = self._post("/v1/enroll", enrol.encode_request(request))
        if tpm is not None and enrol_tpm.is_challenge(said):
            answer = tpm.answer(enrol_tpm.parse_challenge(said))
            said = self._post("/v1/enroll/activate", enrol_tpm.encode_activation(answer))
        return check_answer(enrol.parse_answer(said), key, token.device, self.tenant)

    def _post(self, path: str, body: bytes) -> bytes:
        context = pinned_context(self.ca_pem, self.at_utc_s)
        return ask(self.host, self.port, context, "POST", path, body)


def _fetch_root(host: str, port: int, fingerprint: bytes) -> str:
    """Fetch the root certificate; nothing is believed but its fingerprint."""
    unproven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproven.check_hostname = False
    unproven.verify_mode = ssl.CERT_NONE
    body = ask(host, port, unproven, "GET", "/v1/ca", None)
    try:
        certificates = store.pem_to_der(body[:MAX_CA_BYTES].decode("ascii", "replace"))
    except TrustFault:
        certificates = []
    for der in certificates:
        if hashlib.sha256(der).digest() == fingerprint:
            return ssl.DER_cert_to_PEM_cert(der)
    raise TrustFault(
        "token_foreign_ca: the service's root certificate is not the one the token names",
        code="EW-ID-009",
        next_step=(
            "check the URL; if it is right, somebody answers in the fleet's place: stop and report"
        ),
    )
