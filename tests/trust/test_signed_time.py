"""Signed time: what is believed of an answer, and the one place where dates wait."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from edgewarden.daemon.clock import SystemClock, SystemRandomness
from edgewarden.errors import PeerUnavailable, WireRefusal
from edgewarden.trust import signed_time
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.tls import untimed_context
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.timing import Moment, SignedTime, encode_time
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.desk import timing
from tests.fleet.makers import new_key

VERIFIER = FileSigner.generate()
NONCE = b"n" * 32
UTC_MS = 1_800_000_000_123
S = 10**9
Answering = Callable[[Callable[[bytes], bytes], bool], int]
PACKAGE = Path(signed_time.__file__).parents[1]


def identity(folder: Path, root_pem: str = "") -> Identity:
    (folder / "ca.pem").write_text(root_pem)
    return Identity(
        folder, "gw-demo", "main", "G0", "1", "2030-01-01T00:00:00Z", "localhost", 1,
        VERIFIER.public_key(),
    )  # fmt: skip


def answer(time: SignedTime, signer: FileSigner = VERIFIER,
           kind: ContentType = ContentType.TIME) -> bytes:  # fmt: skip
    return cose.seal(encode_time(time), kind, signer.kid, signer.sign)


RIGHT = SignedTime("main", NONCE, UTC_MS)


def test_a_signed_answer_is_the_middle_of_its_way(tmp_path: Path) -> None:
    moment = signed_time.believe(identity(tmp_path), NONCE, answer(RIGHT), 100 * S, 101 * S)
    assert moment.boot_ns == 100 * S + S // 2
    assert moment.utc_ns == UTC_MS * 10**6
    assert moment.uncertainty_ms == 501


@pytest.mark.parametrize(
    ("data", "took_ns", "name"),
    [
        (answer(replace(RIGHT, nonce=b"o" * 32)), S, "stale_nonce"),
        (answer(replace(RIGHT, tenant="other")), S, "wrong_tenant"),
        (answer(RIGHT, FileSigner.generate()), S, "unknown_key"),
        (answer(RIGHT, kind=ContentType.RESULT), S, "wrong_type"),
        (answer(RIGHT)[:-1] + b"\0", S, "bad_signature"),
        (answer(RIGHT), 21 * S, "too_slow"),
        (answer(RIGHT), -1, "too_slow"),
        (b"", S, "truncated"),
        (bytes(1025), S, "too_long"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(
    tmp_path: Path, data: bytes, took_ns: int, name: str
) -> None:
    with pytest.raises(WireRefusal) as caught:
        signed_time.believe(identity(tmp_path), NONCE, data, 100 * S, 100 * S + took_ns)
    assert caught.value.name == name


def test_a_signature_under_the_right_kid_must_hold(tmp_path: Path) -> None:
    other = FileSigner.generate()
    data = cose.seal(encode_time(RIGHT), ContentType.TIME, VERIFIER.kid, other.sign)
    with pytest.raises(WireRefusal) as caught:
        signed_time.believe(identity(tmp_path), NONCE, data, 0, S)
    assert caught.value.name == "bad_signature"


# --- over the wire: a server whose certificate has ended, and a gateway that asks it --------------


class Served:
    """The fleet's own endpoint, in a thread, with a certificate of ten years ago."""

    def __init__(self, folder: Path) -> None:
        then = 1_400_000_000
        keys = [new_key() for _ in range(3)]
        root = Authority(certificates.make_root(keys[0], "main", then), keys[0])
        issuing = Authority(certificates.make_issuing(root, keys[1], "main", then), keys[1])
        server = certificates.make_server(issuing, keys[2].public_key(), ["localhost"], then)
        chain = certificates.pem(server) + certificates.pem(issuing.certificate)
        (folder / "server.pem").write_text(chain)
        (folder / "key.pem").write_bytes(FileSigner(keys[2]).to_pem())
        self.root_pem = certificates.pem(root.certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem", folder / "key.pem")
        self.loop = asyncio.new_event_loop()
        self.runner = self.loop.run_until_complete(self._start())
        self.port = self.runner.addresses[0][1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        timing.add_time(app, VERIFIER, "main", lambda: UTC_MS / 1000)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.context).start()
        return runner

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    try:
        yield server
    finally:
        server.close()


def fetch(who: Identity, port: int) -> Moment:
    return signed_time.fetch(who, "localhost", port, SystemClock(), SystemRandomness())


def test_a_certificate_that_has_ended_brings_the_time(tmp_path: Path, served: Served) -> None:
    began_ns = time.monotonic_ns()
    moment = fetch(identity(tmp_path, served.root_pem), served.port)
    took_ms = (time.monotonic_ns() - began_ns) / 10**6
    assert abs(moment.utc_ns - UTC_MS * 10**6) < 10**6
    assert moment.uncertainty_ms <= took_ms / 2 + 2, "half of the way there and back"


def test_another_root_brings_none(tmp_path: Path, served: Served) -> None:
    stranger = Authority(certificates.make_root(key := new_key(), "main", 1_400_000_000), key)
    with pytest.raises(PeerUnavailable) as caught:
        fetch(identity(tmp_path, certificates.pem(stranger.certificate)), served.port)
    assert caught.value.code == "EW-HOST-022"


def test_nobody_there_brings_none(tmp_path: Path, served: Served) -> None:
    with pytest.raises(PeerUnavailable):
        fetch(identity(tmp_path, served.root_pem), 1)


@pytest.mark.parametrize("length", [0, 31, 33, 5000])
def test_the_service_takes_a_nonce_and_nothing_else(
    tmp_path: Path, served: Served, length: int
) -> None:
    context = untimed_context(served.root_pem)
    connection = http.client.HTTPSConnection("localhost", served.port, timeout=60, context=context)
    connection.request("POST", "/v1/time", bytes(length))
    assert connection.getresponse().status == 400
    connection.close()


@pytest.fixture
def answering(served: Served) -> Iterator[Answering]:
    """A TLS server for one question: what it says to a nonce, and whether it hangs up then."""
    with contextlib.ExitStack() as stack:

        def start(says: Callable[[bytes], bytes], hangs_up: bool) -> int:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            over = threading.Event()

            def serve() -> None:
                with contextlib.suppress(OSError):  # whoever waited or heard too much hangs up
                    plain, _ = listening.accept()
                    with served.context.wrap_socket(plain, server_side=True) as connection:
                        asked = b""
                        while len(asked.partition(b"\r\n\r\n")[2]) < len(NONCE):
                            if not (piece := connection.recv(4096)):
                                return
                            asked += piece
                        assert asked.startswith(b"POST /v1/time HTTP/1.0\r\nHost: localhost:")
                        connection.sendall(says(asked[-len(NONCE) :]))
                        if not hangs_up:
                            over.wait(60)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, 60)
            stack.callback(over.set)
            stack.callback(listening.shutdown, socket.SHUT_RDWR)  # who came late finds nobody
            port: int = listening.getsockname()[1]
            return port

        yield start


def said(nonce: bytes) -> bytes:
    return answer(replace(RIGHT, nonce=nonce))


@pytest.mark.parametrize(
    ("head", "hangs_up"),
    [("HTTP/1.0 200 OK\r\n", True), ("HTTP/1.1 200 \r\ncontent-length: {}\r\nX: y\r\n", False)],
)
def test_an_answer_ends_with_its_length_or_with_the_connection(
    tmp_path: Path, served: Served, answering: Answering, head: str, hangs_up: bool
) -> None:
    port = answering(lambda n: head.format(len(said(n))).encode() + b"\r\n" + said(n), hangs_up)
    moment = fetch(identity(tmp_path, served.root_pem), port)
    assert abs(moment.utc_ns - UTC_MS * 10**6) < 10**6


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "speaks no HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nno end of the head", "speaks no HTTP"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answers 404"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 4000, "speaks no HTTP"),
    ],
)
def test_what_is_no_answer_brings_none(
    tmp_path: Path, served: Served, answering: Answering, says: bytes, why: str
) -> None:
    with pytest.raises(PeerUnavailable, match=why) as caught:
        fetch(identity(tmp_path, served.root_pem), answering(lambda _: says, True))
    assert caught.value.code == "EW-HOST-022"


def test_a_body_without_end_is_read_to_a_limit(
    tmp_path: Path, served: Served, answering: Answering
) -> None:
    port = answering(lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000), True)
    with pytest.raises(WireRefusal) as caught:
        fetch(identity(tmp_path, served.root_pem), port)
    assert caught.value.name == "too_long"


def test_one_address_asks_so_often_and_no_oftener(tmp_path: Path, served: Served) -> None:
    who = identity(tmp_path, served.root_pem)
    answered, began_mono = 0, time.monotonic()

    def ask_on() -> None:
        nonlocal answered
        while answered < 10 * timing.PER_MINUTE:
            fetch(who, served.port)
            answered += 1

    with pytest.raises(PeerUnavailable, match="429"):
        ask_on()
    since = (time.monotonic() - began_mono) * timing.PER_MINUTE / 60  # this machine may be slow
    assert timing.PER_MINUTE <= answered <= timing.PER_MINUTE + since + 1


def test_dates_wait_in_one_place_only() -> None:
    """The flag stands in one function, and one module calls that."""
    users: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for word in ("untimed_context", "NO_CHECK_TIME", "0x200000"):
            if word in ast.dump(ast.parse(text)) or word in text:
                users.setdefault(word, set()).add(str(path.relative_to(PACKAGE)))
    assert users["untimed_context"] == {"trust/tls.py", "trust/signed_time.py"}
    assert users["NO_CHECK_TIME"] == users["0x200000"] == {"trust/tls.py"}
    flags = [p for p in PACKAGE.rglob("*.py") if "verify_flags" in p.read_text()]
    assert {str(p.relative_to(PACKAGE)) for p in flags} <= {"trust/tls.py", "kernel/openssl.py"}
