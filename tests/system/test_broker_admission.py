"""Row A1 of attestation: whom a real Mosquitto lets in that has the configuration `init` wrote.

A client is let in when it has the broker's answer to its CONNECT: in TLS 1.3 a handshake comes to
its end for the client before the broker has looked at its certificate.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.trust.keys import FileSigner
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.folder import FleetFolder
from tests.fleet.makers import TENANT, authority, new_key
from tests.fleet.standing import RealBoard, Standing, client_of, standing_fleet
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")
DEVICE = "gw-admitted"
DAY_S = 86400.0
CONNACK = b"\x20"
Made = tuple[x509.Certificate, x509.Certificate]
"""A leaf and what signed it."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing_fleet(tmp_path_factory.mktemp("admission") / "fleet") as made:
        yield made


def answer(
    standing: Standing, folder: Path, made: Made | None, key: object, ciphers: str = ""
) -> bytes:
    """What the broker answers to a CONNECT under this certificate; b"" when it ends it.

    Args:
        ciphers: speak TLS 1.2 and offer these alone.
    """
    context = ssl.create_default_context(cafile=FleetFolder(standing.folder).path / "ca/root.pem")
    context.check_hostname = False
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    if made is not None:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        (folder / "cert.pem").write_text("".join(map(certificates.pem, made)))
        (folder / "key.pem").write_bytes(FileSigner(key).to_pem())
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    name = b"gw-raw"
    body = b"\0\4MQTT\4\2\0\x1e" + len(name).to_bytes(2, "big") + name
    with (
        socket.create_connection(("127.0.0.1", standing.broker_port), 60) as plain,
        context.wrap_socket(plain) as secure,
    ):
        secure.settimeout(60)
        try:
            secure.sendall(bytes([0x10, len(body)]) + body)
            return secure.recv(64)
        except (ssl.SSLError, ConnectionError):
            return b""


def ours(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    leaf = certificates.make_gateway(issuing, key, TENANT, DEVICE, time.time())
    return leaf, issuing.certificate


def ended(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    at = issuing.certificate.not_valid_before_utc.timestamp() - 40 * DAY_S
    return certificates.make_gateway(issuing, key, TENANT, DEVICE, at), issuing.certificate


def of_tomorrow(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    at = time.time() + DAY_S
    return certificates.make_gateway(issuing, key, TENANT, DEVICE, at), issuing.certificate


def for_servers(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    return certificates.make_server(issuing, key, [DEVICE], time.time()), issuing.certificate


def foreign(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    _, stranger = authority(time.time())
    return ours(stranger, key)


def in_our_issuers_name(issuing: Authority, key: ec.EllipticCurvePublicKey) -> Made:
    """The right names all along, and another key under them."""
    return ours(Authority(issuing.certificate, new_key()), key)


def test_a_certificate_of_its_own_gateway_is_let_in(standing: Standing, tmp_path: Path) -> None:
    key = new_key()
    issuing = FleetFolder(standing.folder).issuing()
    assert answer(standing, tmp_path, ours(issuing, key.public_key()), key)[:1] == CONNACK


@pytest.mark.parametrize("make", [foreign, in_our_issuers_name, ended, of_tomorrow, for_servers])
def test_any_other_certificate_gets_no_answer(
    standing: Standing, tmp_path: Path, make: Callable[[Authority, ec.EllipticCurvePublicKey], Made]
) -> None:
    key = new_key()
    made = make(FleetFolder(standing.folder).issuing(), key.public_key())
    assert answer(standing, tmp_path, made, key) == b""


def test_without_a_certificate_there_is_no_answer(standing: Standing, tmp_path: Path) -> None:
    assert answer(standing, tmp_path, None, None) == b""


def test_tls_1_2_is_spoken_with_aead_alone(standing: Standing, tmp_path: Path) -> None:
    key = new_key()
    made = ours(FleetFolder(standing.folder).issuing(), key.public_key())
    aead, cbc = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"
    assert answer(standing, tmp_path, made, key, aead)[:1] == CONNACK
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        answer(standing, tmp_path, made, key, cbc)


def test_the_brokers_name_for_a_gateway_is_its_certificates(standing: Standing) -> None:
    """Whatever the client calls itself: access goes by the certificate."""
    board = RealBoard(standing.enrol(DEVICE))
    client = client_of(standing, board, "something-else")
    try:
        log = Path(standing.log.name)
        wait_until(lambda: f"u'{DEVICE}'" in log.read_text(), 60)
        assert client.publish(board.topic("r", "audit"), b"x") < 0x80
        assert client.publish(f"ew/1/{TENANT}/gw-other/r/audit", b"x") >= 0x80
    finally:
        client.close()
