"""keylime's checkquote, which others use, accepts what we accept and refuses what we refuse.

Quotes of a TPM through tpm2-tools (tests/vectors/tpm), and those that stand inside our evidence.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from keylime.tpm.tpm_util import checkquote

from edgewarden.wire import tpm
from edgewarden.wire.evidence import encode_evidence
from edgewarden.wire.quoted import decode_payload, encode_payload, qualifying, whole
from tests.fakes.tpm import ALL, SoftTpm, signed
from tests.wire import samples
from tests.wire.tpm_vectors import QUOTE

SELECTED = struct.pack("<HB3s2x", tpm.Alg.SHA256, 3, ALL.to_bytes(3, "little"))


def pem(public: bytes) -> bytes:
    point = tpm.parse_public(public).point
    assert point is not None
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + b"".join(point))
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def pcr_file(pcrs: Mapping[int, bytes]) -> bytes:
    """As tpm2-tools write it: TPML_PCR_SELECTION and TPML_DIGESTs of eight, out of memory."""
    values = [pcrs[n] for n in sorted(pcrs)]
    data = struct.pack("<I", 1) + SELECTED + bytes(15 * 8)
    lists = [values[i : i + 8] for i in range(0, len(values), 8)]
    data += struct.pack("<I", len(lists))
    for part in lists:
        data += struct.pack("<I", len(part))
        data += b"".join(struct.pack("<H64s", len(v), v) for v in part)
        data += bytes(66 * (8 - len(part)))
    return data


def accepted(
    ak: bytes, nonce: bytes, signature: bytes, quote: bytes, pcrs: Mapping[int, bytes]
) -> bool:
    try:
        checkquote(
            pem(ak), base64.b64encode(nonce).decode(), signature, quote, pcr_file(pcrs), "sha256"
        )
    except Exception:  # keylime raises plain Exception for most
        return False
    return True


def test_a_recorded_quote() -> None:
    nonce = hashlib.sha256(b"qualifying").digest()
    good = (QUOTE.ak_public, nonce, QUOTE.quote_signature, QUOTE.quote, QUOTE.pcrs)
    assert accepted(*good)
    assert not accepted(good[0], bytes(32), *good[2:])
    assert not accepted(*good[:4], {**QUOTE.pcrs, 3: b"x" * 32})
    other = SoftTpm(ec.generate_private_key(ec.SECP256R1()))
    assert not accepted(other.ak_public, *good[1:])


@pytest.fixture(scope="module")
def soft() -> SoftTpm:
    return SoftTpm(ec.generate_private_key(ec.SECP256R1()))


def test_the_quote_inside_evidence(soft: SoftTpm) -> None:
    claims = encode_evidence(samples.EVIDENCE)
    nonce = qualifying(samples.NONCE, claims)
    payload = encode_payload(claims, whole(soft.quote(nonce)))
    again, word = decode_payload(payload)
    assert word is not None
    assert word.keys is not None
    assert word.pcrs is not None
    told = (word.quote_signature, word.quote, word.pcrs)
    assert accepted(word.keys.ak_public, qualifying(samples.NONCE, again), *told)
    assert not accepted(word.keys.ak_public, qualifying(samples.NONCE, again + b"\0"), *told)
    forged = signed(ec.generate_private_key(ec.SECP256R1()), word.quote)
    assert not accepted(word.keys.ak_public, nonce, forged, word.quote, word.pcrs)
