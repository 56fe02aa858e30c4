"""An enrolment service for tests: a real TLS server on loopback whose answers a test chooses.

Its CA is the fleet's own code; what it answers may be the fleet's service (``honest``) or a lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.trust.keys import FileSigner
from edgewarden.wire import enrol
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority

HOST = "localhost"
DEVICE = "gw-test"
SECRET = bytes(range(32))


@dataclass
class Fleet:
    """A CA and a verifier key."""

    tenant: str = "main"
    root: Authority = field(init=False)
    issuing: Authority = field(init=False)
    verifier: FileSigner = field(default_factory=FileSigner.generate)

    def __post_init__(self) -> None:
        now, (root_key, issuing_key) = time.time(), (new_key(), new_key())
        self.root = Authority(certificates.make_root(root_key, self.tenant, now), root_key)
        between = certificates.make_issuing(self.root, issuing_key, self.tenant, now)
        self.issuing = Authority(between, issuing_key)

    def ca_pem(self) -> str:
        return certificates.pem(self.root.certificate)

    def token(self, device: str = DEVICE) -> str:
        der = certificates.der(self.root.certificate)
        return str(enrol.Token(device, SECRET, hashlib.sha256(der).digest()))

    def server_files(self, folder: Path, host: str = HOST) -> tuple[Path, Path]:
        """Certificate chain and key of a server of that name."""
        key = new_key()
        leaf = certificates.make_server(self.issuing, key.public_key(), [host], time.time())
        chain, path = folder / "server.pem", folder / "server.key"
        chain.write_text(certificates.pem(leaf) + certificates.pem(self.issuing.certificate))
        path.write_bytes(FileSigner(key).to_pem())
        return chain, path

    def leaf(self, key: ec.EllipticCurvePublicKey, device: str = DEVICE) -> x509.Certificate:
        return certificates.make_gateway(self.issuing, key, self.tenant, device, time.time())

    def answer(self, leaf: x509.Certificate, between: x509.Certificate | None = None) -> bytes:
        """A successful answer with that certificate."""
        issuing = between or self.issuing.certificate
        return enrol.encode_answer(
            enrol.EnrolAnswer(
                self.tenant,
                certificates.pem(leaf) + certificates.pem(issuing),
                self.ca_pem(),
                self.verifier.public_key(),
                "broker.example",
                8883,
            )
        )

    def honest(self, request: bytes) -> tuple[int, bytes]:
        """What a service without a memory of tokens would answer."""
        key = certificates.read_request(enrol.parse_request(request).csr_pem)
        return 200, self.answer(self.leaf(key))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Service:
    """What is answered, and what was asked."""

    ca_body: bytes
    on_enroll: Callable[[bytes], tuple[int, bytes]]
    requests: list[bytes] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"


@contextlib.contextmanager
def running(service: Service, files: tuple[Path, Path]) -> Iterator[Service]:
    """Serve on a free port until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200 if self.path == "/v1/ca" else 404, service.ca_body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service.requests.append(body)
            self._send(*service.on_enroll(body))

        def _send(self, status: int, body: bytes) -> None:
            if status == 0:  # hang up without an answer
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.HTTPServer):
        def get_request(self) -> tuple[ssl.SSLSocket, tuple[str, int]]:
            raw, address = self.socket.accept()
            try:
                return context.wrap_socket(raw, server_side=True), address
            except (ssl.SSLError, OSError):
                raw.close()
                raise OSError("no handshake") from None  # what socketserver passes over

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with Server(("127.0.0.1", 0), Handler) as server:
        service.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
