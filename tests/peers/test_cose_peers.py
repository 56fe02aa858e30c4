"""Other people's COSE libraries believe what we sign, refuse what was altered, and spell the same.

Runs in .venv-peers (requirements/peers.in): cwt holds cbor2 below 6, which the ceiling is above.
"""

from __future__ import annotations

import cbor2
import pytest
from cwt import COSE, COSEKey
from pycose.algorithms import Es256
from pycose.headers import KID, Algorithm, ContentType
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage, Sign1Message

from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cbor, cose

PAYLOAD = cbor.encode({0: 1, 1: "gw-demo", 4: 7, 8: {"readings": [[0.5, None, True]]}})


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner.generate()


@pytest.fixture(scope="module")
def sealed(signer: FileSigner) -> bytes:
    return cose.seal(PAYLOAD, cose.ContentType.RECORD, signer.kid, signer.sign)


def pycose_key(signer: FileSigner) -> EC2Key:
    x, y = cose.decode_key(signer.public_key())
    return EC2Key(crv=P256, x=x, y=y)


def cwt_key(signer: FileSigner) -> COSEKey:
    x, y = cose.decode_key(signer.public_key())
    return COSEKey.new({1: 2, 2: signer.kid, 3: cose.ES256, -1: 1, -2: x, -3: y})


def altered(data: bytes) -> list[bytes]:
    """The message with one bit flipped in its payload and in its signature."""
    at = data.index(PAYLOAD)
    payload = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    return [payload, data[:-1] + bytes([data[-1] ^ 1])]


def test_pycose_believes_ours_and_refuses_altered(signer: FileSigner, sealed: bytes) -> None:
    message = CoseMessage.decode(sealed)
    message.key = pycose_key(signer)
    assert isinstance(message, Sign1Message)
    assert message.verify_signature()
    assert message.payload == PAYLOAD
    assert message.phdr[KID] == signer.kid
    assert message.uhdr == {}
    for data in altered(sealed):
        forged = CoseMessage.decode(data)
        forged.key = pycose_key(signer)
        assert not forged.verify_signature()


def test_cwt_believes_ours_and_refuses_altered(signer: FileSigner, sealed: bytes) -> None:
    peer, key = COSE.new(), cwt_key(signer)
    assert peer.decode(sealed, key) == PAYLOAD
    for data in altered(sealed):
        with pytest.raises(Exception, match="Failed to verify"):
            peer.decode(data, key)


def test_we_believe_what_pycose_signs_in_our_shape(signer: FileSigner) -> None:
    """Same headers, other encoder: our scanner accepts it and the signature holds both ways."""
    numbers = signer.private_key().private_numbers()
    x, y = cose.decode_key(signer.public_key())
    key = EC2Key(crv=P256, x=x, y=y, d=numbers.private_value.to_bytes(32, "big"))
    headers = {Algorithm: Es256, ContentType: str(cose.ContentType.RECORD), KID: signer.kid}
    # pycose signs deterministically (RFC 6979) and without our low-s rule: every other payload.
    for number in range(64):
        payload = cbor.encode({0: number})
        data = Sign1Message(phdr=headers, payload=payload, key=key).encode()
        envelope = cose.open_envelope(data, cose.ContentType.RECORD)
        assert envelope.payload == payload
        if verifier_for(signer.public_key())(envelope.signed_bytes(), envelope.signature):
            return
    pytest.fail("64 signatures and none with s in the lower half")


def test_our_bytes_are_cbor2s_canonical_bytes(sealed: bytes) -> None:
    assert cbor2.dumps(cbor2.loads(PAYLOAD), canonical=True) == PAYLOAD
    tag = cbor2.loads(sealed)
    assert tag.tag == cose.COSE_SIGN1_TAG
    assert cbor2.dumps(tag, canonical=True) == sealed
