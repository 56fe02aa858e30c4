"""A TPM in software that also lies on demand: the structures of wire/tpm.py, signed by keys of this
process. Each argument of its methods is something an attacker would change; the defaults are what
an honest TPM writes (tests/wire/test_tpm.py holds those to recordings of swtpm).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from edgewarden.wire import tpm
from edgewarden.wire.tpm import Alg, Attribute
from edgewarden.wire.tpm_quote import QUOTE_PCRS, TpmQuote

FIXED = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
AK = FIXED | Attribute.USER_WITH_AUTH | Attribute.RESTRICTED | Attribute.SIGN
TLS = FIXED | Attribute.USER_WITH_AUTH | Attribute.SIGN
ALL = sum(1 << n for n in QUOTE_PCRS)
PCRS = {n: bytes([n]) * 32 for n in sorted(QUOTE_PCRS)}


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def public_of(key: ec.EllipticCurvePrivateKey, attributes: int) -> bytes:
    """TPMT_PUBLIC of a P-256 key with ECDSA and SHA-256."""
    numbers = key.public_key().public_numbers()
    head = struct.pack(">HHI", Alg.ECC, Alg.SHA256, attributes)
    parameters = struct.pack(">HHHHH", Alg.NULL, Alg.ECDSA, Alg.SHA256, tpm.ECC_NIST_P256, Alg.NULL)
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    return head + sized(b"") + parameters + sized(x) + sized(y)


def signed(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """TPMT_SIGNATURE."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    rs = sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
    return struct.pack(">HH", Alg.ECDSA, Alg.SHA256) + rs


class SoftTpm:
    """One TPM: an attestation key, counters, PCRs. Implements ports.Quoter."""

    def __init__(self, tls_key: ec.EllipticCurvePrivateKey) -> None:
        self.ak = ec.generate_private_key(ec.SECP256R1())
        self.tls_key = tls_key
        self.ak_public = public_of(self.ak, AK)
        self.tls_public = public_of(tls_key, TLS)
        self.signer = b"\x00\x0b" + self.ak_public[-32:]
        self.pcrs: Mapping[int, bytes] = dict(PCRS)
        self.resets, self.clock_ms = 7, 1_000
        self._certified = (b"", b"")
        self._meanwhile: Iterator[object] = iter(())

    def boot(self) -> None:
        """Power off and on."""
        self.resets += 1
        self._certified = (b"", b"")

    def attest(
        self,
        kind: int,
        body: bytes,
        qualifying: bytes,
        magic: int = tpm.GENERATED,
        resets: int | None = None,
        signer: bytes | None = None,
    ) -> bytes:
        """TPMS_ATTEST around a body."""
        self.clock_ms += 10
        head = struct.pack(">IH", magic, kind) + sized(signer or self.signer) + sized(qualifying)
        resets = self.resets if resets is None else resets
        return head + struct.pack(">QIIBQ", self.clock_ms, resets, 0, 1, 0x2024) + body

    def quoted(
        self, qualifying: bytes, *, bank: Alg = Alg.SHA256, selection: int = ALL, **how: int
    ) -> bytes:
        """A quote over the selected PCRs."""
        bitmap = selection.to_bytes(3, "little")
        chosen = {n: v for n, v in self.pcrs.items() if selection >> n & 1}
        body = struct.pack(">IHB", 1, bank, 3) + bitmap + sized(tpm.pcr_digest(chosen))
        return self.attest(tpm.ST_ATTEST_QUOTE, body, qualifying, **how)

    def certified(self, public: bytes | None = None, **how: int) -> bytes:
        """A certification of the TLS key."""
        name = tpm.parse_public(public or self.tls_public).name
        return self.attest(tpm.ST_ATTEST_CERTIFY, sized(name) + sized(name), b"", **how)

    @contextmanager
    def meanwhile(self, pieces: Iterator[object]) -> Iterator[None]:
        """As ports.Quoter: a quote takes as long as one piece."""
        self._meanwhile = pieces
        yield
        self._meanwhile = iter(())

    def quote(self, qualifying: bytes) -> TpmQuote:
        """As ports.Quoter."""
        next(self._meanwhile, None)
        if not self._certified[0]:
            certify = self.certified()
            self._certified = certify, signed(self.ak, certify)
        quote = self.quoted(qualifying)
        return TpmQuote(
            quote, signed(self.ak, quote), self.ak_public, self.pcrs, *self._certified,
            self.tls_public,
        )  # fmt: skip
