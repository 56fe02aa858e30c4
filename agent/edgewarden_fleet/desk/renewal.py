"""Renewal, the operator's side: the registered key is the proof, and no date of a certificate is.

    desk = RenewalDesk(db, office, verifier_key)
    challenge = desk.challenge("gw-demo", now_utc_s)       # POST /v1/renew/challenge
    answer = desk.renew(request, now_utc_s)                # POST /v1/renew

Order of ``renew``; each step is a refusal by name, and nothing is issued before the last:

1. the proof is an envelope of type RENEWAL, its chain leads to one of our roots, the chain's key is
   the one in the registry, the device is not revoked, the signature holds
                              ``bad_chain`` ..., ``unregistered``, ``revoked``, ``bad_signature``
2. at most GRACE_S after the registered certificate has ended               ``renewal_too_late``
3. tenant, device and request are those that were signed                    ``renewal_proof``
4. the signing request is sound and for the registered key                  ``csr_invalid``
5. the device is not in quarantine: of two boards with one key neither gets a certificate
                                                                            ``quarantined``
6. the nonce is outstanding, this device's, unused, in time; it is used up by this
                                                                            ``nonce_*``
7. a registered certificate that has ended wants fresh evidence for that very nonce
                                                                            ``evidence_missing``
   that says nothing against identity and freshness                         ``evidence_refused``

The last one asks for no more: a gateway whose programs or settings are not what they should be is
found by appraisal, and must stay reachable for whoever puts it right.

The service's clock counts, never the gateway's. What a stranger can use up is nothing: a nonce is
made of time, chance and a MAC over both and the device, so that nobody has to remember it, and it
is used up only by a proof whose signature held.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3

from edgewarden.errors import WireRefusal
from edgewarden.ports import Signer
from edgewarden.trust.keys import public_cose_key
from edgewarden.wire import cose, renewal
from edgewarden.wire.enrol import EnrolAnswer
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, Tier, decode_result
from edgewarden.wire.topics import Topic
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.issuers import Wanted, checked
from edgewarden_fleet.desk.tokens import Office
from edgewarden_fleet.store import continuity as threads
from edgewarden_fleet.store import registry
from edgewarden_fleet.store.registry import Registered
from edgewarden_fleet.store.schema import transaction
from edgewarden_fleet.verify.attest import Appraiser
from edgewarden_fleet.verify.pipeline import Incoming, Verifier

GRACE_S = 180 * 86400.0
"""A gateway in a plant that stands still for half a year comes back by itself."""
_TIME_BYTES, _STEP_BYTES, _CHANCE_BYTES, _MAC_BYTES = 4, 8, 4, 16
NEEDED = ("identity", "freshness")
"""Facets that evidence for a certificate that has ended must not contradict."""


class Nonces:
    """Nonces that nobody has to remember: time (4 bytes, seconds), step (8), chance (4), MAC (16).

    ``step`` is the gateway's place in its thread of tokens (order/ratchet.py) at that moment: what
    evidence for this nonce presents may not lie below it.

    Args:
        ttl_s: how long one may be used.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._key = secrets.token_bytes(32)
        self._used: dict[bytes, float] = {}

    def make(self, device: str, step: int, now_utc_s: float) -> bytes:
        """A nonce for one device."""
        head = int(now_utc_s).to_bytes(_TIME_BYTES, "big") + step.to_bytes(_STEP_BYTES, "big")
        head += secrets.token_bytes(_CHANCE_BYTES)
        return head + self._mac(head, device)

    def use(self, nonce: bytes, device: str, now_utc_s: float) -> tuple[float, int]:
        """Use one up; returns when it was made, and the step.

        Raises:
            WireRefusal: ``nonce_unknown``, ``nonce_expired``, ``nonce_used``.
        """
        head, mac = nonce[:-_MAC_BYTES], nonce[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(head, device)):
            raise WireRefusal("nonce_unknown", "no such challenge was made for this device")
        made_utc_s = float(int.from_bytes(head[:_TIME_BYTES], "big"))
        if not made_utc_s <= now_utc_s <= made_utc_s + self._ttl_s:
            raise WireRefusal("nonce_expired", "the answer came too late")
        self._used = {n: at for n, at in self._used.items() if at + self._ttl_s >= now_utc_s}
        if nonce in self._used:
            raise WireRefusal("nonce_used", "the challenge was answered before")
        self._used[nonce] = made_utc_s
        return made_utc_s, int.from_bytes(head[_TIME_BYTES:][:_STEP_BYTES], "big")

    def _mac(self, head: bytes, device: str) -> bytes:
        return hmac.digest(self._key, head + device.encode(), "sha256")[:_MAC_BYTES]


class RenewalDesk:
    """See the module. Used by one thread at a time, with a connection of its own."""

    def __init__(
        self, db: sqlite3.Connection, office: Office, verifier_key: Signer, secret: bytes
    ) -> None:
        self._db = db
        self._office = office
        settings = office.settings
        self._verifier = Verifier(db, office.roots, settings.tenant, GRACE_S)
        self._appraiser = Appraiser(self._verifier, verifier_key, settings.attestation, secret)
        self._nonces = Nonces(settings.attestation.nonce_ttl_s)

    def challenge(self, device: str, now_utc_s: float) -> bytes:
        """The message of a new challenge.

        Raises:
            WireRefusal: ``renewal_unknown``, ``revoked``.
        """
        known = registry.find(self._db, device)
        if known is None:
            raise WireRefusal("renewal_unknown", "no gateway of this id is enrolled")
        if known.revoked:
            raise WireRefusal("revoked", "the device is revoked")
        nonce = self._nonces.make(device, threads.step_of(self._db, device), now_utc_s)
        return self._appraiser.sign_challenge(device, nonce, now_utc_s).payload

    def renew(self, request: renewal.RenewRequest, now_utc_s: float) -> EnrolAnswer:
        """Issue and register another certificate for a registered key.

        Raises:
            WireRefusal: see the module.
            PeerFault, PeerUnavailable: the CA behind us.
        """
        refused: WireRefusal | None = None
        with transaction(self._db):
            try:
                wanted = self._admit(request, now_utc_s)
            except WireRefusal as refusal:  # what the evidence showed (a copy, say) stays known
                refused = refusal
        if refused is not None:
            raise refused
        office = self._office
        chain = checked(office.issuer.issue(wanted, now_utc_s), wanted, office.roots, now_utc_s)
        with transaction(self._db):
            registry.renewed(self._db, request.device, public_cose_key(wanted.key), chain.issued())
        return office.answer(chain)

    def _admit(self, request: renewal.RenewRequest, now_utc_s: float) -> Wanted:
        envelope = cose.open_envelope(
            request.proof, cose.ContentType.RENEWAL, renewal.MAX_PROOF_BYTES
        )
        tenant = self._office.settings.tenant
        topic = Topic(tenant, request.device, "e", "evidence")
        try:
            self._verifier.identity_of(envelope, topic, now_utc_s)
        except WireRefusal as refusal:
            if refusal.name == "cert_expired":
                raise WireRefusal("renewal_too_late", "it ended too long ago") from refusal
            raise
        known = registry.find(self._db, request.device)
        assert known is not None  # identity_of has just held the key to it
        proof = renewal.decode_proof(envelope.payload)
        if (proof.tenant, proof.device) != (tenant, request.device):
            raise WireRefusal("renewal_proof", "it names another gateway")
        if proof.csr_sha256 != hashlib.sha256(request.csr_pem.encode()).digest():
            raise WireRefusal("renewal_proof", "it is for another signing request")
        key = certificates.read_request(request.csr_pem)
        if public_cose_key(key) != known.public_key:
            raise WireRefusal("csr_invalid", "the request is for another key")
        self._check_nonce(request, known, proof, now_utc_s)
        return Wanted(tenant, request.device, key, request.csr_pem, known.board)

    def _check_nonce(
        self, request: renewal.RenewRequest, known: Registered, proof: renewal.Proof, now: float
    ) -> None:
        ended = now > known.not_after_utc_s
        if threads.quarantined(self._db, request.device) is not None:
            raise WireRefusal("quarantined", "a copy of this gateway may be about")
        issued_utc_s, step = self._nonces.use(proof.nonce, request.device, now)
        if not ended:
            return
        if not request.evidence:
            raise WireRefusal("evidence_missing", "its certificate has ended: evidence is needed")
        self._appraiser.remember(request.device, proof.nonce, issued_utc_s, step)
        topic = Topic(known.tenant, request.device, "e", "evidence")
        verdict, out = self._appraiser.take_evidence(Incoming(str(topic), request.evidence), now)
        if not verdict.accepted:
            raise WireRefusal("evidence_refused", f"{verdict.outcome}: {verdict.why}"[:200])
        sealed = cose.open_envelope(out[0].payload, cose.ContentType.RESULT, MAX_EVIDENCE_BYTES)
        result = decode_result(sealed.payload)
        if result.nonce != proof.nonce:
            raise WireRefusal("evidence_refused", "it answers another challenge")
        for facet in NEEDED:
            if result.facets.get(facet) is Tier.CONTRAINDICATED:
                why = result.reasons.get(facet, "contraindicated")
                raise WireRefusal("evidence_refused", f"{facet}: {why}"[:200])
