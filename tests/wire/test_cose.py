"""The envelope: one shape, every bit of it under the signature or fixed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import verifier_for
from edgewarden.wire import cbor, cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import decode_record, encode_record
from tests.wire import samples
from tests.wire.samples import sealed

PAYLOAD = encode_record(samples.record())
VERIFY = verifier_for(samples.REPORT.public_key())
# RFC 6979 appendix A.2.5: the P-256 key's public point, and ECDSA with SHA-256 over "sample".
RFC6979_X = bytes.fromhex("60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6")
RFC6979_Y = bytes.fromhex("7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299")


def believe(data: bytes, kind: ContentType = ContentType.RECORD) -> cose.Envelope:
    envelope = cose.open_envelope(data, kind)
    cose.check_signature(envelope, VERIFY)
    return envelope


def test_what_is_sealed_is_believed() -> None:
    envelope = believe(sealed(PAYLOAD))
    assert envelope.payload == PAYLOAD
    assert envelope.kid == samples.REPORT.kid
    assert envelope.x5chain == ()
    assert decode_record(envelope.payload) == samples.record()


@pytest.mark.parametrize("chain", [(b"leaf",), (b"leaf", b"ca"), (b"a", b"b", b"c", b"d")])
def test_a_chain_comes_back_in_order(chain: tuple[bytes, ...]) -> None:
    assert believe(sealed(PAYLOAD, x5chain=chain)).x5chain == chain


def test_the_layout_is_the_documented_one() -> None:
    data = sealed(b"\xa0", x5chain=(b"leaf",))
    body = cbor.decode(data[1:])
    assert data[0] == 0xD2
    assert isinstance(body, list)
    assert body[1:3] == [{}, b"\xa0"]
    assert cbor.decode(body[0]) == {
        1: -7, 3: "application/ew-record+cbor", 4: samples.REPORT.kid, 33: b"leaf"
    }  # fmt: skip
    assert cbor.decode(believe(data).signed_bytes()) == ["Signature1", body[0], b"", b"\xa0"]


@pytest.mark.parametrize("bit", [0x01, 0x10, 0x80])
def test_every_altered_byte_is_refused(bit: int) -> None:
    good = sealed(PAYLOAD)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= bit
        with pytest.raises(WireRefusal):
            believe(bytes(bad))


def test_every_cut_and_every_extra_byte_is_refused() -> None:
    good = sealed(PAYLOAD)
    for length in range(len(good)):
        with pytest.raises(WireRefusal):
            believe(good[:length])
    for extra in range(256):
        with pytest.raises(WireRefusal):
            believe(good + bytes([extra]))


def test_another_key_is_refused() -> None:
    with pytest.raises(WireRefusal) as caught:
        believe(sealed(PAYLOAD, signer=samples.STRANGER))
    assert caught.value.name == "bad_signature"


def test_a_signature_does_not_carry_over_to_another_type() -> None:
    nonce = sealed(PAYLOAD, ContentType.NONCE)
    with pytest.raises(WireRefusal) as caught:
        believe(nonce)
    assert caught.value.name == "wrong_type"
    body = cbor.decode(nonce[1:])
    assert isinstance(body, list)
    body[0] = samples.header()
    with pytest.raises(WireRefusal) as caught:
        believe(b"\xd2" + cbor.encode(body))
    assert caught.value.name == "bad_signature"


def test_an_altered_payload_is_never_decoded() -> None:
    """Verify first: the payload may be anything, the refusal speaks of the signature."""
    body = cbor.decode(sealed(PAYLOAD)[1:])
    assert isinstance(body, list)
    for payload in (b"", b"\xff", b"\x81" * 100_000, b"\xd8\x23\x61("):
        body[2] = payload
        with pytest.raises(WireRefusal) as caught:
            believe(b"\xd2" + cbor.encode(body))
        assert caught.value.name == "bad_signature"


def test_ten_megabytes_are_refused_unread() -> None:
    class Unread(bytes):
        def __getitem__(self, at: object) -> int:  # type: ignore[override]
            raise AssertionError("a byte was looked at")

    with pytest.raises(WireRefusal) as caught:
        believe(Unread(10 * 1024 * 1024))
    assert caught.value.name == "too_long"


def test_the_limit_is_the_callers() -> None:
    data = sealed(PAYLOAD)
    assert cose.open_envelope(data, ContentType.RECORD, max_bytes=len(data)).payload == PAYLOAD
    with pytest.raises(WireRefusal) as caught:
        cose.open_envelope(data, ContentType.RECORD, max_bytes=len(data) - 1)
    assert caught.value.name == "too_long"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(list(ContentType)))
def test_garbage_is_refused(data: bytes, kind: ContentType) -> None:
    with pytest.raises(WireRefusal):
        cose.open_envelope(data, kind)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_garbage_in_a_good_frame_is_refused(data: st.DataObject) -> None:
    anything = st.binary(max_size=80) | st.integers() | st.text(max_size=8) | st.none()
    parts = data.draw(st.lists(anything.filter(lambda v: not isinstance(v, int) or abs(v) < 2**60),
                               min_size=3, max_size=5))  # fmt: skip
    with pytest.raises(WireRefusal):
        believe(b"\xd2" + cbor.encode([samples.header(), {}, *parts[2:], bytes(64)]))


def test_key_round_trip() -> None:
    key = cose.encode_key(RFC6979_X, RFC6979_Y)
    assert key.hex() == "a40102200121582" + "0" + RFC6979_X.hex() + "225820" + RFC6979_Y.hex()
    assert cose.decode_key(key) == (RFC6979_X, RFC6979_Y)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=90))
def test_garbage_is_no_key(data: bytes) -> None:
    with pytest.raises(WireRefusal):
        cose.decode_key(data)
