"""A TLS key in a TPM as the rest of the agent sees it: a signer, a TLS key, a quoter (grade G2).

Decides nothing about grades (ladder.py) and reads no structure it could leave to wire/tpm.py. The
key file is a ``TSS2 PRIVATE KEY`` (tsskey.py): of no use to any other TPM.

Every method blocks (up to a second on a chip) and raises HardwareFault; executors only. Signing
and quoting on an event loop is an OurFault: with swtpm nobody would notice, with a chip all stops.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    encode_dss_signature,
)

from edgewarden.errors import EdgewardenError, OurFault, TrustFault, WireRefusal
from edgewarden.kernel import openssl_key
from edgewarden.kernel.openssl import load_tpm_provider
from edgewarden.kernel.tpm import Key, Tpm
from edgewarden.trust import tsskey
from edgewarden.trust.keys import key_id, low_s, public_cose_key
from edgewarden.wire import tpm as forms
from edgewarden.wire.tpm_quote import QUOTE_PCRS, TpmQuote

GRADE = "G2"
log = logging.getLogger("edgewarden.trust.tpmkey")


class TpmKey:
    """One loaded TLS key; implements ports.Signer and ladder.OwnKey.

    Args:
        tpm: its TPM.
        pem: the key file.

    Raises:
        TrustFault: EW-ID-003, the file is no key of ours.
        HardwareFault: EW-ID-031, it is another TPM's.
    """

    grade = GRADE

    def __init__(self, tpm: Tpm, pem: bytes) -> None:
        self._key = tsskey.read(pem)
        self._pem, self._tpm = pem, tpm
        self.tls_public = tsskey.public_area(self._key[0])
        self._point = _point(self.tls_public)
        tpm.check_key(self._key)
        self._public = public_cose_key(self._point)
        n = self._point.public_numbers()
        self._uncompressed = b"\4" + n.x.to_bytes(32, "big") + n.y.to_bytes(32, "big")
        self.kid = key_id(self._public)
        self._quoter: TpmQuoter | None = None

    @classmethod
    def generate(cls, tpm: Tpm) -> TpmKey:
        """A fresh key that never leaves this TPM."""
        return cls(tpm, tsskey.write(*tpm.make_key()))

    def to_pem(self) -> bytes:
        """The key file: wrapped by the TPM."""
        return self._pem

    def public_key(self) -> bytes:
        """Deterministic COSE_Key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """ES256: 64 bytes, r || s, s in the lower half; OurFault on an event loop's thread."""
        _off_the_loop()
        return low_s(self._raw(hashlib.sha256(message).digest()))

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key as X.509 builders take one; its bytes are nowhere to be had."""
        return _BuilderKey(self._point, self._raw)

    def present(self, context: ssl.SSLContext, cert_path: Path, key_path: Path) -> None:
        """Make this the context's own key: OpenSSL asks for each signature; where it cannot, its
        provider reads the wrapped file. Raises HardwareFault EW-ID-032 where neither is there."""
        if openssl_key.missing() is None:
            openssl_key.present(context, cert_path, self._uncompressed, self._for_tls)
        else:
            load_tpm_provider(self._tpm.tcti)
            context.load_cert_chain(cert_path, key_path)

    def recipe(self) -> str:
        """How OpenSSL comes to the key here; raises HardwareFault EW-ID-032."""
        if openssl_key.missing() is None:
            return f"{ssl.OPENSSL_VERSION} asks it for each signature"
        return str(load_tpm_provider(self._tpm.tcti))

    def about(self) -> str:
        """One line for a person."""
        return f"in the TPM at {self._tpm.tcti}; {self.recipe()}"

    def quoter(self) -> TpmQuoter:
        """The TPM's word on this boot."""
        if self._quoter is None:
            self._quoter = TpmQuoter(self._tpm, self._key)
        return self._quoter

    def certify(self, qualifying: bytes) -> tuple[bytes, bytes]:
        """The attestation key's word that this key is in its TPM: TPMS_ATTEST and signature."""
        return self._tpm.certify(self._key, qualifying)

    def close(self) -> None:
        """Flush the key and let the TPM go."""
        self._tpm.close()

    def _for_tls(self, digest: bytes) -> bytes:
        """See openssl_key.Sign; says what went wrong, since OpenSSL will not."""
        try:
            _off_the_loop()
            return _der(self._raw(digest))
        except EdgewardenError as fault:
            log.warning("key=tpm handshake=no code=%s why=%s", fault.code, fault.text)
            raise

    def _raw(self, digest: bytes) -> bytes:
        try:
            return forms.parse_signature(self._tpm.sign(self._key, digest)).value
        except WireRefusal as fault:
            raise OurFault(f"the TPM's signature cannot be read: {fault.text}") from fault


class TpmQuoter:
    """Quotes over QUOTE_PCRS by the attestation key; implements ports.Quoter.

    The certification of the TLS key is taken once: it says where the key is, and the key does not
    move.
    """

    def __init__(self, tpm: Tpm, key: Key) -> None:
        self._tpm, self._key = tpm, key
        self._tls_public = tsskey.public_area(key[0])
        self._certified: tuple[bytes, bytes, bytes] | None = None
        self._pcrs: dict[int, bytes] = {}

    def quote(self, qualifying: bytes) -> TpmQuote:
        """See ports.Quoter; OurFault on an event loop's thread."""
        _off_the_loop()
        if self._certified is None:
            self._certified = (self._tpm.ak_public(), *self._tpm.certify(self._key, b""))
        ak_public, certify, certify_signature = self._certified
        attest, signature, pcrs = self._quoted(qualifying)
        self._pcrs = pcrs
        return TpmQuote(
            quote=attest,
            quote_signature=signature,
            ak_public=ak_public,
            pcrs=pcrs,
            certify=certify,
            certify_signature=certify_signature,
            tls_public=self._tls_public,
        )

    def meanwhile(self, pieces: Iterator[object]) -> AbstractContextManager[None]:
        """See ports.Quoter."""
        return self._tpm.meanwhile(pieces)

    def _quoted(self, qualifying: bytes) -> tuple[bytes, bytes, dict[int, bytes]]:
        """A quote and the values it vouches for, which mostly are those of the last one."""
        if self._pcrs:
            attest, signature = self._tpm.quote_alone(qualifying, QUOTE_PCRS)
            if forms.pcr_digest(self._pcrs) == forms.parse_quote(attest).pcr_digest:
                return attest, signature, self._pcrs
        return self._tpm.quote(qualifying, QUOTE_PCRS)


class _BuilderKey(ec.EllipticCurvePrivateKey):
    """What ``cryptography``'s X.509 builders need of a key: its public half, and a signature."""

    def __init__(self, public: ec.EllipticCurvePublicKey, raw: Callable[[bytes], bytes]) -> None:
        self._public = public
        self._raw = raw

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise OurFault("a TPM key signs SHA-256 of a message, nothing else")
        return _der(self._raw(hashlib.sha256(data).digest()))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        return _nowhere()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        return _nowhere()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        return _nowhere()

    def __copy__(self) -> _BuilderKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _BuilderKey:
        return self


def _der(value: bytes) -> bytes:
    return encode_dss_signature(*(int.from_bytes(half, "big") for half in (value[:32], value[32:])))


def _off_the_loop() -> None:
    asyncio = sys.modules.get("asyncio")  # who never imported it runs no loop
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise OurFault("a TPM was asked on an event loop: it blocks for up to a second")


def _nowhere() -> NoReturn:
    raise OurFault("the private half of a TPM key is nowhere to be had")


def _point(public: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a TPMT_PUBLIC; raises TrustFault when it is none of ours."""
    try:
        point = forms.parse_public(public).point
        if point is None:
            raise WireRefusal("bad_tpm", "not a P-256 key")
        x, y = (int.from_bytes(part, "big") for part in point)
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except (WireRefusal, ValueError) as fault:
        raise TrustFault(
            f"the identity key cannot be read: {fault}",
            code="EW-ID-003",
            next_step="restore state/identity from a backup of this very device, or enrol again",
        ) from fault
