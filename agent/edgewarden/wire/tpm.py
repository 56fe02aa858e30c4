"""TPM 2.0 structures as a chip spells them: read strictly, believed by nobody here.

Decides whether bytes are one TPMS_ATTEST (a quote or a certification), TPMT_PUBLIC or
TPMT_SIGNATURE and nothing else, in the algorithms this agent uses: SHA-256, P-256 and RSA with
65537. Whether a signature holds, whose key it is and what a PCR should be is the appraisal's
(judge/): a well-formed quote proves nothing.

Every fault is the refusal ``bad_tpm``, its text naming the field. The rules, in the order of the
bytes:

1. at most MAX_STRUCT_BYTES, every field complete, nothing behind the last one
2. magic TPM_GENERATED: what a restricted key signs begins so, and only the TPM can make it
3. type exactly the one asked for
4. sizes: names 34 bytes (SHA-256), qualifying data at most 64, PCR digest 32
5. booleans 0 or 1, reserved attribute bits 0, lists within their bounds

    parse_quote(data).pcrs              the selection: ((SHA256, {0, 1, ...}),)
    parse_public(ak).name               00 0b || SHA-256 of the bytes

Numbers are those of "TPM 2.0 Library, Part 2: Structures"; the section stands beside each.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from functools import lru_cache

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.tpm_quote import MAX_STRUCT_BYTES

MAX_BANKS = 4
"""Banks that one quote may select from; ours selects one."""

GENERATED = 0xFF544347  # TPM_GENERATED_VALUE, §6.2
ST_ATTEST_CERTIFY, ST_ATTEST_QUOTE = 0x8017, 0x8018  # TPM_ST, §6.9
ECC_NIST_P256 = 0x0003  # TPM_ECC_CURVE, §6.4
_RSA_EXPONENT = 65537
_RSA_BITS = (2048, 3072, 4096)
_COORDINATE_BYTES = 32
_NAME_BYTES = 2 + 32
_QUALIFYING_BYTES = 64
"""TPM2B_DATA holds a TPMT_HA (§10.4.3): algorithm and the largest digest. Ours is a SHA-256."""
_BITMAP_BYTES = 4
"""TPMS_PCR_SELECTION, §10.6.2: one bit a PCR; PC Client TPMs have 24, the field holds 32 here."""


class Alg(IntEnum):
    """TPM_ALG_ID, §6.3."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECC = 0x0023
    CFB = 0x0043


_ALGS = {int(a): a for a in Alg}


class Attribute(IntFlag):
    """TPMA_OBJECT, §8.3; the bits not named here are reserved."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


_KNOWN_ATTRIBUTES = sum(Attribute)
_BANKS = (Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512)

Selection = tuple[tuple[int, frozenset[int]], ...]
"""((bank, PCR numbers), ...) in the order of the bytes (TPML_PCR_SELECTION, §10.9.7)."""


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO, §10.11.1.

    Attributes:
        clock_ms: milliseconds the TPM was powered; advances only.
        reset_count: TPM resets: one more at each boot.
        restart_count: resumes since the last reset.
        safe: no value above clock_ms was reported before.
    """

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class Quote:
    """A TPMS_ATTEST of type quote: what PCRs a key's holder vouches for.

    Attributes:
        signer: qualified name of the signing key.
        qualifying: the caller's bytes (extraData): freshness lives here.
        pcr_digest: SHA-256 over the selected PCRs' values, ascending.
    """

    signer: bytes
    qualifying: bytes
    clock: ClockInfo
    firmware: int
    pcrs: Selection
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Certification:
    """A TPMS_ATTEST of type certify: the key of that name is loaded in the signer's TPM."""

    signer: bytes
    qualifying: bytes
    clock: ClockInfo
    firmware: int
    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """A TPMT_PUBLIC, §12.2.4.

    Attributes:
        kind: Alg.ECC or Alg.RSA.
        scheme: signing scheme bound to the key, Alg.NULL when it may use any.
        point: (x, y), 32 bytes each, of an ECC key.
        modulus: of an RSA key, big endian, without leading zeros; its exponent is 65537.
        name: what the TPM calls it: algorithm and SHA-256 of the whole structure (Part 1, §16).
    """

    kind: Alg
    attributes: Attribute
    policy: bytes
    scheme: Alg
    name: bytes
    point: tuple[bytes, bytes] | None = None
    modulus: bytes = b""


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE with SHA-256, §11.3.4.

    Attributes:
        scheme: ECDSA, RSASSA or RSAPSS.
        value: r || s of 32 bytes each, or the RSA signature.
    """

    scheme: Alg
    value: bytes


class _Reader:
    """Takes big-endian fields off the front; names the one that is not there."""

    def __init__(self, data: bytes, what: str) -> None:
        self.what = what
        if len(data) > MAX_STRUCT_BYTES:
            raise self.no(f"{len(data)} bytes, limit {MAX_STRUCT_BYTES}")
        self.data = data
        self.at = 0

    def no(self, why: str) -> WireRefusal:
        return WireRefusal("bad_tpm", f"{self.what}: {why}")

    def take(self, count: int, name: str) -> bytes:
        begin = self.at
        self.at = end = begin + count
        if end > len(self.data):
            raise self.no(f"ends inside {name}")
        return self.data[begin:end]

    def uint(self, width: int, name: str) -> int:
        return int.from_bytes(self.take(width, name), "big")

    def sized(self, name: str, low: int, high: int) -> bytes:
        """A TPM2B: two bytes of size, then so many bytes."""
        size = self.uint(2, name)
        if not low <= size <= high:
            raise self.no(f"{name} of {size} bytes")
        return self.take(size, name)

    def constant(self, width: int, value: int, name: str) -> None:
        found = self.uint(width, name)
        if found != value:
            raise self.no(f"{name} {found:#x} is not {value:#x}")

    def alg(self, name: str, *allowed: Alg) -> Alg:
        found = self.uint(2, name)
        if found not in allowed:
            raise self.no(f"{name} {found:#06x} is not used here")
        return _ALGS[found]

    def end(self) -> None:
        if self.at != len(self.data):
            raise self.no(f"{len(self.data) - self.at} bytes follow")


def parse_quote(data: bytes) -> Quote:
    """Read a TPMS_ATTEST that must be a quote; raises WireRefusal("bad_tpm")."""
    found = _quote_at_once(data)
    if found is not None:
        return found
    r = _Reader(data, "quote")
    signer, qualifying, clock, firmware = _attest(r, ST_ATTEST_QUOTE)
    pcrs = _selection(r)
    digest = r.sized("PCR digest", 32, 32)
    r.end()
    return Quote(signer, qualifying, clock, firmware, pcrs, digest)


_QUOTE = struct.Struct(">IH H34s H32s QIIB Q IHB3s H32s")
_QUOTE_SIZES = (GENERATED, ST_ATTEST_QUOTE, _NAME_BYTES, 32, 1, Alg.SHA256, 3, 32)


def _quote_at_once(data: bytes) -> Quote | None:
    """A quote over a SHA-256 and one bank of 24 PCRs, which ours all are; None for every other."""
    if len(data) != _QUOTE.size:
        return None
    (
        magic, kind, a, signer, b, qualifying, clock, resets, restarts, safe, firmware,
        count, bank, c, bits, d, digest,
    ) = _QUOTE.unpack(data)  # fmt: skip
    if (magic, kind, a, b, count, bank, c, d) != _QUOTE_SIZES or safe > 1:
        return None
    info = ClockInfo(clock, resets, restarts, safe == 1)
    banks = ((Alg.SHA256, _numbers(int.from_bytes(bits, "little"))),)
    return Quote(signer, qualifying, info, firmware, banks, digest)


def parse_certify(data: bytes) -> Certification:
    """Read a TPMS_ATTEST that must certify an object; raises WireRefusal("bad_tpm")."""
    r = _Reader(data, "certify")
    signer, qualifying, clock, firmware = _attest(r, ST_ATTEST_CERTIFY)
    name = r.sized("name", _NAME_BYTES, _NAME_BYTES)
    qualified = r.sized("qualified name", _NAME_BYTES, _NAME_BYTES)
    r.end()
    return Certification(signer, qualifying, clock, firmware, name, qualified)


def _attest(r: _Reader, kind: int) -> tuple[bytes, bytes, ClockInfo, int]:
    """The fields every TPMS_ATTEST begins with, §10.12.12."""
    r.constant(4, GENERATED, "magic")
    r.constant(2, kind, "type")
    signer = r.sized("signer", _NAME_BYTES, _NAME_BYTES)
    qualifying = r.sized("qualifying data", 0, _QUALIFYING_BYTES)
    clock, reset, restart = r.uint(8, "clock"), r.uint(4, "resets"), r.uint(4, "restarts")
    safe = r.uint(1, "safe")
    if safe > 1:
        raise r.no(f"safe {safe} is neither yes nor no")
    return signer, qualifying, ClockInfo(clock, reset, restart, safe == 1), r.uint(8, "firmware")


def _selection(r: _Reader) -> Selection:
    """A TPML_PCR_SELECTION; a bank stands in it once."""
    count = r.uint(4, "PCR selection")
    if count > MAX_BANKS:
        raise r.no(f"a selection of {count} banks")
    banks: dict[int, frozenset[int]] = {}
    for _ in range(count):
        bank = r.alg("bank", *_BANKS)
        if bank in banks:
            raise r.no(f"bank {bank:#06x} stands twice")
        width = r.uint(1, "PCR bitmap")
        if width > _BITMAP_BYTES:
            raise r.no(f"a PCR bitmap of {width} bytes")
        bits = int.from_bytes(r.take(width, "PCR bitmap"), "little")
        banks[bank] = _numbers(bits)
    return tuple(banks.items())


@lru_cache(64)
def _numbers(bits: int) -> frozenset[int]:
    """The PCRs of a bitmap; every gateway selects the same."""
    return frozenset(n for n in range(bits.bit_length()) if bits >> n & 1)


def pcr_digest(values: Mapping[int, bytes]) -> bytes:
    """What a quote over exactly these PCRs carries: SHA-256 of the values, ascending."""
    return hashlib.sha256(b"".join(map(values.__getitem__, sorted(values)))).digest()


def parse_public(data: bytes) -> Public:
    """Read a TPMT_PUBLIC of a P-256 or RSA key; raises WireRefusal("bad_tpm")."""
    r = _Reader(data, "public")
    kind = r.alg("type", Alg.ECC, Alg.RSA)
    r.alg("name algorithm", Alg.SHA256)
    bits = r.uint(4, "attributes")
    if bits & ~_KNOWN_ATTRIBUTES:
        raise r.no(f"attributes {bits:#x} have reserved bits")
    policy = r.sized("policy", 0, 32)
    if len(policy) not in (0, 32):
        raise r.no(f"policy of {len(policy)} bytes")
    if r.alg("symmetric", Alg.NULL, Alg.AES) is Alg.AES:
        r.constant(2, 128, "key bits of the symmetric cipher")
        r.alg("cipher mode", Alg.CFB)
    point, modulus = None, b""
    if kind is Alg.ECC:
        scheme = _scheme(r, Alg.NULL, Alg.ECDSA)
        r.constant(2, ECC_NIST_P256, "curve")
        r.alg("key derivation", Alg.NULL)
        point = (_coordinate(r, "x"), _coordinate(r, "y"))
    else:
        scheme = _scheme(r, Alg.NULL, Alg.RSASSA, Alg.RSAPSS)
        modulus = _modulus(r)
    r.end()
    name = Alg.SHA256.to_bytes(2, "big") + hashlib.sha256(data).digest()
    return Public(kind, Attribute(bits), policy, scheme, name, point, modulus)


def _scheme(r: _Reader, *allowed: Alg) -> Alg:
    scheme = r.alg("scheme", *allowed)
    if scheme is not Alg.NULL:
        r.alg("scheme's digest", Alg.SHA256)
    return scheme


def _coordinate(r: _Reader, name: str) -> bytes:
    """Some chips leave leading zeros out; the name is over the bytes as they are."""
    return r.sized(name, 1, _COORDINATE_BYTES).rjust(_COORDINATE_BYTES, b"\0")


def _modulus(r: _Reader) -> bytes:
    bits, exponent = r.uint(2, "key bits"), r.uint(4, "exponent")
    if bits not in _RSA_BITS:
        raise r.no(f"an RSA key of {bits} bits")
    if exponent not in (0, _RSA_EXPONENT):  # 0 stands for 65537, §12.2.3.5
        raise r.no(f"an RSA exponent of {exponent}")
    modulus = r.sized("modulus", bits // 8, bits // 8)
    if not modulus[0] & 0x80:
        raise r.no(f"a modulus of fewer than {bits} bits")
    return modulus


_ECDSA = bytes.fromhex("0018000b0020")
"""Scheme, digest, and 32 as the length of r and of s."""


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE with SHA-256; raises WireRefusal("bad_tpm")."""
    if len(data) == 72 and data[:6] == _ECDSA and data[38:40] == _ECDSA[4:]:
        return Signature(Alg.ECDSA, data[6:38] + data[40:])
    r = _Reader(data, "signature")
    scheme = r.alg("scheme", Alg.ECDSA, Alg.RSASSA, Alg.RSAPSS)
    r.alg("digest", Alg.SHA256)
    if scheme is Alg.ECDSA:
        value = _coordinate(r, "r") + _coordinate(r, "s")
    else:
        value = r.sized("RSA signature", _RSA_BITS[0] // 8, _RSA_BITS[-1] // 8)
    r.end()
    return Signature(scheme, value)
