"""Certificates held to another now than the system's: real handshakes on a socket pair."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from edgewarden.kernel import ffi, openssl
from edgewarden.kernel.openssl import check_certificates_at
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.tls import pinned_context, untimed_context
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from tests.fleet.makers import new_key

DAY = 86_400
THEN = 1_600_000_000
"""September 2020: what the system's clock is not."""


class Server:
    """A TLS server whose certificates were made at THEN."""

    def __init__(self, folder: Path) -> None:
        keys = [new_key() for _ in range(3)]
        root = Authority(certificates.make_root(keys[0], "main", THEN), keys[0])
        issuing = Authority(certificates.make_issuing(root, keys[1], "main", THEN), keys[1])
        server = certificates.make_server(issuing, keys[2].public_key(), ["gw.test"], THEN)
        self.ends = int(server.not_valid_after_utc.timestamp())
        self.root_pem = certificates.pem(root.certificate)
        chain = certificates.pem(server) + certificates.pem(issuing.certificate)
        (folder / "server.pem").write_text(chain)
        (folder / "key.pem").write_bytes(FileSigner(keys[2]).to_pem())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem", folder / "key.pem")

    def meet(self, client: ssl.SSLContext, name: str = "gw.test") -> str:
        """ "" for a handshake that holds, else why it does not."""
        ours, theirs = socket.socketpair()

        def serve() -> None:
            try:
                with self.context.wrap_socket(theirs, server_side=True):
                    pass
            except OSError:
                theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with client.wrap_socket(ours, server_hostname=name):
                return ""
        except ssl.SSLCertVerificationError as fault:
            return fault.verify_message
        finally:
            ours.close()
            thread.join(60)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_the_systems_clock_by_default(server: Server) -> None:
    assert time.time() > server.ends
    assert server.meet(pinned_context(server.root_pem)) == "certificate has expired"


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (THEN + DAY, ""), (THEN - DAY, "certificate is not yet valid"),
        (0, "certificate is not yet valid"), (THEN + 10 * 365 * DAY, "certificate has expired"),
    ],
)  # fmt: skip
def test_dates_are_held_to_the_time_that_is_given(server: Server, at: int, why: str) -> None:
    assert server.meet(pinned_context(server.root_pem, at)) == why


def test_chain_and_name_are_checked_at_any_time(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Server(tmp_path / "other")
    assert "certificate" in other.meet(pinned_context(server.root_pem, THEN + DAY))
    why = server.meet(pinned_context(server.root_pem, THEN + DAY), "other.test")
    assert "other.test" in why


def test_where_dates_wait_nothing_else_does(server: Server, tmp_path: Path) -> None:
    assert server.meet(untimed_context(server.root_pem)) == ""
    (tmp_path / "other").mkdir()
    assert Server(tmp_path / "other").meet(untimed_context(server.root_pem)) != ""


def test_telling_the_time_leaves_nothing_for_the_collector_of_cycles() -> None:
    """A library that is opened anew brings classes of its own: each connection asks for this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    check_certificates_at(context, THEN)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(100):
            check_certificates_at(context, THEN)
        assert len(gc.get_objects()) - before < 100
    finally:
        gc.enable()


def test_after_the_start_no_name_is_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(library: ffi.CDLL, name: str) -> object:
        raise AssertionError(f"{name} is searched for late")

    openssl.libcrypto.cache_clear()
    openssl.libssl.cache_clear()
    openssl.look_up()
    monkeypatch.setattr(ffi.CDLL, "__getattr__", searched)
    check_certificates_at(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), THEN)


def test_a_python_without_our_openssl_starts_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def has_none() -> ffi.CDLL:
        raise openssl.no_tls_key("this Python has none")

    monkeypatch.setattr(openssl, "libcrypto", has_none)
    openssl.look_up()
