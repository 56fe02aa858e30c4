"""Renewal: a gateway asks for a new certificate with the key that it has, and nothing else.

No token, no person: the key is the proof. Two requests to the enrolment service, over TLS under the
root that the gateway pinned:

    POST /v1/renew/challenge  {"schema": "edgewarden.renewal/1", "device": ...}
        answer                {"schema": "edgewarden.renewal-challenge/1", "challenge": base64}
    POST /v1/renew            {"schema": "edgewarden.renew/1", "device": ..., "csr": PEM,
                               "proof": base64, "evidence": base64 or ""}
        answer                as for enrolment (enrol.py)

``challenge`` is the message of e/nonce (evidence.py), ``evidence`` the one of e/evidence that
answers it. ``proof`` is a COSE_Sign1 of type RENEWAL, signed by the identity key with its
certificate chain, over

    {0: 1, 1: tenant, 2: device, 3: nonce, 4: SHA-256 of the CSR's text}

so that neither can be taken from one request and put into another.

Refusal names: renewal_unknown, renewal_proof, nonce_unknown, nonce_used,
nonce_expired, csr_invalid, revoked, quarantined, evidence_missing, evidence_refused,
renewal_too_late, rate_limited.
"""

from __future__ import annotations

import base64
import binascii

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.bodies import dump, load, text_of
from edgewarden.wire.evidence import NONCE_BYTES
from edgewarden.wire.record import is_identifier

FORMAT = 1
MAX_PROOF_BYTES = 8 * 1024
"""The payload is 130 bytes, the chain 1.2 kB; foreign certificates are larger."""
ASK_SCHEMA = "edgewarden.renewal/1"
CHALLENGE_SCHEMA = "edgewarden.renewal-challenge/1"
RENEW_SCHEMA = "edgewarden.renew/1"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the identity key signs.

    Attributes:
        csr_sha256: of the signing request's text as it is sent.
    """

    tenant: str
    device: str
    nonce: bytes
    csr_sha256: bytes


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """What the gateway sends.

    Attributes:
        proof: the COSE message.
        evidence: the COSE message, or b"".
    """

    device: str
    csr_pem: str
    proof: bytes
    evidence: bytes = b""


def encode_proof(p: Proof) -> bytes:
    """The payload under the signature."""
    return cbor.encode({0: FORMAT, 1: p.tenant, 2: p.device, 3: p.nonce, 4: p.csr_sha256})


def decode_proof(payload: bytes) -> Proof:
    """Read it; raises WireRefusal("renewal_proof") or a refusal of cbor.py."""
    body = cbor.decode(payload, MAX_PROOF_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(5)):
        raise WireRefusal("renewal_proof", "not exactly the fields of a proof")
    tenant, device, nonce, digest = (body[key] for key in range(1, 5))
    if type(body[0]) is not int or body[0] != FORMAT:
        raise WireRefusal("renewal_proof", f"format is not {FORMAT}")
    if not (isinstance(tenant, str) and is_identifier(tenant)):
        raise WireRefusal("renewal_proof", "tenant is not an identifier")
    if not (isinstance(device, str) and is_identifier(device)):
        raise WireRefusal("renewal_proof", "device is not an identifier")
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise WireRefusal("renewal_proof", f"the nonce is not {NONCE_BYTES} bytes")
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise WireRefusal("renewal_proof", "the digest is not a SHA-256")
    return Proof(tenant, device, nonce, digest)


def encode_ask(device: str) -> bytes:
    """The body of POST /v1/renew/challenge."""
    return dump({"schema": ASK_SCHEMA, "device": device})


def parse_ask(data: bytes) -> str:
    """The device that asks; raises WireRefusal("bad_request")."""
    return _device(load(data, ASK_SCHEMA, {"device"}))


def encode_challenge(message: bytes) -> bytes:
    """The answer to it."""
    return dump({"schema": CHALLENGE_SCHEMA, "challenge": base64.b64encode(message).decode()})


def parse_challenge(data: bytes) -> bytes:
    """The challenge message; raises WireRefusal("bad_request")."""
    return _bytes(load(data, CHALLENGE_SCHEMA, {"challenge"}), "challenge")


def encode_renew(request: RenewRequest) -> bytes:
    """The body of POST /v1/renew."""
    return dump(
        {
            "schema": RENEW_SCHEMA,
            "device": request.device,
            "csr": request.csr_pem,
            "proof": base64.b64encode(request.proof).decode(),
            "evidence": base64.b64encode(request.evidence).decode(),
        }
    )


def parse_renew(data: bytes) -> RenewRequest:
    """Read it; raises WireRefusal("bad_request")."""
    body = load(data, RENEW_SCHEMA, {"device", "csr", "proof", "evidence"})
    return RenewRequest(
        _device(body), text_of(body, "csr"), _bytes(body, "proof"), _bytes(body, "evidence")
    )


def _device(body: dict[str, object]) -> str:
    device = text_of(body, "device")
    if not is_identifier(device):
        raise WireRefusal("bad_request", "device is not a device id")
    return device


def _bytes(body: dict[str, object], key: str) -> bytes:
    text = text_of(body, key)
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise WireRefusal("bad_request", f"{key} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise WireRefusal("bad_request", f"{key} is not base64 as it is written")
    return data
