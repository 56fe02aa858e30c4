"""Renewal, the gateway's side: the key that is there asks for another certificate by itself.

1. the enrolment service proves itself under the roots of the present identity
2. it gives a challenge for this device
3. the identity key signs proof: nonce, device and signing request together (wire/renewal.py)
4. asked for evidence (the certificate has ended, by the service's clock), link is asked for it,
   once, for a fresh challenge
5. the answer is held to what was asked for and stored whole (service.py, identity.py); the one
   before stays on the disk until the new one has carried a round trip to the broker

Whatever fails, the present identity stays current. Blocks on the network.

    renew(state_dir, identity, evidence=lambda challenge: ask_link(challenge))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from edgewarden.enrol.service import (
    ask,
    check_answer,
    host_and_port,
    keep,
    signing_request,
)
from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.trust.identity import Identity
from edgewarden.trust.ladder import OwnKey
from edgewarden.trust.tls import pinned_context
from edgewarden.wire import cose, enrol, renewal
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, decode_challenge

MakeEvidence = Callable[[bytes], bytes]
"""A challenge message in, the evidence message that answers it out; raises EdgewardenError."""


def renew(
    state_dir: Path,
    identity: Identity,
    evidence: MakeEvidence,
    url: str = "",
    at_utc_s: int | None = None,
) -> Identity:
    """Get another certificate for the present key.

    Args:
        identity: the current one.
        evidence: called only when the service wants it.
        url: of the enrolment service; "": the one the identity came from.
        at_utc_s: what time it is, where the system's clock does not know.

    Raises:
        OperatorFault: EW-ID-008, no usable URL.
        WireRefusal: refused, by a name of wire/renewal.py.
        TrustFault: the service does not prove itself, or its answer is not ours.
        PeerUnavailable: no answer.
        HardwareFault: the disk refuses.
    """
    url = url or identity.service
    if not url:
        raise OperatorFault(
            "this identity does not say where it came from",
            code="EW-ID-008",
            next_step="give the enrolment service's URL once: `edgewarden identity renew --ca URL`",
        )
    host, port = host_and_port(url)
    signer, roots = identity.signer(), identity.root_pem()

    def post(path: str, body: bytes) -> bytes:
        return ask(host, port, pinned_context(roots, at_utc_s), "POST", path, body)

    def attempt(with_evidence: bool) -> enrol.EnrolAnswer:
        body = post("/v1/renew/challenge", renewal.encode_ask(identity.device))
        challenge = renewal.parse_challenge(enrol.unless_refused(body))
        made = evidence(challenge) if with_evidence else b""
        request = _request(identity, signer, challenge, made)
        return enrol.parse_answer(post("/v1/renew", renewal.encode_renew(request)))

    try:
        answer = attempt(False)
    except WireRefusal as refusal:
        if refusal.name != "evidence_missing":
            raise
        answer = attempt(True)
    certified = check_answer(answer, signer, identity.device, identity.tenant)
    return keep(state_dir, signer, url, certified, identity.keys)


def _request(
    identity: Identity, signer: OwnKey, challenge: bytes, evidence: bytes
) -> renewal.RenewRequest:
    """The challenge's signature is not looked at: TLS has proven who sent it, and it may be a new
    verifier key that this renewal is to fetch."""
    envelope = cose.open_envelope(challenge, cose.ContentType.NONCE, MAX_EVIDENCE_BYTES)
    nonce = decode_challenge(envelope.payload).nonce
    csr = signing_request(signer, identity.device)
    digest = hashlib.sha256(csr.encode()).digest()
    proof = renewal.Proof(identity.tenant, identity.device, nonce, digest)
    sealed = cose.seal(
        renewal.encode_proof(proof),
        cose.ContentType.RENEWAL,
        signer.kid,
        signer.sign,
        identity.x5chain(),
    )
    return renewal.RenewRequest(identity.device, csr, sealed, evidence)
