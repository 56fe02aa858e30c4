"""A TPM's key, on a TPM of paper: forms, the other half of s, and no event loop."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from edgewarden.errors import HardwareFault, OurFault, TrustFault
from edgewarden.kernel import openssl_key, tpm_forms
from edgewarden.kernel.tpm import Tpm
from edgewarden.trust import tpmkey, tsskey
from edgewarden.trust.keys import verifier_for
from edgewarden.trust.selftest import prove
from edgewarden.trust.tpmkey import TpmKey
from edgewarden.wire.tpm import parse_quote
from tests.fakes.tpm import SoftTpm

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class PaperTpm:
    """Signs with a key in memory, and with the upper half of s where it is asked to."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.soft = SoftTpm(self.key)
        self.upper = False
        self.asked: list[str] = []
        n = self.key.public_key().public_numbers()
        point = b"".join(tpm_forms.sized(c.to_bytes(32, "big")) for c in (n.x, n.y))
        self.public = tpm_forms.sized(tpm_forms.TLS[:-4] + point)
        self.pem = tsskey.write(self.public, b"\0\x04wrap")

    def check_key(self, key: tuple[bytes, bytes]) -> None:
        self.asked.append("check")

    def sign(self, key: tuple[bytes, bytes], digest: bytes) -> bytes:
        self.asked.append("sign")
        der = self.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        r, s = decode_dss_signature(der)
        s = max(s, ORDER - s) if self.upper else min(s, ORDER - s)
        halves = b"".join(tpm_forms.sized(n.to_bytes(32, "big")) for n in (r, s))
        return bytes.fromhex("0018000b") + halves

    def ak_public(self) -> bytes:
        return b"ak"

    def certify(self, key: tuple[bytes, bytes], qualifying: bytes) -> tuple[bytes, bytes]:
        self.asked.append("certify")
        return b"certify", b"signature"

    def quote(self, qualifying: bytes, pcrs: Any) -> tuple[bytes, bytes, dict[int, bytes]]:
        self.asked.append("quote")
        return self.soft.quoted(qualifying), b"signature", dict(self.soft.pcrs)

    def quote_alone(self, qualifying: bytes, pcrs: Any) -> tuple[bytes, bytes]:
        self.asked.append("quote alone")
        return self.soft.quoted(qualifying), b"signature"


@pytest.fixture
def paper() -> PaperTpm:
    return PaperTpm()


def key_of(paper: PaperTpm) -> TpmKey:
    return TpmKey(cast("Tpm", paper), paper.pem)


@pytest.mark.parametrize("upper", [False, True])
def test_a_signature_is_ours_whichever_half_the_tpm_takes(paper: PaperTpm, upper: bool) -> None:
    paper.upper = upper
    key = key_of(paper)
    assert verifier_for(key.public_key())(b"message", key.sign(b"message"))
    assert not verifier_for(key.public_key())(b"another", key.sign(b"message"))


def test_a_signing_request_is_signed_by_the_tpm(paper: PaperTpm) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key_of(paper).private_key(), hashes.SHA256())
    assert request.is_signature_valid
    assert request.public_key() == paper.key.public_key()
    assert "sign" in paper.asked


def test_the_private_half_is_nowhere(paper: PaperTpm) -> None:
    key = key_of(paper).private_key()
    with pytest.raises(OurFault):
        key.private_numbers()
    with pytest.raises(OurFault):
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    with pytest.raises(OurFault):
        key.sign(hashlib.sha256(b"x").digest(), ec.ECDSA(Prehashed(hashes.SHA256())))
    assert b"PRIVATE KEY" in key_of(paper).to_pem()
    assert key_of(paper).to_pem() == paper.pem


def test_quotes_are_fresh_and_the_certification_is_taken_once(paper: PaperTpm) -> None:
    quoter = key_of(paper).quoter()
    first, second = quoter.quote(b"1"), quoter.quote(b"2")
    assert [parse_quote(q.quote).qualifying for q in (first, second)] == [b"1", b"2"]
    assert first.tls_public == tsskey.public_area(paper.public)
    assert sorted(first.pcrs) == list(range(11))
    assert paper.asked.count("certify") == 1
    assert paper.asked.count("quote") == 1, "what the PCRs were is read once"
    assert paper.asked.count("quote alone") == 1
    paper.soft.pcrs = {**paper.soft.pcrs, 4: bytes(32)}
    third = quoter.quote(b"3")
    assert third.pcrs[4] == bytes(32), "and again when they have moved"


def test_an_event_loop_is_never_held_up(paper: PaperTpm) -> None:
    key = key_of(paper)

    async def on_the_loop() -> None:
        for work in (lambda: key.sign(b"x"), lambda: key.quoter().quote(b"x")):
            with pytest.raises(OurFault, match="event loop"):
                work()
            await asyncio.to_thread(work)

    asyncio.run(on_the_loop())
    assert paper.asked.count("sign") == 1
    assert paper.asked.count("quote") == 1


def test_a_file_whose_public_part_is_no_key_is_refused(paper: PaperTpm) -> None:
    beside = paper.public[:-1] + bytes([paper.public[-1] ^ 1])
    (modulus,) = (tpm_forms.sized(b"\xff" * 256),)
    rsa = tpm_forms.sized(tpm_forms.EK["rsa"][:-258] + modulus)
    for public in (beside, rsa, tpm_forms.sized(b"junk"), struct.pack(">H", 9)):
        with pytest.raises(TrustFault) as caught:
            TpmKey(cast("Tpm", paper), tsskey.write(public, b"\0\x04wrap"))
        assert caught.value.code == "EW-ID-003"
    assert "check" not in paper.asked, "nothing of it reaches the TPM"


@pytest.mark.parametrize(
    ("pcrs", "written"),
    [
        (range(11), "00000001000b03ff0700"),
        ([0], "00000001000b03010000"),
        ([23, 8], "00000001000b03000180"),
        ([], "00000001000b03000000"),
    ],
)
def test_pcrs_of_the_sha256_bank_as_a_tpm_takes_them(pcrs: list[int], written: str) -> None:
    """TPM 2.0 Part 2 §10.6.2: three bytes of bits, PCR 0 the lowest of the first."""
    assert tpm_forms.sha256_bank(pcrs).hex() == written


@pytest.mark.parametrize("upper", [False, True])
def test_it_carries_the_handshakes_of_the_selftest(
    paper: PaperTpm, tmp_path: Path, upper: bool
) -> None:
    """Without a provider and without a file: OpenSSL asks the key."""
    paper.upper = upper
    prove(key_of(paper), tmp_path / "no such file")
    assert paper.asked.count("sign") == 1 + 4, "one by itself, two handshakes of two ends"
    assert "asks it for each signature" in key_of(paper).recipe()


def test_a_tpm_that_is_gone_ends_the_handshake_and_is_said(
    paper: PaperTpm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = key_of(paper)
    key.sign(b"still there")

    def gone(key: tuple[bytes, bytes], digest: bytes) -> bytes:
        paper.asked.append("sign")
        if paper.asked.count("sign") > 2:
            raise HardwareFault("the TPM does not sign: gone", code="EW-ID-030", next_step="look")
        return PaperTpm.sign(paper, key, digest)

    paper.sign = gone  # type: ignore[method-assign]
    with pytest.raises(TrustFault, match="does not carry"):
        prove(key, tmp_path / "none")
    assert "code=EW-ID-030 why=the TPM does not sign: gone" in caplog.text


def test_a_handshake_on_an_event_loop_is_refused_and_said(
    paper: PaperTpm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = key_of(paper)

    async def on_the_loop() -> None:
        with pytest.raises(OurFault, match="event loop"):
            key._for_tls(bytes(32))

    asyncio.run(on_the_loop())
    assert "event loop" in caplog.text


def test_without_such_keys_openssls_provider_is_asked_for(
    paper: PaperTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openssl_key, "missing", lambda: "this OpenSSL has none")

    def load(tcti: str) -> object:
        raise HardwareFault(f"no provider for {tcti}", code="EW-ID-032", next_step="look")

    monkeypatch.setattr(tpmkey, "load_tpm_provider", load)
    paper.tcti = "device:/dev/none"  # type: ignore[attr-defined]
    key = key_of(paper)
    for ask in (key.recipe, lambda: prove(key, tmp_path / "none")):
        with pytest.raises(HardwareFault, match="no provider for device:/dev/none"):
            ask()
