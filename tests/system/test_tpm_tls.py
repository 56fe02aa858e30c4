"""A key in a TPM under OpenSSL, Python's ssl and paho, against servers that know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from hw.rigs.tpm import Bus, SoftTpm
from tests.broker import Broker, Pki, Subscriber
from tests.system.tpm_tls import client, server
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss", "tpm2-openssl")
VERSIONS = [("TLSv1_3", "TLSv1.3"), ("TLSv1_2", "TLSv1.2")]
WAYS = {"asked": False, "provider": True}
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
NAME = "gw-tpm"


@dataclass
class Bench:
    """A TPM with a key of ours, and certificates."""

    tpm: SoftTpm
    pki: Pki
    cert: Path
    key: Path

    def ask(self, **more: Any) -> dict[str, Any]:
        """What the client of tpm_tls.py says, using the TPM key."""
        asked = {"tcti": self.tpm.tcti, "cert": str(self.cert), "key": str(self.key),
                 "ca": str(self.pki.ca)}  # fmt: skip
        return client({**asked, **more}, self.tpm.bus.environment)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tpm_bus: Bus) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("tls")
    with SoftTpm(folder / "tpm", tpm_bus) as soft:
        pki = Pki(folder / "pki")
        with Tpm(soft.tcti) as tpm:
            made = TpmKey.generate(tpm)
            key: ec.EllipticCurvePrivateKey = made.private_key()
            cert, path = pki.issue(NAME, key=key.public_key())
            path.write_bytes(made.to_pem())
        yield Bench(soft, pki, cert, path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("version", "spoken"), VERSIONS)
def test_a_server_sees_the_tpms_certificate(
    bench: Bench, version: str, spoken: str, way: str
) -> None:
    with server(*bench.pki.issue("server", server=True), bench.pki.ca) as port:
        said = bench.ask(port=port, version=version, count=5, provider=WAYS[way])
    assert said["version"] == spoken
    assert len(said["times_s"]) == 5
    assert said["recipe"].startswith("tpm2-openssl " if WAYS[way] else "OpenSSL 3")


def test_a_server_with_a_large_rsa_key_is_no_matter_of_the_tpms(
    bench: Bench, tmp_path: Path
) -> None:
    """A TPM holds no RSA above 2048 bits, and tpm2-openssl 1.1.1 has it check the server's."""
    ca, cert, path = rsa_server(tmp_path)
    with server(cert, path, bench.pki.ca) as port:
        assert len(bench.ask(port=port, count=2, ca=str(ca))["times_s"]) == 2


def rsa_server(folder: Path) -> tuple[Path, Path, Path]:
    """Root, server's certificate and key: RSA-4096, one key for both."""
    key = rsa.generate_private_key(65537, 4096)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    paths = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    for path, name, ca in ((paths[0], "root", True), (paths[1], "localhost", False)):
        usage = {name: name in ("digital_signature", "key_cert_sign") for name in USAGES}
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(ski, False)
            .add_extension(aki, False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        )
        if ca:
            made = made.add_extension(x509.KeyUsage(**usage), True)
        path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths[2].write_bytes(plain)
    return paths


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("version", "spoken"), VERSIONS)
def test_paho_publishes_to_a_real_broker(
    bench: Bench, tmp_path: Path, version: str, spoken: str, way: str
) -> None:
    with Broker(tmp_path, bench.pki) as broker:
        context = bench.pki.client_context("fleet")
        with Subscriber(broker.port, context, ["ew/1/main/+/r/#"]) as heard:
            asked = {"version": version, "publish": NAME, "provider": WAYS[way]}
            assert bench.ask(port=broker.port, **asked)["acked"]
            wait_until(lambda: heard.payloads("r/bulk") == [b"from a TPM"])
        assert broker.said(f"u'{NAME}'"), "the user's name is the certificate's"


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_key_file_is_of_no_use(
    bench: Bench, tmp_path: Path, tpm_bus: Bus, way: str
) -> None:
    with (
        SoftTpm(tmp_path, tpm_bus, bench.tpm.maker) as other,
        server(*bench.pki.issue("server", server=True), bench.pki.ca) as port,
    ):
        assert bench.ask(port=port, provider=WAYS[way])["times_s"]
        with pytest.raises(RuntimeError, match="SSL" if WAYS[way] else "another TPM"):
            bench.ask(port=port, tcti=other.tcti, provider=WAYS[way])


def test_without_its_provider_openssl_reads_no_such_key(bench: Bench) -> None:
    with (
        server(*bench.pki.issue("server", server=True), bench.pki.ca) as port,
        pytest.raises(RuntimeError, match="SSL"),
    ):
        bench.ask(port=port, tcti=None)
