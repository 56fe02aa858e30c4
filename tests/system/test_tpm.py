"""kernel/tpm.py against a TPM, under both ends of the range of bindings; judged by strangers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.tpm import Tpm
from edgewarden.wire import tpm as forms
from edgewarden.wire.tpm import Attribute
from edgewarden.wire.tpm_quote import QUOTE_PCRS
from hw.rigs.tpm import Bus, SoftTpm
from tests.system.tpm_client import DIGEST, QUALIFYING

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd")
ROOT = Path(__file__).resolve().parents[2]
BINDINGS = [
    pytest.param(sys.executable, marks=pytest.mark.needs("tpm2-pytss"), id="newest"),
    pytest.param("/usr/bin/python3", marks=pytest.mark.needs("python3-tpm2-pytss"), id="debian"),
]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory, tpm_bus: Bus) -> Iterator[SoftTpm]:
    with SoftTpm(tmp_path_factory.mktemp("tpm"), tpm_bus) as tpm:
        yield tpm


def client(python: str, tpm: SoftTpm, *words: str) -> dict[str, Any]:
    line = [python, str(ROOT / "tests/system/tpm_client.py"), tpm.tcti, *words]
    environment = {**os.environ, **tpm.bus.environment, "PYTHONPATH": str(ROOT / "agent")}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def point(public: bytes) -> ec.EllipticCurvePublicKey:
    x, y = forms.parse_public(public).point or (b"", b"")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    )
    return numbers.public_key()


def holds(public: bytes, signature: bytes, digest: bytes) -> bool:
    value = forms.parse_signature(signature).value
    r, s = int.from_bytes(value[:32], "big"), int.from_bytes(value[32:], "big")
    try:
        point(public).verify(
            encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256()))
        )
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("python", BINDINGS)
def test_every_answer_is_what_it_says(python: str, tpm: SoftTpm, tmp_path: Path) -> None:
    said = client(python, tpm, "ask")
    blob = {k: bytes.fromhex(v) for k, v in said.items() if isinstance(v, str)}
    tls = blob["public"][2:]
    assert holds(tls, blob["sign"], DIGEST)
    assert not holds(tls, blob["sign"], QUALIFYING)
    quote = forms.parse_quote(blob["quote"])
    assert quote.qualifying == QUALIFYING
    assert quote.pcrs == ((forms.Alg.SHA256, QUOTE_PCRS),)
    assert quote.pcr_digest == forms.pcr_digest(
        {n: bytes.fromhex(v) for n, v in enumerate(said["pcrs"])}
    )
    assert holds(blob["ak"], blob["quote_signature"], hashlib.sha256(blob["quote"]).digest())
    certified = forms.parse_certify(blob["certify"])
    assert certified.name == forms.parse_public(tls).name
    assert holds(blob["ak"], blob["certify_signature"], hashlib.sha256(blob["certify"]).digest())
    assert said["transients"] == 2, "AK and TLS key, nothing left over"
    certificate = x509.load_der_x509_certificate(blob["certificate_rsa"])
    modulus = forms.parse_public(blob["ek_rsa"]).modulus
    assert isinstance(key := certificate.public_key(), rsa.RSAPublicKey)
    assert key.public_numbers().n == int.from_bytes(modulus, "big")
    assert blob["certificate_ecc"] == b"", "this maker certifies no P-256 key"
    assert forms.parse_public(blob["ek_ecc"]).point


@pytest.mark.parametrize("python", BINDINGS)
def test_what_is_asked_for_beside_other_work_is_the_same(python: str, tpm: SoftTpm) -> None:
    said = client(python, tpm, "beside")
    names = ("public", "ak", "quote", "quote_signature", "sign")
    public, ak, attest, attested, signed = (bytes.fromhex(said[name]) for name in names)
    quote = forms.parse_quote(attest)
    assert quote.qualifying == QUALIFYING
    assert quote.pcrs == ((forms.Alg.SHA256, QUOTE_PCRS),)
    assert holds(public[2:], signed, DIGEST)
    assert holds(ak, attested, hashlib.sha256(attest).digest())
    assert said["taken"] > 3, "work was done while the TPM did"
    assert "a piece that fails" in said["failed"]
    assert said["transients"] == 2, "a failed piece left no command without its answer"


@pytest.mark.parametrize("python", BINDINGS)
def test_the_attestation_key_signs_nothing_from_outside(python: str, tpm: SoftTpm) -> None:
    said = client(python, tpm, "ask")
    ak = forms.parse_public(bytes.fromhex(said["ak"]))
    bound = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
    assert ak.attributes & bound == bound
    assert Attribute.RESTRICTED in ak.attributes
    assert Attribute.SIGN in ak.attributes
    assert Attribute.DECRYPT not in ak.attributes


@pytest.mark.needs("tpm2-pytss")
def test_counts_are_not_obfuscated_and_keys_come_back_after_a_reboot(
    tmp_path: Path, tpm_bus: Bus
) -> None:
    with SoftTpm(tmp_path, tpm_bus) as own, Tpm(own.tcti) as tpm:
        key, second = tpm.make_key(), tpm.make_key()
        ak = tpm.ak_public()
        before = forms.parse_quote(tpm.quote(QUALIFYING, range(11))[0]).clock
        assert before.reset_count < 10, "G6: under the owner hierarchy this is a large number"
        own.reboot()
        # The same object goes on: its connection, its AK and its TLS key are made anew.
        assert holds(key[0][2:], tpm.sign(key, DIGEST), DIGEST)
        after = forms.parse_quote(tpm.quote(QUALIFYING, range(11))[0]).clock
        assert after.reset_count == before.reset_count + 1
        assert holds(second[0][2:], tpm.sign(second, DIGEST), DIGEST)
        assert not holds(second[0][2:], tpm.sign(key, DIGEST), DIGEST), "each signs with its own"
        assert tpm.ak_public() == ak, "the attestation key is the TPM's, whatever the card"
        own.restart_manager()
        assert holds(key[0][2:], tpm.sign(key, DIGEST), DIGEST)
        assert tpm.transients() <= 2


@pytest.mark.needs("tpm2-pytss")
def test_a_hundred_failures_leave_no_handle(tpm: SoftTpm) -> None:
    with Tpm(tpm.tcti) as opened:
        opened.check_key(opened.make_key())
        opened.ak_public()
        loaded = opened.transients()
        for _ in range(100):
            with pytest.raises(EdgewardenError) as caught:
                opened.activate("ecc", b"\x00\x24" + bytes(36), b"\x00\x00")
            assert caught.value.code in ("EW-ID-030", "EW-ID-031")
        assert opened.transients() <= 2
        assert loaded <= 2


@pytest.mark.parametrize("python", BINDINGS)
def test_a_key_of_another_tpm_is_refused_by_name(
    python: str, tpm: SoftTpm, tmp_path: Path, tpm_bus: Bus
) -> None:
    said = client(python, tpm, "ask")
    with SoftTpm(tmp_path, tpm_bus, tpm.maker) as other:
        refused = client(python, other, "ask", said["public"], said["private"])
    assert refused["code"] == "EW-ID-031"
    assert "another TPM" in refused["text"]
    assert client(python, tpm, "ask", said["public"], said["private"])["ak"] == said["ak"]


@pytest.mark.parametrize("python", BINDINGS)
def test_no_tpm_is_said_in_one_line(python: str, tpm: SoftTpm) -> None:
    nowhere = type("Nowhere", (), {"tcti": "swtpm:host=127.0.0.1,port=1", "bus": tpm.bus})
    said = client(python, nowhere, "ask")  # type: ignore[arg-type]
    assert said["code"] == "EW-ID-030"
    assert "\n" not in said["text"]


@pytest.mark.needs("tpm2-pytss", "tpm2-tools")
def test_a_strangers_tool_accepts_the_quote(tpm: SoftTpm, tmp_path: Path) -> None:
    with Tpm(tpm.tcti) as opened:
        attest, signature, _ = opened.quote(QUALIFYING, range(11))
        ak = opened.ak_public()
    files = {"attest": attest, "signature": signature, "ak": _pem(ak)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    line = [
        "tpm2_checkquote", "-u", "ak", "-m", "attest", "-s", "signature",
        "-g", "sha256", "-q", QUALIFYING.hex(),
    ]  # fmt: skip
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line[line.index("-q") + 1] = DIGEST.hex()
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def _pem(public: bytes) -> bytes:
    return point(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
