"""What tpm.py writes and reads as bytes: key templates, lists, sized buffers (TPM 2.0, Part 2).

Leaves every call to tpm.py and knows no library. ``STORAGE``, ``TLS``, ``AK`` and ``EK`` are
TPMT_PUBLIC as a TPM takes them.

    unsized(sized(b"abc")) == b"abc"
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

# TPM_ALG_ID, §6.3; TPM_ECC_CURVE, §6.4; TPMT_SYM_DEF_OBJECT, §11.1.7.
ECC, RSA, SHA256, NULL = 0x0023, 0x0001, 0x000B, 0x0010
NONE = struct.pack(">H", NULL)
ECDSA_SHA256 = struct.pack(">HH", 0x0018, SHA256)
_AES_128_CFB = struct.pack(">HHH", 0x0006, 128, 0x0043)
_P256 = struct.pack(">H", 0x0003)
# TCG EK Credential Profile 2.0, B.3: PolicySecret(endorsement).
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
# TPMA_OBJECT, §8.3: fixedTPM, fixedParent, sensitiveDataOrigin; then what each key may do.
_FIXED, _USER, _ADMIN, _NO_DA = 0x32, 0x40, 0x80, 0x400
_RESTRICTED, _DECRYPT, _SIGN = 0x10000, 0x20000, 0x40000
_AK_LABEL = b"edgewarden attestation key 1".ljust(32, b"\0")


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def unsized(data: bytes) -> bytes:
    """What a TPM2B holds."""
    (size,) = struct.unpack_from(">H", data)
    return data[2 : 2 + size]


def sha256_bank(pcrs: Iterable[int]) -> bytes:
    """A TPML_PCR_SELECTION of PCRs below 24 in the SHA-256 bank."""
    bits = sum(1 << number for number in pcrs)
    return struct.pack(">IHB", 1, SHA256, 3) + bits.to_bytes(3, "little")


def digests(data: bytes) -> list[bytes]:
    """Take a TPML_DIGEST apart."""
    (count,) = struct.unpack_from(">I", data)
    at, found = 4, []
    for _ in range(count):
        value = unsized(data[at:])
        found.append(value)
        at += 2 + len(value)
    return found


def handles(data: bytes) -> list[int]:
    """Take a TPMS_CAPABILITY_DATA of handles apart."""
    _, count = struct.unpack_from(">II", data)
    return list(struct.unpack_from(f">{count}I", data, 8))


def _public(kind: int, attributes: int, policy: bytes, parameters: bytes, unique: bytes) -> bytes:
    """A TPMT_PUBLIC, §12.2.4."""
    head = struct.pack(">HHI", kind, SHA256, attributes)
    return head + sized(policy) + parameters + unique


_EMPTY_POINT = sized(b"") * 2
EMPTY_SENSITIVE = sized(sized(b"") * 2)
"""TPM2B_SENSITIVE_CREATE: no password. What guards these keys is the TPM's device file."""
HASH_TICKET = struct.pack(">HIH", 0x8024, 0x40000007, 0)
"""TPM_ST_HASHCHECK of TPM_RH_NULL: the key is unrestricted, nobody vouches for the digest."""

STORAGE = _public(
    ECC, _FIXED | _USER | _NO_DA | _RESTRICTED | _DECRYPT, b"",
    _AES_128_CFB + NONE + _P256 + NONE, _EMPTY_POINT,
)  # fmt: skip
"""The parent that tpm2-openssl makes for a key whose parent is the owner hierarchy."""
TLS = _public(ECC, _FIXED | _USER | _NO_DA | _SIGN, b"", NONE + NONE + _P256 + NONE, _EMPTY_POINT)
AK = _public(
    ECC, _FIXED | _USER | _NO_DA | _RESTRICTED | _SIGN, b"",
    NONE + ECDSA_SHA256 + _P256 + NONE, sized(_AK_LABEL) + sized(bytes(32)),
)  # fmt: skip
EK = {
    "rsa": _public(
        RSA, _FIXED | _ADMIN | _RESTRICTED | _DECRYPT, _EK_POLICY,
        _AES_128_CFB + NONE + struct.pack(">HI", 2048, 0), sized(bytes(256)),
    ),
    "ecc": _public(
        ECC, _FIXED | _ADMIN | _RESTRICTED | _DECRYPT, _EK_POLICY,
        _AES_128_CFB + NONE + _P256 + NONE, sized(bytes(32)) * 2,
    ),
}  # fmt: skip
"""TCG EK Credential Profile 2.0, B.3.3 and B.3.4: templates L-1 and L-2."""
EK_CERTIFICATES = {"rsa": 0x01C00002, "ecc": 0x01C0000A}
"""The same, §2.2.1.4: where the maker's certificate lies in NV."""
