"""The payload of e/evidence: claims, and beside them what a TPM says of them.

    [ claims: bstr, tpm: null / [quote, signature, pcrs or null, keys or null] ]
    pcrs = {0: value, ... 10: value}        keys = [ak_public, tls_public, certify, signature]

The quote's qualifying data is ``qualifying(nonce, claims)``: it binds the nonce and every single
byte of the claims, so neither a stolen report key nor a stolen identity key rewrites what a TPM
vouched for. Below grade G2 ``tpm`` is null.

Two forms of the same evidence (docs/attestation.md has the sizes): whole, with PCR values and keys;
and digest form, where the verifier holds both already. A gateway sends the whole at its first
evidence of a start, whenever PCR values moved, and when a challenge asks for it.

Shapes only: TPM structures stay bytes here (wire/tpm.py reads, appraise/quotes.py judges them).
Refusal: ``bad_evidence``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor, spelling
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES
from edgewarden.wire.tpm_quote import MAX_STRUCT_BYTES, QUOTE_PCRS, TpmQuote

_DOMAIN = b"edgewarden-ev-1\0"
_UNASKED_DOMAIN = b"edgewarden-unasked-1\0"
_PCR_BYTES = 32


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """What stays the same during a boot: both public areas, and the TLS key's certification."""

    ak_public: bytes
    tls_public: bytes
    certify: bytes
    certify_signature: bytes


@dataclass(frozen=True, slots=True)
class Quoted:
    """The TPM's part; pcrs and keys are None in digest form."""

    quote: bytes
    quote_signature: bytes
    pcrs: Mapping[int, bytes] | None
    keys: TpmKeys | None


def qualifying(nonce: bytes, claims: bytes) -> bytes:
    """What the quote must carry as qualifying data for these claims."""
    return hashlib.sha256(_DOMAIN + nonce + hashlib.sha256(claims).digest()).digest()


def unasked_nonce(head: bytes) -> bytes:
    """The nonce of evidence that nobody asked for: made from the audit chain's last record, so it
    was signed after that one; the record that carries it says before which."""
    return hashlib.sha256(_UNASKED_DOMAIN + head).digest()


def whole(q: TpmQuote) -> Quoted:
    """Everything a TPM gave."""
    keys = TpmKeys(q.ak_public, q.tls_public, q.certify, q.certify_signature)
    return Quoted(q.quote, q.quote_signature, q.pcrs, keys)


def shortened(q: Quoted, sent: Quoted) -> Quoted:
    """q without what ``sent`` has told already."""
    return replace(
        q,
        pcrs=None if q.pcrs == sent.pcrs else q.pcrs,
        keys=None if q.keys == sent.keys else q.keys,
    )


def encode_payload(claims: bytes, tpm: Quoted | None) -> bytes:
    """Payload of e/evidence around encoded claims."""
    if tpm is None:
        return cbor.encode([claims, None])
    k = tpm.keys
    keys = None if k is None else [k.ak_public, k.tls_public, k.certify, k.certify_signature]
    pcrs = None if tpm.pcrs is None else dict(tpm.pcrs)
    return cbor.encode([claims, [tpm.quote, tpm.quote_signature, pcrs, keys]])


def decode_payload(payload: bytes) -> tuple[bytes, Quoted | None]:
    """Take a verified e/evidence payload apart; raises WireRefusal("bad_evidence")."""
    body = cbor.decode(payload, MAX_EVIDENCE_BYTES, _fits)
    if not isinstance(body, list) or len(body) != 2:
        raise WireRefusal("bad_evidence", "not claims and a TPM's word")
    claims, tpm = body
    if not isinstance(claims, bytes):
        raise WireRefusal("bad_evidence", "claims are not a byte string")
    if tpm is None:
        return claims, None
    parts = _four(tpm)
    quote, signature = _structures(parts[:2])
    pcrs, keys = parts[2:]
    shown = None if keys is None else TpmKeys(*_structures(_four(keys)))
    return claims, Quoted(quote, signature, _pcrs(pcrs), shown)


def _fits(payload: bytes) -> bool:
    """Claims, and a TPM's word with P-256 keys or none: is it in its one spelling?"""
    end = spelling.behind_string(payload, 1)
    return payload[:1] == b"\x82" and _usual().fits(payload, end)


@cache
def _usual() -> spelling.Shape:
    """What stands behind the claims."""
    blob, array, either = spelling.blob, spelling.array, spelling.either
    quote, signature, public = blob(145), blob(72), blob(88)
    pcrs = spelling.every_of(dict.fromkeys(sorted(QUOTE_PCRS), blob(_PCR_BYTES)))
    certified = either(blob(141), blob(145))  # without qualifying data and with four bytes of it
    keys = array(public, public, certified, signature)
    null = spelling.NULL
    word = array(quote, signature, either(null, pcrs), either(null, keys))
    return spelling.Shape(either(null, word))


def _four(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) != 4:
        raise WireRefusal("bad_evidence", "a TPM's part is not an array of four")
    return value


def _structures(values: list[object]) -> list[bytes]:
    found: list[bytes] = []
    for value in values:
        if not isinstance(value, bytes) or len(value) > MAX_STRUCT_BYTES:
            raise WireRefusal("bad_evidence", "a TPM structure is not a byte string of its size")
        found.append(value)
    return found


def _pcrs(value: object) -> dict[int, bytes] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != QUOTE_PCRS:
        raise WireRefusal("bad_evidence", "PCR values are not those of PCR 0 to 10")
    for pcr in value.values():
        if not isinstance(pcr, bytes) or len(pcr) != _PCR_BYTES:
            raise WireRefusal("bad_evidence", "a PCR value is not 32 bytes")
    return value
