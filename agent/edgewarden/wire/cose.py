"""The envelope: COSE_Sign1 (RFC 9052 §4.2) with ES256, in exactly one shape.

    18([ protected bstr, {}, payload bstr, signature bstr .size 64 ])
    protected = << {1: -7, 3: content type, 4: kid, ? 33: x5chain} >>

Verify first, parse after: ``open_envelope`` looks at the envelope's own bytes only,
``check_signature`` asks a function that was handed in, and only then may a caller decode the
payload. The content type is signed, so a nonce can never be read as a record. Signing and
verifying are parameters: this module knows no key.

Left to others: which key a kid names and whether it may be trusted (trust/, the fleet's
verifier).

Refusals, in order: ``too_long``, ``truncated``, ``wrong_tag``, ``bad_envelope``,
``trailing_bytes``, those of cbor.py for the protected header, ``unknown_algorithm``,
``bad_header``, ``wrong_type``, ``bad_signature``.

    data = seal(payload, ContentType.RECORD, kid, signer.sign)
    envelope = open_envelope(data, ContentType.RECORD)
    check_signature(envelope, lambda message, signature: key_says_yes)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor, spelling

# RFC 9052 §2 (tag), §3.1 (header labels); RFC 9053 §2.1 (ES256); RFC 9360 §2 (x5chain).
COSE_SIGN1_TAG = 18
ES256 = -7
_ALG, _CONTENT_TYPE, _KID, _X5CHAIN = 1, 3, 4, 33
_LABELS = {_ALG, _CONTENT_TYPE, _KID, _X5CHAIN}
_SIGNATURE_BYTES = 64
# How a Sig_structure begins: an array of four, its context.
_CONTEXT = cbor.encode(["Signature1", 0, 0, 0])[:-3]

MAX_CHAIN = 4
"""Certificates in x5chain: leaf, issuing, one spare for a rollover, one for a customer's own
tier."""
KID_BYTES = 8
"""First bytes of the COSE key thumbprint (RFC 9679); the verifier compares the whole key
afterwards."""

Sign = Callable[[bytes], bytes]
"""message -> 64 bytes r || s."""
Verify = Callable[[bytes, bytes], bool]
"""(message, signature) -> does this key say so."""


class ContentType(StrEnum):
    """What a payload is. Signed with it; a verifier refuses a payload of another type."""

    RECORD = "application/ew-record+cbor"
    MEMORY = "application/ew-memory+cbor"
    EVIDENCE = "application/ew-evidence+cbor"
    NONCE = "application/ew-nonce+cbor"
    RESULT = "application/ew-result+cbor"
    STATUS = "application/ew-status+cbor"
    REFERENCES = "application/ew-references+cbor"
    APPRAISAL = "application/ew-appraisal+cbor"
    RENEWAL = "application/ew-renewal+cbor"
    TIME = "application/ew-time+cbor"
    ACKNOWLEDGEMENT = "application/ew-ack+cbor"


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened, not yet believed envelope.

    Attributes:
        content_type: as claimed under the signature.
        kid: 8 bytes naming the key.
        x5chain: DER certificates, leaf first; empty unless the message introduces its own key.
        payload: still encoded.
        signature: 64 bytes.
        protected: the protected header's exact bytes.
    """

    content_type: ContentType
    kid: bytes
    x5chain: tuple[bytes, ...]
    payload: bytes
    signature: bytes
    protected: bytes

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return _to_be_signed(self.protected, self.payload)


def seal(
    payload: bytes, kind: ContentType, kid: bytes, sign: Sign, x5chain: Sequence[bytes] = ()
) -> bytes:
    """Return the COSE_Sign1 message over payload.

    Args:
        payload: deterministic CBOR.
        kind: what the payload is.
        kid: KID_BYTES of the signing key's thumbprint.
        sign: the signer.
        x5chain: DER certificates, leaf first, when the receiver may not know the key.

    Raises:
        whatever ``sign`` raises.
    """
    header: dict[int | str, cbor.Value] = {_ALG: ES256, _CONTENT_TYPE: str(kind), _KID: kid}
    if x5chain:
        # RFC 9360 §2: one certificate stands alone, several in an array.
        header[_X5CHAIN] = x5chain[0] if len(x5chain) == 1 else list(x5chain)
    protected = cbor.encode(header)
    signature = sign(_to_be_signed(protected, payload))
    # 0xd2 = tag 18. The body alone goes through the encoder: cbor2's tag class differs by version.
    return b"\xd2" + cbor.encode([protected, {}, payload, signature])


def open_envelope(data: bytes, kind: ContentType, max_bytes: int = cbor.MAX_BYTES) -> Envelope:
    """Take the envelope apart without believing it.

    Args:
        data: one whole message.
        kind: the only content type this caller will look at.
        max_bytes: length limit.

    Raises:
        WireRefusal: see the module's docstring.
    """
    if len(data) > max_bytes:
        raise WireRefusal("too_long", f"{len(data)} bytes, limit {max_bytes}")
    if not data:
        raise WireRefusal("truncated", "empty message")
    if data[0] != 0xC0 | COSE_SIGN1_TAG:
        raise WireRefusal("wrong_tag", f"first byte {data[0]:#04x} is not tag 18")
    body = cbor.decode(data[1:], max_bytes, _fits)
    if not isinstance(body, list) or len(body) != 4:
        raise WireRefusal("bad_envelope", "not an array of four")
    protected, unprotected, payload, signature = body
    if not (isinstance(protected, bytes) and isinstance(payload, bytes)):
        raise WireRefusal("bad_envelope", "protected header or payload is not a byte string")
    if unprotected != {}:
        raise WireRefusal("bad_header", "the unprotected header is not empty")
    if not isinstance(signature, bytes) or len(signature) != _SIGNATURE_BYTES:
        raise WireRefusal("bad_envelope", f"signature is not {_SIGNATURE_BYTES} bytes")
    header = cbor.decode(protected, max_bytes)
    if not isinstance(header, dict) or not header.keys() <= _LABELS:
        raise WireRefusal("bad_header", "unknown header label")
    algorithm = header.get(_ALG)
    # -7.0 equals -7 in Python and is another algorithm identifier in COSE.
    if not isinstance(algorithm, int) or algorithm != ES256:
        raise WireRefusal("unknown_algorithm", f"algorithm {algorithm!r} is not ES256")
    kid, content_type = header.get(_KID), header.get(_CONTENT_TYPE)
    if not isinstance(kid, bytes) or len(kid) != KID_BYTES:
        raise WireRefusal("bad_header", f"kid is not {KID_BYTES} bytes")
    if content_type != kind:
        raise WireRefusal("wrong_type", f"{content_type!r} where {kind.value!r} is expected")
    chain = _chain(header[_X5CHAIN]) if _X5CHAIN in header else ()
    return Envelope(kind, kid, chain, payload, signature, protected)


def check_signature(envelope: Envelope, verify: Verify) -> None:
    """Raise WireRefusal("bad_signature") unless verify says the key made this envelope."""
    if not verify(envelope.signed_bytes(), envelope.signature):
        raise WireRefusal("bad_signature", "the signature does not belong to these bytes")


def _fits(body: bytes) -> bool:
    """Protected header and payload of 256 bytes and more: is it in its one spelling?"""
    end = spelling.behind_string(body, 1)
    last = spelling.behind_string(body, end + 1)
    known = body[:1] == b"\x84" and body[end : end + 1] == b"\xa0"
    return known and body[last : last + 2] == b"\x58\x40" and len(body) == last + 66


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """The Sig_structure (RFC 9052 §4.4)."""
    empty = b"\x40"  # external_aad
    return b"".join((_CONTEXT, cbor.spell_bytes(protected), empty, cbor.spell_bytes(payload)))


def _chain(value: object) -> tuple[bytes, ...]:
    if isinstance(value, bytes) and value:
        return (value,)
    if isinstance(value, list) and 2 <= len(value) <= MAX_CHAIN:
        certificates = tuple(c for c in value if isinstance(c, bytes) and c)
        if len(certificates) == len(value):
            return certificates
    raise WireRefusal("bad_header", "x5chain is not one certificate or an array of two to four")


# --- COSE_Key for P-256 (RFC 9053 §7.1) ------------------------------------------------------

_KTY, _CRV, _X, _Y = 1, -1, -2, -3
_EC2, _P256 = 2, 1


_BEFORE_X, _BEFORE_Y, _ = cbor.encode(
    {_KTY: _EC2, _CRV: _P256, _X: bytes(32), _Y: bytes(32)}
).split(bytes(32))
"""There is one spelling of a key, and the coordinates' bytes are all that differs."""


def encode_key(x: bytes, y: bytes) -> bytes:
    """Return the deterministic COSE_Key of a P-256 point (32 bytes each coordinate)."""
    return _BEFORE_X + x + _BEFORE_Y + y


def decode_key(data: bytes) -> tuple[bytes, bytes]:
    """Return (x, y) of a P-256 COSE_Key.

    Raises:
        WireRefusal: ``bad_key`` unless it is exactly the four parameters RFC 9679 hashes.
    """
    x, y = data[len(_BEFORE_X) :][:32], data[-32:]
    if encode_key(x, y) == data:
        return x, y
    key = cbor.decode(data, 256)  # what is wrong with it
    if not isinstance(key, dict) or set(key) != {_KTY, _CRV, _X, _Y}:
        raise WireRefusal("bad_key", "not the four parameters of an EC2 key")
    x, y = key[_X], key[_Y]
    if not (isinstance(x, bytes) and isinstance(y, bytes) and len(x) == len(y) == 32):
        raise WireRefusal("bad_key", "coordinates are not 32 bytes")
    raise WireRefusal("bad_key", "not a P-256 key")
