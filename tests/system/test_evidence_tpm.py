"""Evidence of the real attester with a TPM: judged by us, its quote by tpm2_checkquote.

The TPM is swtpm behind tpm2-abrmd (hw/rigs/tpm.py); tpm2_checkquote needs none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.appraise import quotes
from edgewarden.appraise.quotes import Bound, Contradiction, Enrolled
from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from edgewarden.wire import evidence, tpm
from edgewarden.wire.quoted import Quoted, qualifying
from edgewarden_fleet.verify.tpm import verify
from hw.rigs.tpm import Bus, SoftTpm
from tests.daemon.test_attester import MIN_INTERVAL_S, Rig, parts

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss")


@pytest.fixture
def soft(tmp_path: Path, tpm_bus: Bus) -> Iterator[SoftTpm]:
    with SoftTpm(tmp_path / "tpm", tpm_bus) as made:
        yield made


def asked(rig: Rig, key: TpmKey, nonce: bytes) -> tuple[bytes, Quoted]:
    """Claims and TPM's part of one answer."""
    rig.attester._signer, rig.attester._quoter = key, key.quoter()
    rig.ask(rig.fresh(nonce))
    rig.clock.advance(MIN_INTERVAL_S + 1)
    return parts(rig.published[-1])


def judge(claims: bytes, word: Quoted, key: TpmKey, enrolled: Enrolled) -> quotes.Vouched | None:
    said = evidence.decode_evidence(claims)
    bound = Bound(said.nonce, claims, said.boot_id, key.public_key())
    return quotes.judge(word, bound, enrolled, verify)


def test_a_tpm_over_a_boot(tmp_path: Path, soft: SoftTpm) -> None:
    """Whole, then digest form; a TPM that is reset under the running system is seen."""
    rig = Rig(tmp_path)
    with Tpm(soft.tcti) as opened:
        key = TpmKey.generate(opened)
        claims, word = asked(rig, key, b"1" * 32)
        first = judge(claims, word, key, Enrolled(opened.ak_public()))
        assert first is not None
        seen = Enrolled(opened.ak_public(), first.keys, first.pcrs, first.mark)
        claims, word = asked(rig, key, b"2" * 32)
        assert (word.keys, word.pcrs) == (None, None)
        second = judge(claims, word, key, seen)
        assert second is not None
        assert second.mark.reset_count == first.mark.reset_count
        assert second.mark.clock_ms >= first.mark.clock_ms
        soft.reboot()
        claims, word = asked(rig, key, b"3" * 32)
        # The TLS key was certified before; under a new certification it would be tpm_reset.
        with pytest.raises(Contradiction, match="certify_boot"):
            judge(claims, word, key, seen)


@pytest.mark.needs("tpm2-tools")
def test_tpm2_checkquote_accepts_it_and_nothing_else(tmp_path: Path, soft: SoftTpm) -> None:
    with Tpm(soft.tcti) as opened:
        key = TpmKey.generate(opened)
        claims, word = asked(Rig(tmp_path), key, b"1" * 32)
    assert word.keys is not None
    assert word.pcrs is not None
    (tmp_path / "ak.pem").write_bytes(pem(word.keys.ak_public))
    (tmp_path / "quote").write_bytes(word.quote)
    (tmp_path / "signature").write_bytes(word.quote_signature)
    right = qualifying(b"1" * 32, claims)
    assert checkquote(tmp_path, right) == 0
    assert checkquote(tmp_path, qualifying(b"2" * 32, claims)) != 0
    assert checkquote(tmp_path, qualifying(b"1" * 32, claims + b"\0")) != 0
    broken = bytes([*word.quote[:-1], word.quote[-1] ^ 1])
    (tmp_path / "quote").write_bytes(broken)
    assert checkquote(tmp_path, right) != 0


def checkquote(folder: Path, nonce: bytes) -> int:
    line = ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256",
            "-q", nonce.hex()]  # fmt: skip
    return subprocess.run(line, cwd=folder, capture_output=True, check=False).returncode


def pem(public: bytes) -> bytes:
    point = tpm.parse_public(public).point
    assert point is not None
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + b"".join(point))
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
