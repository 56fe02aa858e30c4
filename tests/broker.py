"""A real Mosquitto with mutual TLS, on a free port of its own, stopped by its pid.

    pki = Pki(tmp_path / "pki")
    with Broker(tmp_path / "broker", pki) as broker:
        context = pki.client_context("gw-demo")
        ... broker.port ... broker.pause() ... broker.restart()

* ``Pki`` makes what an operator would: a root, an issuing CA, server and client certificates that
  a strict verifier accepts (RFC 5280: key identifiers, critical basic constraints), and, on
  purpose, expired or foreign ones.
* ``Broker`` runs as root with ``user root`` so that it can read files below a test's private
  folder; started by anybody else Mosquitto keeps the user it has.
* Default access: each client its own ``ew/1/main/<id>/#`` to write, and to read its e/nonce and
  e/result; a client named ``fleet`` everything.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion

from hw.rigs.ports import free_port
from tests.waiting import wait_until

HOST = "localhost"
DEFAULT_ACL = """\
user fleet
topic readwrite #

pattern write ew/1/main/%u/r/+
pattern write ew/1/main/%u/e/evidence
pattern write ew/1/main/%u/s/status
pattern read ew/1/main/%u/e/nonce
pattern read ew/1/main/%u/e/result
"""
START_S = 60.0


class Pki:
    """A root and an issuing CA in a folder, and certificates from them."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._root = _certificate(
            f"{name} root", self._root_key.public_key(), None, self._root_key, ca=True
        )
        self._issuing_key = ec.generate_private_key(ec.SECP256R1())
        self._issuing = _certificate(
            f"{name} issuing", self._issuing_key.public_key(), self._root, self._root_key, ca=True
        )
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(_pem(self._root))

    def issue(
        self,
        name: str,
        *,
        server: bool = False,
        days: float = 30,
        tenant: str = "main",
        key: ec.EllipticCurvePublicKey | None = None,
    ) -> tuple[Path, Path]:
        """(certificate and issuing CA, key) of a new pair; days < 0: it expired that long ago.

        With ``key`` the certificate is for that one, and the key's file is another's to write.
        """
        made = ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate(
            name, key or made.public_key(), self._issuing, self._issuing_key, server=server,
            days=days, tenant=tenant,
        )  # fmt: skip
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_path.write_bytes(_pem(leaf) + _pem(self._issuing))
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_path, key_path

    def chain(self, name: str) -> tuple[bytes, ...]:
        """DER of an issued certificate and the issuing CA."""
        found = x509.load_pem_x509_certificates((self.folder / f"{name}.pem").read_bytes())
        return tuple(c.public_bytes(serialization.Encoding.DER) for c in found)

    def client_context(self, name: str, *, days: float = 30) -> ssl.SSLContext:
        """A context with a fresh client certificate that trusts this root."""
        return self.context(*self.issue(name, days=days))

    def context(self, cert: Path, key: Path) -> ssl.SSLContext:
        """A verifying client context of this root with any pair."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(self.ca)
        context.load_cert_chain(cert, key)
        return context


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    server: bool = False,
    days: float = 30,
    tenant: str = "main",
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(days=1 + max(0.0, -days) * 2)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(ca), critical=True)
    )
    if not ca:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        other = x509.DNSName(HOST) if server else x509.UniformResourceIdentifier(f"ew:{name}")
        builder = builder.add_extension(x509.SubjectAlternativeName([other]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class Broker:
    """One Mosquitto process; a context manager.

    Args:
        folder: configuration, log and certificates; made when missing.
        pki: issues the server's certificate; its root is what clients must come from.
        acl: access rules; None for no rules.
        extra: further lines of the configuration.
        port: a fixed port, for a second broker that takes the place of a first.
        address: where it listens.
        log_types: what it writes to its log; a busy one has no time for all.
    """

    def __init__(
        self,
        folder: Path,
        pki: Pki,
        *,
        acl: str | None = DEFAULT_ACL,
        extra: Sequence[str] = (),
        port: int | None = None,
        address: str = "127.0.0.1",
        log_types: str = "all",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self._address = address
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        cert, key = pki.issue(f"broker-{self.port}", server=True)
        self.mutual_tls = [
            f"cafile {pki.ca}",
            f"certfile {cert}",
            f"keyfile {key}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
        ]
        lines = [
            f"listener {self.port} {address}",
            *self.mutual_tls,
            "allow_anonymous false",
            "persistence false",
            # Who listens to all of it may stand still; beyond a thousand it is thrown away. Not 0,
            # no limit: test_acknowledged then hears nothing of what Mosquitto 2.0.11 denies.
            *(
                []
                if any("max_queued" in line for line in extra)
                else ["max_queued_messages 100000"]
            ),
            f"log_type {log_types}",
            "log_timestamp true",
            *(["user root"] if os.geteuid() == 0 else []),
        ]
        if acl is not None:
            (folder / "acl").write_text(acl)
            (folder / "acl").chmod(0o600)
            lines.append(f"acl_file {folder / 'acl'}")
        self._conf = folder / "mosquitto.conf"
        self._conf.write_text("\n".join([*lines, *extra]) + "\n")

    def listen_too(self, port: int, *lines: str) -> None:
        """One more listener with the same TLS, before the start."""
        with self._conf.open("a") as conf:
            conf.write("\n".join([f"listener {port} 127.0.0.1", *self.mutual_tls, *lines, ""]))

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the running broker."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        program = shutil.which("mosquitto", path=f"{os.defpath}:/usr/sbin:/sbin")
        assert program is not None, "mosquitto is not installed"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._conf)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._accepts, START_S)

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"mosquitto ended: {self.log.read_text()[-2000:]}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self._address, self.port), 1.0),
        ):
            return True
        return False

    def stop(self) -> None:
        """End it and wait for its end; harmless when it is not running."""
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._process = None

    def restart(self) -> None:
        """A new process on the same port; what it held in memory is gone."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def said(self, text: str) -> bool:
        """Whether the log holds text."""
        return text in self.log.read_text(errors="replace")


class Subscriber:
    """An independent client of the broker that keeps everything it hears; a context manager.

    Its session survives the broker's connections, not the broker's restart.
    """

    def __init__(self, port: int, context: ssl.SSLContext, topics: Sequence[str]) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self._topics = topics
        self._port = port
        client = mqtt.Client(CallbackAPIVersion.VERSION2, "fleet", protocol=mqtt.MQTTv5)
        client.tls_set_context(context)
        client.on_connect = self._connected
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._heard
        client.reconnect_delay_set(1, 1)
        client.connect_timeout = START_S
        self.client = client

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe([(t, 1) for t in self._topics])

    def _heard(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def __enter__(self) -> Subscriber:
        self.client.connect(HOST, self._port, keepalive=30)
        self.client.loop_start()
        assert self._ready.wait(START_S), "the subscriber is not subscribed"
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def again(self) -> None:
        """Wait for the subscription after the broker was restarted."""
        assert self._ready.wait(START_S)

    def forget_ready(self) -> None:
        """Before a restart of the broker, so that again() waits for what comes after it."""
        self._ready.clear()

    def payloads(self, suffix: str) -> list[bytes]:
        """Everything heard on topics with this ending, in order."""
        return [payload for topic, payload, _ in list(self.messages) if topic.endswith(suffix)]
