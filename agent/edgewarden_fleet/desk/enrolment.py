"""One enrolment from request to certificate, with a TPM in two steps.

Order of ``begin``: token readable, for this device, of this CA, known, unspent, in time; a grade
below the recorded one told as a finding, and refused unless a person's word came with it; without
a TPM: the certificate (tokens.py). With one: EK trusted, AK and TLS key what they must be, no
conflict with what is known; then a credential only this TPM opens.

Order of ``finish``: the session is known, in time and used once, whatever comes after; the secret
is right; the AK's certification of the TLS key holds; then the certificate, in one transaction
with the lineage.

A refusal that speaks of a device being somebody else (``device_exists``, ``lineage_conflict``,
``grade_lowered``) is a finding, too: it came with a token that the operator made.

Challenges live in memory, bounded in number and time: a restart costs a gateway one more try.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.errors import WireRefusal
from edgewarden.trust.ladder import is_lower
from edgewarden.wire.enrol import EnrolAnswer, EnrolRequest
from edgewarden.wire.enrol_tpm import SESSION_BYTES, Activation, CredentialChallenge
from edgewarden.wire.facts import Severity
from edgewarden.wire.tpm import Public
from edgewarden_fleet.desk import binding
from edgewarden_fleet.desk.binding import Makers
from edgewarden_fleet.desk.credential import make_credential, parse_ek
from edgewarden_fleet.desk.tokens import Office, check_token, enrol_device
from edgewarden_fleet.store import lineage, records
from edgewarden_fleet.store.lineage import Lineage

ACTIVATE_S = 120.0
"""A TPM makes its RSA endorsement key anew for this: ten seconds on a slow chip."""
MAX_WAITING = 64
SECRET_BYTES = 32
FINDINGS = {"device_exists": "lineage", "lineage_conflict": "lineage", "grade_lowered": "grade"}
"""Refusal -> kind of finding."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: EnrolRequest
    secret: bytes
    ak: Public
    tls: Public
    lineage: Lineage
    until_utc_s: float


class Enrolment:
    """The service's memory between the two steps; called by one thread at a time.

    Args:
        makers: whom the operator trusts now: asked each time, so that a new file needs no restart.
    """

    def __init__(
        self, db: sqlite3.Connection, office: Office, makers: Callable[[], Makers]
    ) -> None:
        self._db = db
        self._office = office
        self._makers = makers
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()

    def begin(self, request: EnrolRequest, now_utc_s: float) -> EnrolAnswer | CredentialChallenge:
        """Answer a request; raises WireRefusal by a name of wire/enrol.py."""
        key = check_token(self._db, self._office, request, now_utc_s)
        try:
            self._check_grade(request, now_utc_s)
            if request.tpm is None:
                return enrol_device(self._db, self._office, request, now_utc_s)
            return self._challenge(request, key, now_utc_s)
        except WireRefusal as refusal:
            self._tell(request, refusal, now_utc_s)
            raise

    def finish(self, activation: Activation, now_utc_s: float) -> tuple[EnrolRequest, EnrolAnswer]:
        """Answer an activation, with the request it belongs to; raises WireRefusal."""
        waiting = self._waiting.pop(activation.session, None)
        if waiting is None or now_utc_s >= waiting.until_utc_s:
            raise WireRefusal("activation_expired", "no enrolment waits under this session")
        request = waiting.request
        try:
            if not hmac.compare_digest(activation.secret, waiting.secret):
                raise WireRefusal("activation_failed", "the credential was not opened by its TPM")
            binding.check_certify(waiting.ak, waiting.tls, activation, waiting.secret)
            return request, enrol_device(
                self._db, self._office, request, now_utc_s, waiting.lineage
            )
        except WireRefusal as refusal:
            self._tell(request, refusal, now_utc_s)
            raise

    def _challenge(
        self, request: EnrolRequest, key: ec.EllipticCurvePublicKey, now_utc_s: float
    ) -> CredentialChallenge:
        keys = request.tpm
        assert keys is not None
        ek = parse_ek(keys.ek_public)
        vouched_by = binding.trusted_ek(self._makers(), ek, keys.ek_certificate)
        numbers = key.public_numbers()
        point = (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
        ak, tls = binding.check_keys(keys, point)
        asked = Lineage(ek.name, keys.ek_public, keys.ak_public, keys.tls_public, vouched_by)
        lineage.check(self._db, request.device, asked)
        secret, session = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SESSION_BYTES)
        credential, encrypted = make_credential(ek, ak.name, secret)
        self._waiting[session] = _Waiting(request, secret, ak, tls, asked, now_utc_s + ACTIVATE_S)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        return CredentialChallenge(session, credential, encrypted)

    def _check_grade(self, request: EnrolRequest, now_utc_s: float) -> None:
        if not is_lower(request.grade, request.recorded):
            return
        text = f"the gateway was {request.recorded} and would be {request.grade}"
        if not request.accept_lower:
            raise WireRefusal("grade_lowered", text)
        records.add_finding(
            self._db, request.device, "grade", Severity.MEDIUM,
            f"{text}: its operator said so on the gateway", now_utc_s,
        )  # fmt: skip

    def _tell(self, request: EnrolRequest, refusal: WireRefusal, now_utc_s: float) -> None:
        kind = FINDINGS.get(refusal.name)
        if kind is not None:
            text = f"enrolment refused: {refusal.text}"
            records.add_finding(self._db, request.device, kind, Severity.HIGH, text, now_utc_s)
