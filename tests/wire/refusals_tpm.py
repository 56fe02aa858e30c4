"""What wire/tpm.py refuses: recorded structures with one field wrong at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgewarden.wire import tpm
from tests.wire.tpm_vectors import RECORDED

QUOTE, CERTIFY = RECORDED["quote"], RECORDED["certify"]
AK, RSA_AK, EK = RECORDED["ak_public"], RECORDED["rsa_ak_public"], RECORDED["ek_public"]
SIGNATURE, RSA_SIGNATURE = RECORDED["quote_signature"], RECORDED["rsa_quote_signature"]

Fault = tuple[str, Callable[[bytes], object], bytes, str]
"""Label, parser, bytes, what the text says."""

_PCRS_AT = 6 + 2 + 34 + 2 + 32 + 17 + 8
"""Where the selection of the recorded quote begins."""


def put(data: bytes, at: int, new: str) -> bytes:
    """data with the bytes at a place replaced."""
    fresh = bytes.fromhex(new)
    return data[:at] + fresh + data[at + len(fresh) :]


def selecting(selection: str) -> bytes:
    """The recorded quote over another selection."""
    return QUOTE[:_PCRS_AT] + bytes.fromhex(selection) + QUOTE[-34:]


def _attest() -> Iterator[Fault]:
    q, c = tpm.parse_quote, tpm.parse_certify
    yield "empty", q, b"", "ends inside magic"
    yield "long", q, bytes(tpm.MAX_STRUCT_BYTES + 1), "limit 1024"
    yield "magic", q, put(QUOTE, 0, "ff544346"), "magic"
    yield "type", q, CERTIFY, "type 0x8017"
    yield "type-of-certify", c, QUOTE, "type 0x8018"
    yield "signer-of-4", q, QUOTE[:6] + b"\0\4abcd" + QUOTE[42:], "signer of 4"
    yield "signer-of-50", q, QUOTE[:6] + b"\0\x32" + bytes(50) + QUOTE[42:], "signer of 50"
    yield "qualifying-65", q, QUOTE[:42] + b"\0\x41" + bytes(65) + QUOTE[76:], "qualifying data"
    yield "safe-2", q, put(QUOTE, 92, "02"), "safe 2"
    yield "five-banks", q, selecting("00000005"), "5 banks"
    yield "bank", q, selecting("00000001000c0000".replace("000c", "0012")), "bank 0x0012"
    yield "bank-twice", q, selecting("00000002 000b03ff0700 000b03000000"), "stands twice"
    yield "bitmap-of-5", q, selecting("00000001 000b05ff07000000"), "bitmap of 5"
    yield "digest-of-20", q, QUOTE[:-34] + b"\0\x14" + bytes(20), "PCR digest of 20"
    yield "digest-of-48", q, QUOTE[:-34] + b"\0\x30" + bytes(48), "PCR digest of 48"
    yield "one-more", q, QUOTE + b"\0", "1 bytes follow"
    yield "two-in-one", q, QUOTE + QUOTE, "bytes follow"
    yield "certify-one-more", c, CERTIFY + b"\0", "1 bytes follow"
    yield "certified-name", c, CERTIFY[:-72] + b"\0\4abcd" + CERTIFY[-36:], "name of 4"
    yield "no-certified-name", c, CERTIFY[:-72] + b"\0\0" + CERTIFY[-36:], "name of 0"
    yield "qualified-name", c, CERTIFY[:-36] + b"\0\0", "qualified name of 0"
    for data, parse in ((QUOTE, q), (CERTIFY, c)):
        for cut in (3, 5, 7, 20, 50, 80, 90, 100, len(data) - 1):
            yield f"{parse.__name__}-cut-{cut}", parse, data[:cut], "ends inside"


def _public() -> Iterator[Fault]:
    p = tpm.parse_public
    yield "type-keyedhash", p, put(AK, 0, "0008"), "type 0x0008"
    yield "type-sha256", p, put(AK, 0, "000b"), "type 0x000b"
    yield "name-sha1", p, put(AK, 2, "0004"), "name algorithm"
    for bit in (0, 3, 8, 9, 12, 15, 19, 31):
        yield f"reserved-bit-{bit}", p, put(AK, 4, f"{1 << bit | 0x50072:08x}"), "reserved bits"
    yield "policy-of-33", p, AK[:8] + b"\0\x21" + bytes(33) + AK[10:], "policy of 33"
    yield "policy-of-20", p, AK[:8] + b"\0\x14" + bytes(20) + AK[10:], "policy of 20"
    yield "symmetric-camellia", p, put(AK, 10, "0026"), "symmetric"
    yield "aes-256", p, put(EK, 44, "0100"), "key bits"
    yield "aes-cbc", p, put(EK, 46, "0042"), "cipher mode"
    yield "scheme-ecdaa", p, put(AK, 12, "001a"), "scheme"
    yield "scheme-of-rsa", p, put(AK, 12, "0014"), "scheme"
    yield "scheme-sha1", p, put(AK, 14, "0004"), "scheme's digest"
    yield "p-384", p, put(AK, 16, "0004"), "curve 0x4"
    yield "kdf", p, put(AK, 18, "0020"), "key derivation"
    yield "x-of-0", p, AK[:20] + b"\0\0" + AK[54:], "x of 0"
    yield "y-of-33", p, AK[:54] + b"\0\x21" + bytes(33), "y of 33"
    yield "public-one-more", p, AK + b"\0", "1 bytes follow"
    yield "rsa-1024", p, put(RSA_AK, 16, "0400"), "1024 bits"
    yield "rsa-exponent-3", p, put(RSA_AK, 18, "00000003"), "exponent of 3"
    yield "rsa-modulus-255", p, RSA_AK[:22] + b"\0\xff" + RSA_AK[25:], "modulus of 255"
    yield "rsa-modulus-zero", p, put(RSA_AK, 24, "00"), "fewer than 2048"
    yield "rsa-scheme-ecdsa", p, put(RSA_AK, 12, "0018"), "scheme"
    for cut in (1, 3, 7, 9, 11, 13, 15, 17, 19, 21, 40, 60, len(AK) - 1):
        yield f"public-cut-{cut}", p, AK[:cut], "ends inside"


def _signature() -> Iterator[Fault]:
    s = tpm.parse_signature
    yield "scheme-hmac", s, put(SIGNATURE, 0, "0005"), "scheme 0x0005"
    yield "scheme-null", s, put(SIGNATURE, 0, "0010"), "scheme 0x0010"
    yield "digest-sha1", s, put(SIGNATURE, 2, "0004"), "digest 0x0004"
    yield "r-of-33", s, SIGNATURE[:4] + b"\0\x21" + bytes(33) + SIGNATURE[38:], "r of 33"
    yield "s-of-0", s, SIGNATURE[:38] + b"\0\0", "s of 0"
    yield "rsa-of-64", s, RSA_SIGNATURE[:4] + b"\0\x40" + bytes(64), "RSA signature of 64"
    yield "signature-one-more", s, SIGNATURE + b"\0", "1 bytes follow"
    yield "signature-cut", s, SIGNATURE[:-1], "ends inside s"


def faults() -> Iterator[Fault]:
    """Every one of them."""
    yield from _attest()
    yield from _public()
    yield from _signature()
