"""The file of a key in a TPM: PEM "TSS2 PRIVATE KEY", as tpm2-openssl and tpm2-tools read it.

    TPMKey ::= SEQUENCE {
        type       OBJECT IDENTIFIER 2.23.133.10.1.3,   a loadable key
        emptyAuth  [0] EXPLICIT BOOLEAN,                no password: the device file guards it
        parent     INTEGER,                             0x40000001, the owner hierarchy
        pubkey     OCTET STRING,                        TPM2B_PUBLIC
        privkey    OCTET STRING }                       TPM2B_PRIVATE, wrapped by its TPM

(draft-woodhouse-cert-best-practice, "ASN.1 Specification for TPM 2.0 Key Files".) Read strictly:
exactly what is written here; a key with a password, a policy or another parent is not one of ours.

    read(write(public, private)) == (public, private)
"""

from __future__ import annotations

import base64
import binascii

from edgewarden.errors import TrustFault

BEGIN, END = "-----BEGIN TSS2 PRIVATE KEY-----", "-----END TSS2 PRIVATE KEY-----"
_OWNER = 0x40000001  # TPM_RH_OWNER
_HEAD = bytes.fromhex("0606 6781050a0103 a003 0101ff 0204 40000001".replace(" ", ""))
"""Type, emptyAuth and parent: the same in each of our keys."""
_SEQUENCE, _OCTETS = 0x30, 0x04
_MAX_BYTES = 2048
"""A P-256 key's file is about 350 bytes."""
_LINE = 64


def is_tss(pem: bytes) -> bool:
    """Whether a key file is of this kind."""
    return pem.lstrip().startswith(BEGIN.encode())


def write(public: bytes, private: bytes) -> bytes:
    """The file of a key from its TPM2B_PUBLIC and TPM2B_PRIVATE."""
    body = _tlv(_SEQUENCE, _HEAD + _tlv(_OCTETS, public) + _tlv(_OCTETS, private))
    text = base64.b64encode(body).decode()
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([BEGIN, *lines, END, ""]).encode()


def read(pem: bytes) -> tuple[bytes, bytes]:
    """TPM2B_PUBLIC and TPM2B_PRIVATE of a key file.

    Raises:
        TrustFault: EW-ID-003 unless it is what write() writes.
    """
    text = pem.decode("ascii", "replace").strip()
    if len(pem) > _MAX_BYTES or not (text.startswith(BEGIN) and text.endswith(END)):
        raise _damaged("it is no TSS2 PRIVATE KEY")
    try:
        der = base64.b64decode("".join(text[len(BEGIN) : -len(END)].split()), validate=True)
    except (ValueError, binascii.Error):
        raise _damaged("it is garbled") from None
    body, rest = _take(_SEQUENCE, der)
    if rest or not body.startswith(_HEAD):
        raise _damaged("its key has a password, a policy or a parent that ours have not")
    public, body = _take(_OCTETS, body[len(_HEAD) :])
    private, rest = _take(_OCTETS, body)
    if rest:
        raise _damaged("bytes follow the key")
    return public, private


def public_area(public: bytes) -> bytes:
    """The TPMT_PUBLIC inside a TPM2B_PUBLIC; raises TrustFault when its size is not so."""
    if int.from_bytes(public[:2], "big") != len(public) - 2:
        raise _damaged("its public part is cut")
    return public[2:]


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    if 0x80 <= size < 0x100:  # DER: the shortest form
        length = b"\x81" + bytes([size])
    return bytes([tag]) + length + value


def _take(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """(value, what follows) of one element in the one form DER has for it."""
    if len(data) < 2:
        raise _damaged("it is not the structure of a key")
    head = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    size = int.from_bytes(data[2:head], "big") if data[1] & 0x80 else data[1]
    value = data[head : head + size]
    if _tlv(tag, value) != data[: head + size]:
        raise _damaged("it is cut, or not DER")
    return value, data[head + size :]


def _damaged(why: str) -> TrustFault:
    return TrustFault(
        f"the identity key cannot be read: {why}",
        code="EW-ID-003",
        next_step="restore state/identity from a backup of this very device, or enrol again",
    )
