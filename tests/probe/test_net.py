"""The connection probes against real sockets on loopback: each kind of closed door by its name."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.judge.doctor import State
from edgewarden.judge.doctor_net import judge_mqtt, judge_tls
from edgewarden.probe import net
from edgewarden.trust import identity as store
from edgewarden.trust.tls import client_context
from tests.fakes.pki import Authority, Leaf, store_identity

Serve = Callable[[socket.socket], None]

CONNACK = b"\x20\x03\x00\x00\x00"


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """A TCP server on loopback that hands each client to ``serve``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def loop() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    client, _ = listener.accept()
                    with client:
                        client.settimeout(60)
                        serve(client)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(60)


class World:
    """A fleet's CA, a gateway with an identity, and brokers of any kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()

    def gateway(self, leaf: Leaf | None = None) -> ssl.SSLContext:
        state = self.folder / "state"
        store_identity(state, self.authority.pem, leaf or self.authority.client())
        return client_context(store.load(state))

    def broker(self, leaf: Leaf, trusts: bytes, answer: bytes = CONNACK) -> Serve:
        """A TLS server that asks for a client certificate and answers CONNECT."""
        cert, key = self.folder / "server.pem", self.folder / "server.key"
        cert.write_bytes(leaf.cert_pem)
        key.write_bytes(leaf.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(cadata=trusts.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        self.heard: list[bytes] = []

        def serve(plain: socket.socket) -> None:
            with context.wrap_socket(plain, server_side=True) as peer:
                self.heard.append(peer.recv(4096))
                peer.sendall(answer)
                self.heard.append(peer.recv(4096))

        return serve


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a limit but the tests that set one."""
    for name in ("CONNECT_S", "HANDSHAKE_S", "ANSWER_S"):
        monkeypatch.setattr(net, name, 60.0)


def until_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on a slow machine takes longer for its refusal than the half second it has."""
    monkeypatch.setattr(net, "ALERT_S", 60.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_names() -> None:
    outcome, address = net.resolve("127.0.0.1", 1)
    assert (outcome.name, address) == ("ok", ("127.0.0.1",))
    outcome, address = net.resolve("no-such-name.invalid", 1)
    assert (outcome.name, address) == ("unknown", ())


def test_a_name_that_is_none_is_told_and_not_thrown() -> None:
    outcome, address = net.resolve("broker..example", 1)
    assert (outcome.name, outcome.detail, address) == ("unknown", "it is no host name", ())


def test_a_resolver_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(net, "NAME_S", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: release.wait(60) and [])
    assert net.resolve("slow", 1)[0].name == "timeout"
    release.set()


def test_the_address_that_answers_is_the_one_that_counts() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        address, outcome = net.reach(("127.0.0.3", "127.0.0.2", "127.0.0.4"), port)
        assert (address, outcome.name) == ("127.0.0.2", "ok")
        address, outcome = net.reach(("127.0.0.3", "127.0.0.4"), port)
        assert (address, outcome.name) == ("127.0.0.4", "refused_connection")


def test_tcp() -> None:
    with listening(lambda client: None) as port:
        assert net.tcp("127.0.0.1", port).name == "ok"
    assert net.tcp("127.0.0.1", port).name == "refused_connection"
    no_route = OSError(errno.ENETUNREACH, "Network is unreachable")
    assert net._network_outcome(no_route) == net.Outcome("unreachable", "Network is unreachable")
    assert net._network_outcome(TimeoutError()).name == "timeout"


def test_a_sound_broker(world: World) -> None:
    context = world.gateway()
    serve = world.broker(world.authority.server(), world.authority.pem)
    with listening(serve) as port:
        outcome = net.tls("127.0.0.1", port, "localhost", context)
        assert outcome.name == "ok"
        assert "TLSv1.3" in outcome.detail


def test_a_sound_session(world: World) -> None:
    context = world.gateway()
    serve = world.broker(world.authority.server(), world.authority.pem)
    with listening(serve) as port:
        outcome = net.mqtt("127.0.0.1", port, "localhost", context, "gw-demo")
    assert judge_mqtt(outcome).state is State.OK
    connect, disconnect = world.heard
    assert connect[0] == 0x10
    assert connect[2:9] == b"\x00\x04MQTT\x05"
    assert connect[9] & 0x02 == 0, "a clean start would throw away link's session"
    assert connect.endswith(b"\x00\x07gw-demo")
    assert disconnect == b"\xe0\x00"


@pytest.mark.parametrize("probe", ["tls", "mqtt"])
def test_our_certificate_refused_is_seen_although_tls13_connects(
    world: World, probe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: with TLS 1.3 the handshake succeeds and the alert comes with the next read."""
    until_the_alert(monkeypatch)
    context = world.gateway()
    serve = world.broker(world.authority.server(), Authority("another fleet").pem)
    with listening(serve) as port:
        if probe == "tls":
            rung = judge_tls("h", net.tls("127.0.0.1", port, "localhost", context))
        else:
            rung = judge_mqtt(net.mqtt("127.0.0.1", port, "localhost", context, "gw-demo"))
    assert rung.code == "EW-NET-007", rung


def test_our_expired_certificate_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until_the_alert(monkeypatch)
    context = world.gateway(world.authority.client(ended=True))
    serve = world.broker(world.authority.server(), world.authority.pem)
    with listening(serve) as port:
        rung = judge_tls("h", net.tls("127.0.0.1", port, "localhost", context))
    assert rung.code == "EW-NET-007"
    assert "EXPIRED" in rung.text


@pytest.mark.parametrize(
    ("fault", "word"),
    [("name", "uplink.host"), ("ended", "clock"), ("impostor", "do not retry")],
)
def test_a_broker_that_cannot_prove_itself(world: World, fault: str, word: str) -> None:
    leaf = {
        "name": lambda: world.authority.server("elsewhere"),
        "ended": lambda: world.authority.server(ended=True),
        "impostor": lambda: Authority("impostor").server(),
    }[fault]()
    context = world.gateway()
    with listening(world.broker(leaf, world.authority.pem)) as port:
        rung = judge_tls("h", net.tls("127.0.0.1", port, "localhost", context))
        again = judge_mqtt(net.mqtt("127.0.0.1", port, "localhost", context, "gw-demo"))
    assert rung.code == "EW-NET-006"
    assert word in rung.next_step
    assert again.state is State.FAILING
    assert world.heard == [], "nothing may be sent to an impostor"


def test_something_else_on_the_port(world: World) -> None:
    context = world.gateway()

    def banner(client: socket.socket) -> None:
        client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        client.recv(4096)

    with listening(banner) as port:
        rung = judge_tls("h", net.tls("127.0.0.1", port, "localhost", context))
    assert rung.code == "EW-NET-005"


def test_a_port_that_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "HANDSHAKE_S", 0.1)
    context = world.gateway()
    with listening(lambda client: client.recv(4096) and client.recv(4096)) as port:
        outcome = net.tls("127.0.0.1", port, "localhost", context)
    assert (outcome.name, judge_tls("h", outcome).code) == ("not_tls", "EW-NET-005")


@pytest.mark.parametrize(
    ("answer", "name", "number"),
    [
        (CONNACK, "ok", 0),
        (b"\x20\x03\x01\x00\x00", "ok", 0),
        (b"\x20\x03\x00\x87\x00", "refused", 0x87),
        (b"\x20\x02\x00\x01", "refused", 0x01),
        (b"\x20\x02\x00\x00", "ok", 0),
        (b"HTTP/1.1 400\r\n", "garbage", 0),
        (b"\x20\x00\x00\x00\x00", "garbage", 0),
    ],
)
def test_acknowledgements(answer: bytes, name: str, number: int) -> None:
    outcome = net.connack_outcome(answer)
    assert (outcome.name, outcome.number) == (name, number)


def test_a_broker_that_refuses_the_session(world: World) -> None:
    context = world.gateway()
    serve = world.broker(
        world.authority.server(), world.authority.pem, answer=b"\x20\x03\x00\x85\x00"
    )
    with listening(serve) as port:
        rung = judge_mqtt(net.mqtt("127.0.0.1", port, "localhost", context, "gw-demo"))
    assert rung.code == "EW-NET-008"
    assert "client identifier" in rung.text
