"""Enrolment: the token a person carries, and the two messages around one signing request.

Token, one line of text: ``ew1.<device>.<secret>.<fingerprint>`` with 32 random bytes in unpadded
base64url and the SHA-256 of the root certificate's DER in hex. The fleet keeps only the secret's
hash.

    POST /v1/enroll
        request  {"schema": "edgewarden.enroll/1", "token": ..., "device": ..., "csr": PEM}
                 {"schema": "edgewarden.enroll/2", the same and "grade", "recorded", "accept_lower",
                  "tpm"}
        answer   {"schema": "edgewarden.enrolled/1", "tenant": ..., "certificate": PEM chain,
                  "ca": PEM, "verifier_key": hex COSE_Key, "broker": {"host": ..., "port": ...}}
                 with a TPM: a challenge first (enrol_tpm.py)
        refusal  {"schema": "edgewarden.refusal/1", "error": NAME, "text": ..., "next": ...}
    GET /v1/ca
        the root certificate, PEM: fetched before anything is trusted, held to the fingerprint

Refusal names (both sides print them): token_malformed, token_unknown, token_used, token_expired,
token_foreign_device, token_foreign_ca, csr_invalid, device_exists, rate_limited; from /2 on also
grade_lowered, ek_untrusted, tpm_keys, activation_expired, activation_failed, lineage_conflict.

/1 is sent, and taken, for a key in a file (G0) with nothing to tell: a gateway may be newer than
its fleet.
"""

from __future__ import annotations

import base64
import binascii
import json

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.bodies import MAX_MESSAGE_BYTES, dump, load, schema_of, text_of
from edgewarden.wire.enrol_tpm import TpmKeys, parse_tpm, tpm_body
from edgewarden.wire.fields import GRADES
from edgewarden.wire.record import is_identifier

SECRET_BYTES = 32
REQUEST_SCHEMA = "edgewarden.enroll/1"
GRADED_SCHEMA = "edgewarden.enroll/2"
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
    """What the gateway sends.

    Attributes:
        grade: where its key is kept.
        recorded: the grade of the key it was enrolled with before, "" for none.
        accept_lower: a person has said that this lower grade is meant.
        tpm: what its TPM shows; with grade G2, and only then.
    """

    token: str
    device: str
    csr_pem: str
    grade: str = "G0"
    recorded: str = ""
    accept_lower: bool = False
    tpm: TpmKeys | None = None

    @property
    def plain(self) -> bool:
        """Whether /1 says all of it."""
        return self.grade == "G0" and self.recorded in ("", "G0") and self.tpm is None


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
    body: dict[str, object] = {
        "schema": REQUEST_SCHEMA,
        "token": request.token,
        "device": request.device,
        "csr": request.csr_pem,
    }
    if not request.plain:
        body |= {
            "schema": GRADED_SCHEMA,
            "grade": request.grade,
            "recorded": request.recorded or None,
            "accept_lower": request.accept_lower,
            "tpm": None if request.tpm is None else tpm_body(request.tpm),
        }
    return dump(body)


def parse_request(data: bytes) -> EnrolRequest:
    """Read a request of either kind; raises WireRefusal("bad_request")."""
    keys = {"token", "device", "csr"}
    graded = schema_of(data) == GRADED_SCHEMA
    if graded:
        body = load(data, GRADED_SCHEMA, keys | {"grade", "recorded", "accept_lower", "tpm"})
    else:
        body = load(data, REQUEST_SCHEMA, keys)
    device = text_of(body, "device")
    if not is_identifier(device):
        raise WireRefusal("bad_request", "device is not a device id")
    told = (text_of(body, "token"), device, text_of(body, "csr"))
    if not graded:
        return EnrolRequest(*told)
    grade, accept = body["grade"], body["accept_lower"]
    recorded = body["recorded"]
    if grade not in GRADES[:-1] or recorded not in (None, *GRADES):
        raise WireRefusal("bad_request", "grade or recorded is not a grade")
    if not isinstance(accept, bool):
        raise WireRefusal("bad_request", "accept_lower is not true or false")
    tpm = parse_tpm(body["tpm"])
    if (tpm is None) == (grade == "G2"):
        raise WireRefusal("bad_request", "G2 comes with what its TPM shows, nothing else does")
    return EnrolRequest(*told, str(grade), str(recorded or ""), accept, tpm)


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
    unless_refused(data)
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


def unless_refused(data: bytes) -> bytes:
    """An answer as it came, unless it is a refusal: that is raised under the server's own name."""
    refusal = _refusal(data)
    if refusal is not None:
        raise refusal
    return data


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
