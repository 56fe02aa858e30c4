"""The file of a key in a TPM: what is written is read, and nothing else is."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import TrustFault
from edgewarden.trust import tsskey

PUBLIC, PRIVATE = b"\x00\x56" + bytes(86), b"\x00\x7e" + bytes(126)
FILE = tsskey.write(PUBLIC, PRIVATE)


def again(der: bytes) -> bytes:
    """A key file around other bytes."""
    text = base64.b64encode(der).decode()
    return f"{tsskey.BEGIN}\n{text}\n{tsskey.END}\n".encode()


def der() -> bytes:
    return base64.b64decode(b"".join(FILE.split(b"\n")[1:-2]))


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_what_is_written_is_read(public: bytes, private: bytes) -> None:
    assert tsskey.read(tsskey.write(public, private)) == (public, private)


def test_the_structure_is_the_drafts() -> None:
    """By hand from the draft: SEQUENCE, OID 2.23.133.10.1.3, [0] TRUE, parent, two strings."""
    head = "06066781050a0103a0030101ff020440000001"
    body = bytes.fromhex(head + "0458") + PUBLIC + bytes.fromhex("048180") + PRIVATE
    assert der() == bytes.fromhex("3081") + bytes([len(body)]) + body
    assert tsskey.is_tss(FILE)
    assert max(map(len, FILE.split(b"\n"))) <= 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        FILE[:-40],
        FILE.replace(b"\n", b"\n?", 2),
        again(der() + b"\0"),
        again(der()[:-1]),
        again(der().replace(b"\x01\x01\xff", b"\x01\x01\x00")),  # a password
        again(der().replace(b"\x40\x00\x00\x01", b"\x81\x00\x00\x01")),  # a persistent parent
        again(b"\x30\x80" + der()[3:] + b"\0\0"),  # BER
        again(b"\x30\x81" + bytes([der()[2] + 2]) + der()[3:] + b"\x04\x00"),  # one string more
        again(der().replace(b"\x04\x58", b"\x05\x58")),  # another element
        tsskey.write(bytes(2000), bytes(2000)),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(TrustFault) as caught:
        tsskey.read(data)
    assert caught.value.code == "EW-ID-003"


@given(st.integers(min_value=0, max_value=len(FILE) * 8 - 1))
def test_no_flipped_bit_ends_in_anything_but_a_refusal(bit: int) -> None:
    data = bytearray(FILE)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(TrustFault):
        tsskey.read(bytes(data))


def test_a_cut_public_part_is_refused() -> None:
    assert tsskey.public_area(PUBLIC) == PUBLIC[2:]
    for cut in (b"", b"\0", PUBLIC[:-1], PUBLIC + b"\0"):
        with pytest.raises(TrustFault):
            tsskey.public_area(cut)
