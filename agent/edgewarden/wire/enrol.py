"""Enrolment: the token a person carries, and the two messages around one signing request.

Token, one line of text: ``ew1.<device>.<secret>.<fingerprint>`` with 32 random bytes in unpadded
base64url and the SHA-256 of the root certificate's DER in hex. The fleet keeps only the secret's
hash.

    POST /v1/enroll
        request  {"schema": "edgewarden.enroll/1", "token": ..., "device": ..., "csr": PEM}
        answer   {"schema": "edgewarden.enrolled/1", "tenant": ..., "certificate": PEM chain,
                  "ca": PEM, "verifier_key": hex COSE_Key, "broker": {"host": ..., "port": ...}}
        refusal  {"schema": "edgewarden.refusal/1", "error": NAME, "text": ..., "next": ...}
    GET /v1/ca
        the root certificate, PEM: fetched before anything is trusted, held to the fingerprint

Refusal names (both sides print them): token_malformed, token_unknown, token_used, token_expired,
token_foreign_device, token_foreign_ca, csr_invalid, device_exists, rate_limited.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from edgewarden.errors import WireRefusal
from edgewarden.wire.bodies import MAX_MESSAGE_BYTES, dump, load, text_of
from edgewarden.wire.record import is_identifier

SECRET_BYTES = 32
REQUEST_SCHEMA = "edgewarden.enroll/1"
ANSWER_SCHEMA = "edgewarden.enrolled/1"
REFUSAL_SCHEMA = "edgewarden.refusal/1"


@dataclass(frozen=True, slots=True)
class Token:
    """One enrolment token; the secret is shown once and stored nowhere."""

    device: str
    secret: bytes
    ca_sha256: bytes

    def __str__(self) -> str:
        secret = base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode()
        return f"ew1.{self.device}.{secret}.{self.ca_sha256.hex()}"


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """What the gateway sends."""

    token: str
    device: str
    csr_pem: str


@dataclass(frozen=True, slots=True)
class EnrolAnswer:
    """What the gateway gets."""

    tenant: str
    certificate_pem: str
    ca_pem: str
    verifier_key: bytes
    broker_host: str
    broker_port: int


def parse_token(text: str) -> Token:
    """Read a token; raises WireRefusal("token_malformed"), EW-ID-018."""
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != "ew1" or not is_identifier(parts[1]):
        said = "not ew1.<device>.<secret>.<fingerprint>" if text.strip() else "it is empty"
        raise _malformed(said)
    try:
        secret = base64.b64decode(parts[2] + "=", altchars=b"-_", validate=True)
        fingerprint = bytes.fromhex(parts[3])
    except (ValueError, binascii.Error):
        raise _malformed("secret or fingerprint is not readable") from None
    if len(secret) != SECRET_BYTES or len(fingerprint) != 32:
        raise _malformed("secret or fingerprint has the wrong length")
    token = Token(parts[1], secret, fingerprint)
    # base64 and hex readers take several spellings of the same bytes; a token has one.
    if str(token) != text.strip():
        raise _malformed("not spelt as it was printed")
    return token


def _malformed(text: str) -> WireRefusal:
    refusal = WireRefusal("token_malformed", text)
    refusal.code = "EW-ID-018"
    refusal.next_step = "the token is one line that begins with ew1.; copy it again, whole"
    return refusal


def encode_request(request: EnrolRequest) -> bytes:
    """The body of POST /v1/enroll."""
    return dump(
        {
            "schema": REQUEST_SCHEMA,
            "token": request.token,
            "device": request.device,
            "csr": request.csr_pem,
        }
    )


def parse_request(data: bytes) -> EnrolRequest:
    """Read a request; raises WireRefusal("bad_request")."""
    body = load(data, REQUEST_SCHEMA, {"token", "device", "csr"})
    device = text_of(body, "device")
    if not is_identifier(device):
        raise WireRefusal("bad_request", "device is not a device id")
    return EnrolRequest(text_of(body, "token"), device, text_of(body, "csr"))


def encode_answer(answer: EnrolAnswer) -> bytes:
    """The body of a successful answer."""
    return dump(
        {
            "schema": ANSWER_SCHEMA,
            "tenant": answer.tenant,
            "certificate": answer.certificate_pem,
            "ca": answer.ca_pem,
            "verifier_key": answer.verifier_key.hex(),
            "broker": {"host": answer.broker_host, "port": answer.broker_port},
        }
    )


def parse_answer(data: bytes) -> EnrolAnswer:
    """Read an answer.

    Raises:
        WireRefusal: under the server's own name when it refused, ``bad_request`` when it is
        garbled.
    """
    refusal = _refusal(data)
    if refusal is not None:
        raise refusal
    keys = {"tenant", "certificate", "ca", "verifier_key", "broker"}
    body = load(data, ANSWER_SCHEMA, keys)
    broker = body["broker"]
    if not isinstance(broker, dict) or set(broker) != {"host", "port"}:
        raise WireRefusal("bad_request", "broker is not host and port")
    host, port = broker["host"], broker["port"]
    if not isinstance(host, str) or type(port) is not int or not 0 < port < 65536:
        raise WireRefusal("bad_request", "broker is not host and port")
    try:
        key = bytes.fromhex(text_of(body, "verifier_key"))
    except ValueError:
        raise WireRefusal("bad_request", "verifier_key is not hex") from None
    tenant = text_of(body, "tenant")
    if not is_identifier(tenant):
        raise WireRefusal("bad_request", "tenant is not an identifier")
    return EnrolAnswer(tenant, text_of(body, "certificate"), text_of(body, "ca"), key, host, port)


def encode_refusal(name: str, text: str, next_step: str) -> bytes:
    """The body of a refusal; its text does not begin with the name, which stands beside it."""
    bare = text.removeprefix(f"{name}: ")
    return dump({"schema": REFUSAL_SCHEMA, "error": name, "text": bare, "next": next_step})


def _refusal(data: bytes) -> WireRefusal | None:
    try:
        body = json.loads(data[:MAX_MESSAGE_BYTES])
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("schema") != REFUSAL_SCHEMA:
        return None
    refusal = WireRefusal(_line(body, "error", 40) or "refused", _line(body, "text", 200))
    refusal.next_step = _line(body, "next", 200)
    refusal.code = "EW-ID-002"
    return refusal


def _line(body: dict[str, object], key: str, limit: int) -> str:
    """A peer's text, cut and without what a terminal would obey."""
    return "".join(c for c in str(body.get(key, ""))[:limit] if c.isprintable())
