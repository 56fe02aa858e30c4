"""CAs of others that lie, drip, send elsewhere or send garbage; what they are told of a gateway's
request; and settings that would send it in the clear."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from edgewarden.enrol.service import signing_request
from edgewarden.errors import (
    EdgewardenError,
    OperatorFault,
    PeerFault,
    PeerUnavailable,
    WireRefusal,
)
from edgewarden.trust.keys import FileSigner
from edgewarden_fleet.ca import certificates, external, settings
from edgewarden_fleet.ca.external import Cfssl, Cmp
from edgewarden_fleet.ca.issuers import Chain, Wanted
from edgewarden_fleet.ca.settings import CaSettings
from tests.fleet.makers import NOW, authority
from tests.fleet.test_folder import make

ROOT, ISSUING = authority(NOW)
SIGNER = FileSigner.generate()
CSR = signing_request(SIGNER, "gw-demo")
WANTED = Wanted("main", "gw-demo", certificates.read_request(CSR), CSR)
SECRET = "00112233445566778899aabbccddeeff"
Answer = Callable[[socket.socket, bytes], None]


class Ca:
    """A CA's port on loopback: hears each request and answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                one = threading.Thread(target=self._one, args=(connection,))
                self._threads.append(one)
                one.start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(4096) or b"\r\n\r\n"
            head, _, body = data.partition(b"\r\n\r\n")
            lengths = [h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")]
            want = int(lengths[0].split(b":")[1]) if lengths else 0
            while len(body) < want:
                if not (piece := connection.recv(4096)):
                    raise ValueError("it hung up in the middle")
                body += piece
            self.heard.append(head + b"\r\n\r\n" + body)
            self._answer(connection, head)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)


@contextlib.contextmanager
def a_ca(answer: Answer) -> Iterator[Ca]:
    made = Ca(answer)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/secret").write_text(SECRET)
    return tmp_path


def said(body: bytes, status: str = "200 OK", *more: str) -> Answer:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""])
    return lambda connection, _: connection.sendall(head.encode() + body)


def honest(leaf: str, issuing: str = "") -> Answer:
    """cfssl's two answers."""

    def answer(connection: socket.socket, head: bytes) -> None:
        pem = leaf if b"authsign" in head else issuing or certificates.pem(ISSUING.certificate)
        said(json.dumps({"success": True, "result": {"certificate": pem}}).encode())(
            connection, head
        )

    return answer


def made_leaf() -> x509.Certificate:
    return certificates.make_gateway(ISSUING, WANTED.key, "main", "gw-demo", NOW)


def by_cfssl(place: Path, ca: Ca) -> Chain:
    url = f"http://127.0.0.1:{ca.port}"
    return Cfssl(CaSettings("cfssl", url, profile="gateway"), place).issue(WANTED, NOW)


def test_an_honest_one(place: Path) -> None:
    with a_ca(honest(certificates.pem(made_leaf()))) as ca:
        assert by_cfssl(place, ca).leaf.public_key() == WANTED.key
        assert SECRET.encode() not in b"".join(ca.heard)
        assert bytes.fromhex(SECRET) not in b"".join(ca.heard)


def garbled(certificate: x509.Certificate, name: bytes = b"edgewarden issuing") -> str:
    """A certificate whose issuer's name holds a string that is none (its tag is 0x5f)."""
    der = bytearray(certificates.der(certificate))
    at = der.index(name)
    der[at - 2] = 0x5F
    return x509_pem(bytes(der))


def x509_pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


def version_nine(certificate: x509.Certificate) -> str:
    der = certificates.der(certificate)
    return x509_pem(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1))


def test_what_cannot_be_read_is_a_refusal_and_nothing_else(place: Path) -> None:
    leaf = made_leaf()
    good = certificates.pem(leaf)
    answers: dict[str, Answer] = {
        "garbled leaf": honest(garbled(leaf)),
        "garbled issuing": honest(good, garbled(ISSUING.certificate)),
        "leaf of a version that is none": honest(version_nine(leaf)),
        "issuing of a version that is none": honest(good, version_nine(ISSUING.certificate)),
        "no leaf": honest("", good),
        "leaf as its own issuer": honest(good, good),
        "another language": honest("\u00e9\ud800"),
        "deep": said(b"[" * 60_000),
        "no JSON": said(b"<html>"),
        "no object": said(b"[1]"),
        "too long": said(b'{"result":{"certificate":"' + b"A" * 200_000 + b'"}}'),
        "refused": said(b"no", "403 Forbidden"),
        "refused at length": said(b"n\xff" * 100_000, "500 Internal Server Error"),
        "nothing": lambda connection, _: None,
        "no HTTP": lambda connection, _: connection.sendall(b"SSH-2.0-x\r\n"),
    }
    for name, answer in answers.items():
        with a_ca(answer) as ca, pytest.raises((PeerFault, PeerUnavailable)) as refused:
            by_cfssl(place, ca)
        assert refused.value.code == "EW-ID-040", name
        assert len(refused.value.text) < 700, name


@pytest.mark.parametrize("where", ["head", "body"])
def test_one_that_drips_is_left_within_its_time(
    place: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A byte now and then keeps no enrolment waiting: the desk has one thread."""
    monkeypatch.setattr(external, "WITHIN_S", 1.5)

    def drip(connection: socket.socket, _: bytes) -> None:
        if where == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(1200):  # until it is left
            connection.sendall(b"a")
            time.sleep(0.05)

    with a_ca(drip) as ca:
        began = time.monotonic()
        with pytest.raises(PeerUnavailable):
            by_cfssl(place, ca)
        assert time.monotonic() - began < 30, "all of it takes a minute"


def test_nobody_is_sent_elsewhere(place: Path) -> None:
    with a_ca(honest(certificates.pem(made_leaf()))) as other:
        elsewhere = f"Location: http://127.0.0.1:{other.port}/api/v1/cfssl/authsign"
        with a_ca(said(b"", "302 Found", elsewhere)) as ca, pytest.raises(PeerFault):
            by_cfssl(place, ca)
        assert not other.heard


@pytest.mark.parametrize("secret", ["", "  \n", "00", "no hex"])
def test_a_key_that_anybody_could_guess_is_none(place: Path, secret: str) -> None:
    (place / "ca/secret").write_text(secret)
    with (
        a_ca(honest(certificates.pem(made_leaf()))) as ca,
        pytest.raises(PeerUnavailable, match="key for cfssl"),
    ):
        by_cfssl(place, ca)
    assert not ca.heard


def hostile_request() -> str:
    """A gateway's own request, with what it may not ask for."""
    key = SIGNER.private_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gw-demo")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    names = [x509.DNSName("broker.of.the.fleet"), x509.UniformResourceIdentifier("urn:evil")]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_a_ca_is_told_nothing_of_a_request_but_its_key(place: Path) -> None:
    """What else stands there is the gateway's wish, and the CA would take it for the fleet's."""
    wanted = Wanted("main", "gw-demo", WANTED.key, hostile_request())
    with a_ca(said(b"", "500 Internal Server Error")) as ca:
        settled = CaSettings("cmp", f"127.0.0.1:{ca.port}", ref="fleet")
        with pytest.raises(EdgewardenError):
            Cmp(settled, place).issue(wanted, NOW)
        heard = b"".join(ca.heard)
    assert b"urn:edgewarden:device:main:gw-demo" in heard
    assert b"broker.of.the.fleet" not in heard
    assert bytes.fromhex("0603551d13") not in heard, "basicConstraints"


def test_a_request_that_asks_for_more_than_a_certificate_is_refused() -> None:
    """cfssl gets the request itself."""
    with pytest.raises(WireRefusal) as refused:
        certificates.read_request(hostile_request())
    assert refused.value.name == "csr_invalid"


def test_openssl_reads_no_settings_of_this_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "openssl.cnf").write_text("[cmp]\nsans = urn:evil\nreqexts = more\n[more]\n")
    monkeypatch.setenv("OPENSSL_CONF", str(place / "openssl.cnf"))
    with a_ca(said(b"", "500 Internal Server Error")) as ca:
        settled = CaSettings("cmp", f"127.0.0.1:{ca.port}", ref="fleet")
        with pytest.raises(EdgewardenError) as refused:
            Cmp(settled, place).issue(WANTED, NOW)
    assert "section" not in refused.value.text
    assert ca.heard


def test_openssl_asks_no_proxy_of_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets a variable around `serve` would be the CA it speaks to."""
    refuse = said(b"", "500 Internal Server Error")
    with a_ca(refuse) as proxy, a_ca(refuse) as ca:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        settled = CaSettings("cmp", f"127.0.0.1:{ca.port}", ref="fleet")
        with pytest.raises(EdgewardenError):
            Cmp(settled, place).issue(WANTED, NOW)
        assert not proxy.heard
        assert ca.heard


@contextlib.contextmanager
def silent(count: int) -> Iterator[list[tuple[str, int]]]:
    """Addresses of loopback that answer no SYN: their queue is full."""
    held: list[socket.socket] = []
    where: list[tuple[str, int]] = []
    try:
        for n in range(count):
            listening = socket.socket()
            held.append(listening)
            listening.bind((f"127.0.1.{n + 1}", 0))
            listening.listen(0)
            where.append(listening.getsockname())
            for _ in range(3):  # one is queued, the next ones wait for ever
                waiting = socket.socket()
                held.append(waiting)
                waiting.setblocking(False)
                waiting.connect_ex(where[-1])
        yield where
    finally:
        for one in held:
            one.close()


def entries(where: list[tuple[str, int]]) -> list[object]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in where]


def test_a_name_with_many_addresses_takes_no_longer(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "WITHIN_S", 3.0)
    with silent(6) as where, a_ca(honest(certificates.pem(made_leaf()))) as ca:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries(where))
        began = time.monotonic()
        with pytest.raises(PeerUnavailable) as refused:
            by_cfssl(place, ca)
        assert time.monotonic() - began < 15, "each of the six has it for itself"
        assert refused.value.code == "EW-ID-040"
        # The last one answers: the others have left it its part of the time, here 3 s.
        monkeypatch.setattr(external, "WITHIN_S", 9.0)
        where[2:] = [("127.0.0.1", ca.port)]
        assert by_cfssl(place, ca).leaf.public_key() == WANTED.key


def test_a_name_without_addresses_is_no_crash(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with a_ca(honest("")) as ca, pytest.raises(PeerUnavailable, match="no address"):
        by_cfssl(place, ca)


def test_a_resolver_that_does_not_answer_is_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "WITHIN_S", 0.5)
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(60) and [])
    try:
        with a_ca(honest("")) as ca:
            began = time.monotonic()
            with pytest.raises(PeerUnavailable, match=r"no address for 127\.0\.0\.1 within 0\.5 s"):
                by_cfssl(place, ca)
            assert time.monotonic() - began < 30
    finally:
        let_go.set()


@pytest.mark.parametrize("fault", [socket.gaierror(-2, "unknown"), UnicodeError("label too long")])
def test_a_name_that_is_none_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with a_ca(honest("")) as ca, pytest.raises(PeerUnavailable) as refused:
        by_cfssl(place, ca)
    assert refused.value.code == "EW-ID-040"


def test_both_questions_share_one_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "WITHIN_S", 2.5)
    good = honest(certificates.pem(made_leaf()))

    def slow(connection: socket.socket, head: bytes) -> None:
        time.sleep(2.0)
        good(connection, head)

    # A second question with a time of its own would be answered.
    with a_ca(slow) as ca, pytest.raises(PeerUnavailable):
        by_cfssl(place, ca)


@pytest.mark.parametrize("leaf", [b"\xff\xfe", "\u00e9".encode(), b"", None])
def test_what_openssl_leaves_behind_is_read_or_refused_by_name(
    tmp_path: Path, leaf: bytes | None
) -> None:
    good = certificates.pem(made_leaf()).encode()
    for first, second in ((leaf, good), (good, leaf)):
        for name, data in (("leaf", first), ("more", second)):
            (tmp_path / name).unlink(missing_ok=True)
            if data is not None:
                (tmp_path / name).write_bytes(data)
        with pytest.raises(PeerFault) as refused:
            external._chain(tmp_path / "leaf", tmp_path / "more")
        assert refused.value.code == "EW-ID-040"
        assert len(refused.value.text) < 700


def test_no_secret_is_a_word_of_a_command(place: Path) -> None:
    """/proc shows command lines to everybody."""
    lines: list[bytes] = []

    def look(connection: socket.socket, _: bytes) -> None:
        for one in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = one.read_bytes()
                if line.split(b"\0")[1:2] == [b"cmp"]:
                    lines.append(line)
        said(b"", "500 Internal Server Error")(connection, b"")

    with a_ca(look) as ca, pytest.raises(EdgewardenError):
        Cmp(CaSettings("cmp", f"127.0.0.1:{ca.port}", ref="fleet"), place).issue(WANTED, NOW)
    assert lines
    assert SECRET.encode() not in b"".join(lines)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.evil.example:8888", "http://localhost.evil.example",
        "http://127.0.0.1@evil.example", "http://[::1].evil.example", "ftp://127.0.0.1",
        "http://ca.example", "https://", "https://user:secret@ca.example", "https://ca.example:x",
        "https://ca.example/?a=1", "https://ca.example/#a", "https://ca example",
    ],
)  # fmt: skip
def test_a_url_that_is_not_what_it_seems_is_refused(tmp_path: Path, url: str) -> None:
    folder = make(tmp_path / "fleet")
    path = folder.path / "fleet.toml"
    plain = path.read_text()
    for good in ("https://ca.example:8888/cfssl", "http://127.0.0.1:1", "http://[::1]:1/",
                 "http://localhost"):  # fmt: skip
        path.write_text(f'{plain}\n[ca]\nbackend = "cfssl"\nserver = "{good}"\n')
        assert settings.read(path).ca.server == good
    path.write_text(f'{plain}\n[ca]\nbackend = "cfssl"\nserver = "{url}"\n')
    with pytest.raises(OperatorFault) as refused:
        settings.read(path)
    assert refused.value.code == "EW-SET-020"


def test_words_that_openssl_would_take_for_its_own_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "fleet")
    path = folder.path / "fleet.toml"
    plain = path.read_text()
    for line in ('server = "-x"\nref = "fleet"', 'server = "ca:1"\nref = "-x"',
                 'server = "ca:1"\nref = "fleet"\npath = "-x"',
                 'server = "ca:1"\nref = "fleet"\nsecret_file = "../../etc/passwd"',
                 'server = "ca:1"\nref = "fleet"\nsecret_file = "/etc/passwd"'):  # fmt: skip
        path.write_text(f'{plain}\n[ca]\nbackend = "cmp"\n{line}\n')
        with pytest.raises(OperatorFault):
            settings.read(path)
