"""A key in a TPM under OpenSSL, Python's ssl and paho, against servers that know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from hw.rigs.tpm import Bus, SoftTpm
from tests.broker import Broker, Pki, Subscriber
from tests.system.tpm_tls import client, server
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss", "tpm2-openssl")
VERSIONS = [("TLSv1_3", "TLSv1.3"), ("TLSv1_2", "TLSv1.2")]
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


@pytest.mark.parametrize(("version", "spoken"), VERSIONS)
def test_a_server_sees_the_tpms_certificate(bench: Bench, version: str, spoken: str) -> None:
    with server(*bench.pki.issue("server", server=True), bench.pki.ca) as port:
        said = bench.ask(port=port, version=version, count=5)
    assert said["version"] == spoken
    assert len(said["times_s"]) == 5
    assert said["recipe"].startswith("tpm2-openssl ")


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(("version", "spoken"), VERSIONS)
def test_paho_publishes_to_a_real_broker(
    bench: Bench, tmp_path: Path, version: str, spoken: str
) -> None:
    with Broker(tmp_path, bench.pki) as broker:
        context = bench.pki.client_context("fleet")
        with Subscriber(broker.port, context, ["ew/1/main/+/r/#"]) as heard:
            assert bench.ask(port=broker.port, version=version, publish=NAME)["acked"]
            wait_until(lambda: heard.payloads("r/bulk") == [b"from a TPM"])
        assert broker.said(f"u'{NAME}'"), "the user's name is the certificate's"


def test_a_copied_key_file_is_of_no_use(bench: Bench, tmp_path: Path, tpm_bus: Bus) -> None:
    with (
        SoftTpm(tmp_path, tpm_bus, bench.tpm.maker) as other,
        server(*bench.pki.issue("server", server=True), bench.pki.ca) as port,
    ):
        assert bench.ask(port=port)["times_s"]
        with pytest.raises(RuntimeError, match="SSL"):
            bench.ask(port=port, tcti=other.tcti)


def test_without_its_provider_openssl_reads_no_such_key(bench: Bench) -> None:
    with (
        server(*bench.pki.issue("server", server=True), bench.pki.ca) as port,
        pytest.raises(RuntimeError, match="SSL"),
    ):
        bench.ask(port=port, tcti=None)
