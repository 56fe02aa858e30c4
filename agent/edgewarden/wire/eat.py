"""A device's own evidence: an EAT (RFC 9711) in COSE_Sign1 with ES256, as other people's programs
make them; a PSA attestation token (RFC 9783) is one.

Read more freely than our own messages, as far as nothing hangs on it: the protected header must
hold the algorithm and may hold more, the unprotected one may name a key, claims that are not known
here are passed over. What stays strict: deterministic CBOR, one algorithm, no critical header, a
nonce of 32 bytes.

    18([ << {1: -7, * label => any} >>, {? 4: kid}, << claims >>, signature .size 64 ])
    claims = {10: nonce .size 32, ? 2399: [+ {2: measurement, * => any}], * => any}

Refusals: ``eat_too_long``, ``bad_eat``. Whose key it is and what it is worth: appraise/devices.py.
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.devices import MAX_DEVICE_EVIDENCE_BYTES

_TAG_18 = 0xD2  # RFC 9052 §4.2
_ALG, _CRIT, _KID = 1, 2, 4  # RFC 9052 §3.1
_ES256 = -7
_NONCE = 10  # RFC 9711 §4.1
_COMPONENTS, _VALUE = 2399, 2  # RFC 9783 §4.4.1: psa-software-components, measurement value
NONCE_BYTES = 32
_SIGNATURE_BYTES = 64
_DIGEST_BYTES = (32, 48, 64)  # SHA-256, SHA-384, SHA-512
MAX_MEASUREMENTS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """Opened, not yet believed.

    Attributes:
        measurements: of its software components, in its order.
        signed: what the signature is over.
    """

    nonce: bytes
    measurements: tuple[bytes, ...]
    signed: bytes
    signature: bytes


def open_token(data: bytes) -> Token:
    """Take a device's evidence apart; raises WireRefusal (see the module)."""
    if len(data) > MAX_DEVICE_EVIDENCE_BYTES:
        raise WireRefusal("eat_too_long", f"{len(data)} bytes, at most {MAX_DEVICE_EVIDENCE_BYTES}")
    if data[:1] != bytes([_TAG_18]):
        raise WireRefusal("bad_eat", "it does not begin with tag 18 (COSE_Sign1)")
    body = _decoded(data[1:])
    if not isinstance(body, list) or len(body) != 4:
        raise WireRefusal("bad_eat", "not an array of four")
    protected, unprotected, payload, signature = body
    if not isinstance(protected, bytes) or not isinstance(payload, bytes):
        raise WireRefusal("bad_eat", "protected header or payload is no byte string")
    if not isinstance(signature, bytes) or len(signature) != _SIGNATURE_BYTES:
        raise WireRefusal("bad_eat", f"the signature is not {_SIGNATURE_BYTES} bytes")
    if not isinstance(unprotected, dict) or set(unprotected) - {_KID}:
        raise WireRefusal("bad_eat", "the unprotected header holds more than a key's name")
    header = _decoded(protected)
    if not isinstance(header, dict) or _CRIT in header:
        raise WireRefusal("bad_eat", "the protected header is no map, or has critical labels")
    if type(header.get(_ALG)) is not int or header[_ALG] != _ES256:
        raise WireRefusal("bad_eat", "the algorithm is not ES256")
    claims = _decoded(payload)
    if not isinstance(claims, dict):
        raise WireRefusal("bad_eat", "the claims are no map")
    nonce = claims.get(_NONCE)
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise WireRefusal("bad_eat", f"claim {_NONCE} is no nonce of {NONCE_BYTES} bytes")
    signed = cbor.encode(["Signature1", protected, b"", payload])
    return Token(nonce, _measurements(claims), signed, signature)


def _measurements(claims: dict[object, object]) -> tuple[bytes, ...]:
    components = claims.get(_COMPONENTS, [])
    if not isinstance(components, list) or len(components) > MAX_MEASUREMENTS:
        raise WireRefusal("bad_eat", f"claim {_COMPONENTS} is no list, or has too many")
    found = []
    for component in components:
        value = component.get(_VALUE) if isinstance(component, dict) else None
        if not isinstance(value, bytes) or len(value) not in _DIGEST_BYTES:
            raise WireRefusal("bad_eat", "a software component has no measurement")
        found.append(value)
    return tuple(found)


def _decoded(data: bytes) -> object:
    try:
        return cbor.decode(data, MAX_DEVICE_EVIDENCE_BYTES)
    except WireRefusal as refusal:
        raise WireRefusal("bad_eat", str(refusal)) from None
