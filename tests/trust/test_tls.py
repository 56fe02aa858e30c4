"""TLS contexts: only our root, only the right name, and our own certificate shown."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewarden.enrol.folder import store
from edgewarden.errors import TrustFault
from edgewarden.trust.identity import Identity, load
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.tls import client_context, pinned_context
from edgewarden_fleet.ca import certificates
from tests.enrol.service import DEVICE, HOST, Fleet, new_key
from tests.fakes.pki import lenient


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def enrolled(fleet: Fleet, tmp_path: Path) -> Identity:
    signer = FileSigner.generate()
    leaf = fleet.leaf(signer.private_key().public_key())
    chain = certificates.pem(leaf) + certificates.pem(fleet.issuing.certificate)
    fields: dict[str, object] = {
        "device": DEVICE, "tenant": "main", "grade": "G0", "serial": "1",
        "not_after_utc": "2026-12-31T00:00:00Z", "broker": {"host": HOST, "port": 1},
        "verifier_key": "a0",
    }  # fmt: skip
    return store(tmp_path / "state", signer, fields, chain, fleet.ca_pem())


def server_context(
    fleet: Fleet, folder: Path, host: str = HOST, trusts: Fleet | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*fleet.server_files(folder, host))
    if trusts is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=trusts.ca_pem())
    return context


def shake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = HOST) -> str:
    """A real handshake on a socket pair: the client's name as the server saw it.

    Raises what the client raised.
    """
    ours, theirs = socket.socketpair()
    seen: dict[str, str] = {}

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                peer = wrapped.getpeercert() or {}
                parts = dict(pair for part in peer.get("subject", ()) for pair in part)
                seen["name"] = str(parts.get("commonName", ""))
                seen["version"] = str(wrapped.version())
                wrapped.sendall(b"!")
        except OSError as fault:
            seen["fault"] = str(fault)
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ours.settimeout(60)
        with client.wrap_socket(ours, server_hostname=host) as wrapped:
            assert wrapped.recv(1) == b"!"
    finally:
        ours.close()
        thread.join()
    return seen["name"]


def test_both_sides_prove_who_they_are(fleet: Fleet, enrolled: Identity, tmp_path: Path) -> None:
    server = server_context(fleet, tmp_path, trusts=fleet)
    assert shake(client_context(enrolled), server) == DEVICE


def test_without_our_certificate_the_server_does_not_talk(fleet: Fleet, tmp_path: Path) -> None:
    server = server_context(fleet, tmp_path, trusts=fleet)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake(pinned_context(fleet.ca_pem()), server)


def test_a_foreign_root_is_refused(enrolled: Identity, tmp_path: Path) -> None:
    impostor = server_context(Fleet(), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        shake(client_context(enrolled), impostor)


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_another_host_name_is_refused(
    fleet: Fleet, enrolled: Identity, tmp_path: Path, host: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(client_context(enrolled), server_context(fleet, tmp_path, host))


def test_a_gateways_certificate_is_no_servers(fleet: Fleet, enrolled: Identity) -> None:
    """A stolen gateway key cannot stand in for the broker, whatever its certificate's name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(enrolled.cert_path, enrolled.key_path)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|unsuitable|mismatch"):
        shake(client_context(enrolled), server)


def test_an_expired_server_is_refused(
    fleet: Fleet, enrolled: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = time.time() - 4 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: long_ago)
    server = server_context(fleet, tmp_path)
    monkeypatch.undo()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(client_context(enrolled), server)


def test_tls_1_1_is_not_spoken(enrolled: Identity) -> None:
    context = client_context(enrolled)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert keeps_to_aead(context)


def keeps_to_aead(context: ssl.SSLContext) -> bool:
    """Whether every suite has forward secrecy and is authenticated encryption."""
    names = [c["name"] for c in context.get_ciphers()]
    aead = all("GCM" in n or "CHACHA20" in n for n in names)
    return aead and all(n.startswith(("ECDHE-", "TLS_")) for n in names)


def test_a_certificate_that_only_a_lenient_verifier_takes_is_refused(
    fleet: Fleet, enrolled: Identity, tmp_path: Path
) -> None:
    key = new_key()
    whole = certificates.make_server(fleet.issuing, key.public_key(), [HOST], time.time())
    leaf = lenient(whole, fleet.issuing.key)
    chain, path = tmp_path / "lenient.pem", tmp_path / "lenient.key"
    chain.write_text(certificates.pem(leaf) + certificates.pem(fleet.issuing.certificate))
    path.write_bytes(FileSigner(key).to_pem())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, path)
    plain = ssl.create_default_context(cadata=fleet.ca_pem())
    plain.verify_flags &= ~ssl.VERIFY_X509_STRICT
    assert shake(plain, server) == ""
    with pytest.raises(ssl.SSLCertVerificationError, match="Authority Key Identifier"):
        shake(client_context(enrolled), server)


def test_only_the_pinned_root_is_trusted(fleet: Fleet) -> None:
    assert pinned_context(fleet.ca_pem()).cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize("text", ["", "nothing", "ä", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_garbled_root_is_a_trust_fault(text: str) -> None:
    with pytest.raises(TrustFault) as caught:
        pinned_context(text)
    assert caught.value.code == "EW-ID-005"


DAMAGE: dict[str, Callable[[Identity], object]] = {
    "no root": lambda i: i.ca_path.unlink(),
    "root not text": lambda i: i.ca_path.write_bytes(b"\xff\xfe"),
    "root empty": lambda i: i.ca_path.write_text(""),
    "no certificate": lambda i: i.cert_path.unlink(),
    "certificate cut": lambda i: os.truncate(i.cert_path, 100),
    "another key": lambda i: i.key_path.write_bytes(FileSigner.generate().to_pem()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_that_does_not_fit_is_a_trust_fault(enrolled: Identity, what: str) -> None:
    DAMAGE[what](enrolled)
    with pytest.raises(TrustFault) as caught:
        client_context(enrolled)
    assert caught.value.code == "EW-ID-005"


def test_the_identity_on_disk_is_what_was_stored(enrolled: Identity) -> None:
    assert load(enrolled.folder.parent.parent) == enrolled
    assert json.loads((enrolled.folder / "identity.json").read_text())["device"] == DEVICE
