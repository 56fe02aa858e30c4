"""Enrolment with a TPM: what is shown, the challenge that only this TPM opens, and its answer.

    POST /v1/enroll
        request  edgewarden.enroll/2 (enrol.py) with ``tpm``: {"ek_public", "ek_certificate" or
                 null, "ak_public", "tls_public"}: TPMT_PUBLIC, and X.509 DER
        answer   {"schema": "edgewarden.challenge/1", "session", "credential", "secret"}:
                 TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET for TPM2_ActivateCredential
    POST /v1/enroll/activate
        request  {"schema": "edgewarden.activate/1", "session", "secret", "certify",
                 "certify_signature"}: what the credential held; TPMS_ATTEST and TPMT_SIGNATURE by
                 the AK over the TLS key, its qualifying data ``qualifying(secret)``
        answer   edgewarden.enrolled/1, as without a TPM

Bytes stand in hex. Shapes only: who believes what is the service's (edgewarden_fleet/desk/binding).
Refusal: ``bad_request``.
"""

from __future__ import annotations

import hashlib

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.bodies import dump, load, schema_of, text_of

CHALLENGE_SCHEMA = "edgewarden.challenge/1"
ACTIVATE_SCHEMA = "edgewarden.activate/1"
SESSION_BYTES = 32
_MAX_CERTIFICATE_BYTES = 4096
"""An EK's certificate is 1 to 2 kB; NV areas hold little more."""
_MAX_BLOB_BYTES = 1024


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """What a TPM shows of itself.

    Attributes:
        ek_public, ak_public, tls_public: TPMT_PUBLIC.
        ek_certificate: DER as it lay in NV, perhaps padded; b"" when the maker left none.
    """

    ek_public: bytes
    ek_certificate: bytes
    ak_public: bytes
    tls_public: bytes


@dataclass(frozen=True, slots=True)
class CredentialChallenge:
    """A secret that only the TPM of that EK gets out, and only for that AK."""

    session: bytes
    credential: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Activation:
    """The secret, and the AK's word that the TLS key is in its TPM."""

    session: bytes
    secret: bytes
    certify: bytes
    certify_signature: bytes


def qualifying(secret: bytes) -> bytes:
    """What the certification at enrolment must carry: it was made after the secret was opened."""
    return hashlib.sha256(b"edgewarden-enrol-1\0" + secret).digest()


def tpm_body(keys: TpmKeys) -> dict[str, object]:
    """The member ``tpm`` of a request."""
    return {
        "ek_public": keys.ek_public.hex(),
        "ek_certificate": keys.ek_certificate.hex() or None,
        "ak_public": keys.ak_public.hex(),
        "tls_public": keys.tls_public.hex(),
    }


def parse_tpm(value: object) -> TpmKeys | None:
    """Read the member ``tpm`` of a request; raises WireRefusal("bad_request")."""
    if value is None:
        return None
    names = {"ek_public", "ek_certificate", "ak_public", "tls_public"}
    if not isinstance(value, dict) or set(value) != names:
        raise WireRefusal("bad_request", "tpm is not exactly its fields")
    certificate = b""
    if value["ek_certificate"] is not None:
        certificate = _blob(value, "ek_certificate", _MAX_CERTIFICATE_BYTES)
    return TpmKeys(
        _blob(value, "ek_public"),
        certificate,
        _blob(value, "ak_public"),
        _blob(value, "tls_public"),
    )


def encode_challenge(c: CredentialChallenge) -> bytes:
    """The answer to a request with a TPM."""
    return dump(
        {
            "schema": CHALLENGE_SCHEMA,
            "session": c.session.hex(),
            "credential": c.credential.hex(),
            "secret": c.secret.hex(),
        }
    )


def is_challenge(data: bytes) -> bool:
    """Whether an answer of the service is a challenge."""
    return schema_of(data) == CHALLENGE_SCHEMA


def parse_challenge(data: bytes) -> CredentialChallenge:
    """Read a challenge; raises WireRefusal."""
    body = load(data, CHALLENGE_SCHEMA, {"session", "credential", "secret"})
    return CredentialChallenge(_session(body), _blob(body, "credential"), _blob(body, "secret"))


def encode_activation(a: Activation) -> bytes:
    """The body of POST /v1/enroll/activate."""
    return dump(
        {
            "schema": ACTIVATE_SCHEMA,
            "session": a.session.hex(),
            "secret": a.secret.hex(),
            "certify": a.certify.hex(),
            "certify_signature": a.certify_signature.hex(),
        }
    )


def parse_activation(data: bytes) -> Activation:
    """Read an activation; raises WireRefusal."""
    body = load(data, ACTIVATE_SCHEMA, {"session", "secret", "certify", "certify_signature"})
    return Activation(
        _session(body), _blob(body, "secret"), _blob(body, "certify"),
        _blob(body, "certify_signature"),
    )  # fmt: skip


def _session(body: dict[str, object]) -> bytes:
    session = _blob(body, "session")
    if len(session) != SESSION_BYTES:
        raise WireRefusal("bad_request", "session is of the wrong length")
    return session


def _blob(body: dict[str, object], key: str, limit: int = _MAX_BLOB_BYTES) -> bytes:
    text = text_of(body, key)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise WireRefusal("bad_request", f"{key} is not hex") from None
    # fromhex passes over blanks and takes capitals; a value has one spelling.
    if value.hex() != text or not 0 < len(value) <= limit:
        raise WireRefusal("bad_request", f"{key} is not 1 to {limit} bytes in hex")
    return value
