"""From a name to a TLS connection: every failure has its name, and no context slips through
unverifying.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.errors import OurFault, PeerUnavailable, TrustFault
from edgewarden.link import dial as dial_module
from edgewarden.link.dial import DIRECT, Route, alert_name, dial, probe
from edgewarden.link.tunnel import Proxy
from edgewarden.ports import Instant
from hw.rigs.ports import free_port
from tests.broker import HOST, Pki
from tests.fakes.clock import FakeClock


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a limit but the tests that set one."""
    monkeypatch.setattr(dial_module, "DEADLINE_S", 60.0)
    monkeypatch.setattr(dial_module, "PROBE_READ_S", 60.0)


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """One listener whose connections each are given to serve, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(60)
                        serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)


def tls_server(pki: Pki, *, ca: Path | None = None, days: float = 30) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pki.issue("server", server=True, days=days))
    context.load_verify_locations(ca or pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def answering(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, True) as tls:
            tls.recv(1)

    return serve


def listening(connection: socket.socket) -> None:
    """Read until the other side gives up; say nothing."""
    while connection.recv(100_000):
        pass


def test_a_good_broker_is_reached(pki: Pki) -> None:
    with serving(answering(tls_server(pki))) as port:
        context = pki.client_context("gw-demo")
        with dial(HOST, port, context, FakeClock()) as connection:
            assert connection.version() == "TLSv1.3"
            assert connection.gettimeout() is None


@pytest.mark.parametrize("weakness", ["no certificate", "no name", "old tls"])
def test_a_context_that_does_not_verify_is_a_defect(pki: Pki, weakness: str) -> None:
    context = pki.client_context("gw-demo")
    if weakness != "old tls":
        context.check_hostname = False
    else:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if weakness == "no certificate":
        context.verify_mode = ssl.CERT_NONE
    with pytest.raises(OurFault):
        dial(HOST, free_port(), context, FakeClock())


def test_nobody_there(pki: Pki) -> None:
    with pytest.raises(PeerUnavailable) as caught:
        dial(HOST, free_port(), pki.client_context("gw-demo"), FakeClock())
    assert caught.value.code == "EW-NET-004"


def test_a_name_that_does_not_resolve(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dial_module.socket, "getaddrinfo", refuse)
    with pytest.raises(PeerUnavailable) as caught:
        dial("broker.invalid", 1, pki.client_context("gw-demo"), FakeClock())
    assert caught.value.code == "EW-NET-003"


@pytest.mark.parametrize("name", ["broker..example", "a" * 70 + ".example"])
def test_a_name_that_is_none_is_no_defect(pki: Pki, name: str) -> None:
    """The settings take it, the resolver's codec does not: that ended link, again and again."""
    for way in (DIRECT, Route(Proxy("http", "127.0.0.1", free_port()))):
        with pytest.raises(PeerUnavailable) as caught:
            dial(name, 1, pki.client_context("gw-demo"), FakeClock(), way)
        assert caught.value.code == "EW-NET-003"
        assert "host" in caught.value.next_step


Found = list[tuple[object, ...]]


def addresses(*ports: int) -> Callable[..., Found]:
    """A resolver with one address a port."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    return lambda *_, **__: [(*kind, ("127.0.0.1", port)) for port in ports]


def test_a_name_with_the_dot_at_its_end_is_the_same_broker(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answering(tls_server(pki))) as port:
        monkeypatch.setattr(dial_module.socket, "getaddrinfo", addresses(port))
        dial(f"{HOST}.", port, pki.client_context("gw-demo"), FakeClock()).close()


@pytest.mark.parametrize("first", [listening, lambda c: None, "nobody"])
def test_the_next_address_is_tried_where_the_first_leads_to_no_tls(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, first: Callable[[socket.socket], None] | str
) -> None:
    """An IPv6 that lets a connection through and no certificate after it hid the IPv4."""
    # A silent one costs half of it, twice; the good one has the other half for each step.
    monkeypatch.setattr(dial_module, "DEADLINE_S", 6.0)
    with contextlib.ExitStack() as stack:
        dead = free_port() if isinstance(first, str) else stack.enter_context(serving(first))
        port = stack.enter_context(serving(answering(tls_server(pki))))
        monkeypatch.setattr(dial_module.socket, "getaddrinfo", addresses(dead, port))
        dial(HOST, port, pki.client_context("gw-demo"), FakeClock()).close()
        monkeypatch.setattr(dial_module.socket, "getaddrinfo", addresses(dead, free_port()))
        with pytest.raises(PeerUnavailable) as caught:
            dial(HOST, port, pki.client_context("gw-demo"), FakeClock())
        assert caught.value.code == ("EW-NET-004" if isinstance(first, str) else "EW-NET-005")


def test_a_deadline_that_is_over_before_the_last_address_is_no_defect(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board whose TPM signs for seconds, or that slept: TimeoutError is nobody's to catch."""

    class Hasty(FakeClock):
        def now(self) -> Instant:
            self.advance(6)
            return super().now()

    monkeypatch.setattr(dial_module.socket, "getaddrinfo", addresses(free_port(), free_port()))
    with pytest.raises(PeerUnavailable) as caught:
        dial(HOST, 1, pki.client_context("gw-demo"), Hasty())
    assert caught.value.code == "EW-NET-004"


def test_an_impostor_at_the_first_address_is_not_passed_over(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Pki(tmp_path, "impostor")
    with (
        serving(answering(tls_server(theirs))) as impostor,
        serving(answering(tls_server(pki))) as port,
    ):
        monkeypatch.setattr(dial_module.socket, "getaddrinfo", addresses(impostor, port))
        with pytest.raises(TrustFault):
            dial(HOST, port, pki.client_context("gw-demo"), FakeClock(state="ntp"))


def test_something_else_on_the_port(pki: Pki) -> None:
    page = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with serving(lambda c: c.sendall(page)) as port, pytest.raises(PeerUnavailable) as caught:
        dial(HOST, port, pki.client_context("gw-demo"), FakeClock())
    assert caught.value.code == "EW-NET-005"


def test_a_peer_that_says_nothing_costs_the_deadline(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "DEADLINE_S", 0.3)
    with serving(listening) as port, pytest.raises(PeerUnavailable) as caught:
        dial(HOST, port, pki.client_context("gw-demo"), FakeClock())
    assert caught.value.code == "EW-NET-005"


@pytest.mark.parametrize("impostor", ["another root", "another name", "expired"])
def test_an_impostor_is_a_matter_of_trust(pki: Pki, tmp_path: Path, impostor: str) -> None:
    theirs = Pki(tmp_path, "impostor") if impostor == "another root" else pki
    server = tls_server(theirs, days=-1 if impostor == "expired" else 30)
    host = "127.0.0.1" if impostor == "another name" else HOST
    with serving(answering(server)) as port, pytest.raises(TrustFault) as caught:
        dial(host, port, pki.client_context("gw-demo"), FakeClock(state="ntp"))
    assert caught.value.code == "EW-NET-006"


@pytest.mark.parametrize("code", [9, 10])
@pytest.mark.parametrize(
    ("state", "fault"),
    [("unsynced", PeerUnavailable), ("ntp", TrustFault), ("signed", TrustFault)],
)
def test_dates_that_do_not_hold_pass_only_while_nothing_vouches_for_our_clock(
    pki: Pki, code: int, state: str, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda c: c.close()) as port:
        context = pki.client_context("gw-demo")

        def too_early(*_: object, **__: object) -> None:
            error = ssl.SSLCertVerificationError("certificate is not yet valid")
            error.verify_code, error.verify_message = code, "certificate is not yet valid"
            raise error

        monkeypatch.setattr(dial_module, "_handshake", too_early)
        with pytest.raises(fault):
            dial(HOST, port, context, FakeClock(state=state))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("mine", "alert"), [("expired", "certificate_expired"), ("foreign", "unknown_ca")]
)
def test_a_refused_certificate_is_named_by_the_probe(
    pki: Pki, tmp_path: Path, version: ssl.TLSVersion, mine: str, alert: str
) -> None:
    server = tls_server(pki)
    server.maximum_version = server.minimum_version = version
    if mine == "expired":
        context = pki.client_context("gw-demo", days=-1)
    else:
        context = pki.context(*Pki(tmp_path, "foreign").issue("gw-demo"))
    with serving(answering(server)) as port:
        if version is ssl.TLSVersion.TLSv1_3:
            assert probe(HOST, port, context, FakeClock()) == alert
        else:
            with pytest.raises(TrustFault) as caught:
                probe(HOST, port, context, FakeClock())
            assert caught.value.code == "EW-NET-007"
            assert caught.value.fields["alert"] == alert


def test_the_probe_finds_nothing_where_nothing_is_wrong(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "PROBE_READ_S", 0.2)
    with serving(answering(tls_server(pki))) as port:
        assert probe(HOST, port, pki.client_context("gw-demo"), FakeClock()) is None


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "certificate_expired"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "certificate_required"),
        ("TLSV1_ALERT_UNKNOWN_CA", "unknown_ca"),
        ("WRONG_VERSION_NUMBER", ""),
        (None, ""),
    ],
)
def test_alerts_have_the_names_of_the_rfc(reason: str | None, name: str) -> None:
    fault = ssl.SSLError()
    fault.reason = reason  # type: ignore[assignment]
    assert alert_name(fault) == name
