"""The connection to the broker, tried rung by rung: name, TCP, TLS with our certificate, MQTT.

Every probe blocks, within its own time limit, and returns an ``Outcome`` by name instead of
raising: a closed door is what it is there to find. None sends anything a broker would remember but
``mqtt``, which must not be used while link has a session: the same client id would end it (MQTT 5.0
§3.1.4-3).

TLS 1.3 tells a client that its certificate was refused only after the handshake looks finished (RFC
8446 §4.4.2.4 with §6): a probe that stops at connect() calls a revoked gateway healthy. ``tls``
therefore reads once more.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

from edgewarden.plain import dataclass

NAME_S = 5.0
"""Two resolvers at glibc's default of 5 s each would take 10: half of that is a failure already."""
CONNECT_S = 5.0
HANDSHAKE_S = 5.0
ALERT_S = 0.5
"""A refusal arrives within one round trip of the handshake; a satellite link takes 0.6 s and is
then told by the MQTT rung."""
ANSWER_S = 5.0

MAX_CONNACK_BYTES = 4096

_OUR_FAULT = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")
"""Alerts about our certificate, as OpenSSL names them: *_ALERT_CERTIFICATE_REVOKED, ...
(RFC 8446 §6.2)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe met, as judge.doctor_net.Outcome reads it."""

    name: str
    detail: str
    number: int = 0


def resolve(host: str, port: int) -> tuple[Outcome, tuple[str, ...]]:
    """The addresses of a name, in words and as they are.

    getaddrinfo has no time limit: it runs in a thread that is left behind when it is too slow.
    """
    found: list[str] = []
    failed: list[str] = []

    def ask() -> None:
        try:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                if str(address[0]) not in found:
                    found.append(str(address[0]))
        except OSError as fault:
            failed.append(fault.strerror or str(fault))
        except UnicodeError:
            failed.append("it is no host name")

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(NAME_S)
    if thread.is_alive():
        return Outcome("timeout", f"the resolver gave no answer in {NAME_S:g} s"), ()
    if failed or not found:
        return Outcome("unknown", failed[0] if failed else "no address"), ()
    return Outcome("ok", ", ".join(found)), tuple(found)


def reach(addresses: tuple[str, ...], port: int) -> tuple[str, Outcome]:
    """The first address that takes a connection, as link looks for it; else the last that did not.

    An IPv6 that leads nowhere is no fault of a session that stands by IPv4.
    """
    for address in addresses:
        outcome = tcp(address, port)
        if outcome.name == "ok":
            break
    return address, outcome


def tcp(address: str, port: int) -> Outcome:
    """ok, refused_connection, timeout or unreachable."""
    try:
        with socket.create_connection((address, port), CONNECT_S):
            return Outcome("ok", f"{address}:{port}")
    except OSError as fault:
        return _network_outcome(fault)


def tls(address: str, port: int, host: str, context: ssl.SSLContext) -> Outcome:
    """A handshake with our certificate, and a look at what comes after it."""
    try:
        with _session(address, port, host, context) as peer:
            if _closed_after_handshake(peer):
                return Outcome("refused", "the broker closed after the handshake")
            return Outcome("ok", f"{peer.version()}, {(peer.cipher() or ('?',))[0]}")
    except OSError as fault:
        return _tls_outcome(fault)


def mqtt(address: str, port: int, host: str, context: ssl.SSLContext, client_id: str) -> Outcome:
    """CONNECT and its acknowledgement, then an orderly DISCONNECT.

    The session is neither cleaned nor ended: clean start 0, and an expiry that outlives the probe.
    """
    try:
        with _session(address, port, host, context) as peer:
            # A write to a peer that has sent its alert and gone would lose the alert.
            if _closed_after_handshake(peer):
                return Outcome("refused_certificate", "the broker closed after the handshake")
            peer.settimeout(ANSWER_S)
            peer.sendall(connect_packet(client_id))
            answer = b""
            while len(answer) < MAX_CONNACK_BYTES and not _whole(answer):
                chunk = peer.recv(MAX_CONNACK_BYTES)
                if not chunk:
                    return Outcome("closed", "the broker closed instead of answering CONNECT")
                answer += chunk
            outcome = connack_outcome(answer)
            if outcome.name == "ok":
                peer.sendall(b"\xe0\x00")  # DISCONNECT, normal (MQTT 5.0 §3.14)
            return outcome
    except TimeoutError:
        return Outcome("timeout", f"no answer to CONNECT in {ANSWER_S:g} s")
    except OSError as fault:
        outcome = _tls_outcome(fault)
        name = "refused_certificate" if outcome.name == "refused" else outcome.name
        return Outcome(name, outcome.detail, 0)


def _closed_after_handshake(peer: ssl.SSLSocket) -> bool:
    """Wait for the alert that TLS 1.3 sends late; silence is consent, the broker waits for CONNECT.

    Raises:
        ssl.SSLError: the alert.
    """
    peer.settimeout(ALERT_S)
    try:
        return not peer.recv(1)
    except TimeoutError:
        return False


def connect_packet(client_id: str) -> bytes:
    """CONNECT of MQTT 5.0 §3.1: no will, no user name (the certificate names us), keep-alive 30
    s."""
    session_expiry = b"\x11" + (3600).to_bytes(4, "big")  # §3.1.2.11.2
    identifier = client_id.encode("utf-8")
    body = b"\x00\x04MQTT\x05\x00\x00\x1e" + bytes([len(session_expiry)]) + session_expiry
    body += len(identifier).to_bytes(2, "big") + identifier
    return b"\x10" + bytes([len(body)]) + body  # at most 63 + 20 bytes: one length byte


def connack_outcome(packet: bytes) -> Outcome:
    """CONNACK of MQTT 5.0 §3.2, or of 3.1.1 from a broker that speaks no 5."""
    if len(packet) < 4 or packet[0] != 0x20 or packet[1] < 2:
        return Outcome("garbage", f"not a CONNACK: {packet[:8].hex()}")
    reason = packet[3] if packet[1] < 0x80 else packet[4]
    if reason == 0:
        return Outcome("ok", "the broker accepts our session")
    return Outcome("refused", f"the broker refused with 0x{reason:02x}", reason)


def _whole(packet: bytes) -> bool:
    return len(packet) >= 5 or (len(packet) == 4 and packet[1] == 2)


@contextlib.contextmanager
def _session(
    address: str, port: int, host: str, context: ssl.SSLContext
) -> Iterator[ssl.SSLSocket]:
    with socket.create_connection((address, port), CONNECT_S) as plain:
        plain.settimeout(HANDSHAKE_S)
        with context.wrap_socket(plain, server_hostname=host) as peer:
            yield peer


def _tls_outcome(fault: OSError) -> Outcome:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return Outcome("untrusted", fault.verify_message, fault.verify_code)
    if isinstance(fault, ssl.SSLError):
        reason = fault.reason or str(fault)
        if "ALERT" in reason and any(word in reason for word in _OUR_FAULT):
            return Outcome("refused", f"the broker refused our certificate: {reason}")
        return Outcome("not_tls", f"no TLS handshake: {reason}")
    if isinstance(fault, TimeoutError):
        return Outcome("not_tls", f"no TLS handshake in {HANDSHAKE_S:g} s")
    return _network_outcome(fault)


def _network_outcome(fault: OSError) -> Outcome:
    if isinstance(fault, TimeoutError):
        return Outcome("timeout", f"no answer in {CONNECT_S:g} s")
    if isinstance(fault, ConnectionRefusedError):
        return Outcome("refused_connection", "connection refused")
    return Outcome("unreachable", fault.strerror or str(fault))
