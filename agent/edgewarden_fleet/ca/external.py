"""Certificate authorities of others, behind the port of issuers.py.

    Cmp      RFC 4210 by running `openssl cmp`: the fleet is the registration authority, it has
             checked that the gateway holds its key (popo RAVERIFIED) and says the names
    Cfssl    cfssl's authsign API: the request is authenticated by HMAC-SHA256 with a shared key

Both are told subject and names; what they sign is held to what was asked for (``checked``), so a
profile that changes something is found out here. CMP is told the key alone of a gateway's request;
cfssl gets the request, which asks for nothing else (certificates.read_request). A certificate takes
WITHIN_S at most, from the CA's name to the last byte: however slowly it drips, however many
addresses the name has, however long the resolver thinks. Nobody is followed elsewhere, and no
variable of the environment (http_proxy, OPENSSL_CONF) has a say in where it goes. cfssl 1.2
(Debian's) cannot put a URI into a certificate: its gateways carry the DNS name of ``device_host``
instead, which says the same.

A CA's root must be believed by gateways, verifier and broker: `edgewarden-fleet ca trust FILE`.
Secrets are files below the fleet folder, never words of a command line.

    Cmp(CaSettings(...), folder).issue(wanted, now_utc_s)
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import json
import os
import socket
import ssl
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from edgewarden.enrol.service import device_host, device_urn
from edgewarden.errors import PeerFault, PeerUnavailable
from edgewarden_fleet.ca.issuers import Chain, Wanted
from edgewarden_fleet.ca.programs import run
from edgewarden_fleet.ca.settings import CaSettings

WITHIN_S = 20.0
"""The gateway waits 15 s for an answer, then asks again with the same key."""
MAX_ANSWER_BYTES = 64 * 1024
MIN_SECRET_BYTES = 16
"""cfssl's own documentation has 16; an empty key would be anybody's."""
SAID_BYTES = 400
PLAIN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""For openssl: of its own it takes a proxy, its settings and its modules from variables."""
_UNREADABLE = (ValueError, KeyError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What a certificate of somebody's making can raise, its names included (cryptography 43)."""


class Cmp:
    """`openssl cmp -cmd cr`. Blocks for at most WITHIN_S; no proxy."""

    def __init__(self, settings: CaSettings, folder: Path) -> None:
        self._settings = settings
        self._secret = folder / settings.secret_file

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """See Issuer."""
        s = self._settings
        with tempfile.TemporaryDirectory(prefix="ew-cmp-") as name:
            place = Path(name)
            key = wanted.key.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            (place / "key.pem").write_bytes(key)
            ended = run(
                (
                    "openssl", "cmp", "-config", "", "-cmd", "cr",
                    "-server", s.server, "-path", s.path,
                    "-ref", s.ref, "-secret", f"file:{self._secret}",
                    "-newkey", str(place / "key.pem"),
                    "-subject", f"/O={wanted.tenant}/CN={wanted.session}",
                    "-sans", device_urn(wanted.tenant, wanted.device), "-popo", "0",
                    "-certout", str(place / "leaf.pem"), "-extracertsout", str(place / "more.pem"),
                    "-disable_confirm", "-msg_timeout", "10", "-total_timeout", "15",
                ),
                WITHIN_S, PLAIN_ENVIRONMENT,
            )  # fmt: skip
            if ended.status != 0:
                raise _refused("the CMP server", ended.said)
            return _chain(place / "leaf.pem", place / "more.pem")


class Cfssl:
    """authsign and info. Blocks for at most WITHIN_S."""

    def __init__(self, settings: CaSettings, folder: Path) -> None:
        self._settings = settings
        self._secret = folder / settings.secret_file

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """See Issuer."""
        request = json.dumps(
            {
                "certificate_request": wanted.csr_pem,
                "profile": self._settings.profile,
                "hosts": [device_host(wanted.tenant, wanted.device)],
                "subject": {"CN": wanted.session, "names": [{"O": wanted.tenant}]},
            }
        ).encode()
        try:
            key = bytes.fromhex(self._secret.read_text().strip())
            if len(key) < MIN_SECRET_BYTES:
                raise ValueError(f"it has {len(key)} bytes, at least {MIN_SECRET_BYTES} are needed")
        except (OSError, ValueError) as fault:
            raise PeerUnavailable(
                f"the key for cfssl cannot be read: {fault}",
                code="EW-ID-040",
                next_step=f"put the auth key's hex digits into {self._secret}, mode 0600",
            ) from fault
        token = hmac.digest(key, request, "sha256")
        body = {"token": _b64(token), "request": _b64(request)}
        until_mono = time.monotonic() + WITHIN_S
        leaf = self._ask("authsign", body, until_mono)
        issuing = self._ask("info", {"label": "", "profile": self._settings.profile}, until_mono)
        return _parsed(leaf, issuing)

    def _ask(self, call: str, body: dict[str, str], until_mono: float) -> str:
        where = urllib.parse.urlsplit(self._settings.server)
        path = f"{where.path.rstrip('/')}/api/v1/cfssl/{call}"
        try:
            status, said = _post(where, path, json.dumps(body).encode(), until_mono)
            answer = json.loads(said) if status == http.HTTPStatus.OK else None
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as fault:
            raise PeerUnavailable(
                f"cfssl does not answer: {str(fault)[:SAID_BYTES]}",
                code="EW-ID-040",
                next_step="check ca.server in fleet.toml and that cfssl runs",
            ) from fault
        result = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(result, dict) or not isinstance(result.get("certificate"), str):
            raise _refused("cfssl", said[:SAID_BYTES].decode(errors="replace"))
        return str(result["certificate"])


def _post(
    where: urllib.parse.SplitResult, path: str, body: bytes, until_mono: float
) -> tuple[int, bytes]:
    """One exchange, whole before ``until_mono``: a socket's own limit begins anew with each byte
    and with each address."""
    secure = where.scheme == "https"
    host, port = where.hostname or "", where.port or (443 if secure else 80)
    reached = _reached(_addresses(host, port, until_mono), until_mono)
    if secure:
        context = ssl.create_default_context()
        reached = context.wrap_socket(reached, server_hostname=host, do_handshake_on_connect=False)
    with contextlib.closing(http.client.HTTPConnection(host, port)) as connection:
        connection.sock = reached
        limit = threading.Timer(_left_s(until_mono), _end, [reached])
        limit.start()
        try:
            if isinstance(reached, ssl.SSLSocket):
                reached.do_handshake()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read(MAX_ANSWER_BYTES + 1)
        finally:
            limit.cancel()
        if len(said) > MAX_ANSWER_BYTES or not answer.isclosed():
            raise ValueError("the answer is too long, or did not come whole")
        return answer.status, said


def _left_s(until_mono: float) -> float:
    left_s = until_mono - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(f"not within {WITHIN_S:g} s")
    return left_s


def _addresses(host: str, port: int, until_mono: float) -> Sequence[Any]:
    """What the name stands for; the resolver knows no deadline and is left behind at ours."""
    said: list[Sequence[Any] | Exception] = []

    def look() -> None:
        try:
            said.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as fault:  # a label that is no name's: UnicodeError
            said.append(fault)

    looking = threading.Thread(target=look, name="ca-name", daemon=True)
    looking.start()
    looking.join(_left_s(until_mono))
    if not said:
        raise TimeoutError(f"no address for {host} within {WITHIN_S:g} s")
    if isinstance(said[0], Exception):
        raise said[0]
    return said[0]


def _reached(addresses: Sequence[Any], until_mono: float) -> socket.socket:
    """A connection to the first address that takes one; each is given an even part of the time."""
    refused: OSError = TimeoutError("the name has no address")
    for i, (family, kind, protocol, _, address) in enumerate(addresses):
        left_s = _left_s(until_mono)
        connection = None
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(left_s / (len(addresses) - i))
            connection.connect(address)
        except OSError as fault:
            if connection is not None:
                connection.close()
            refused = fault
            continue
        connection.settimeout(left_s)
        return connection
    raise refused


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _chain(leaf: Path, more: Path) -> Chain:
    try:
        return _parsed(leaf.read_text("ascii"), more.read_text("ascii") if more.exists() else "")
    except (OSError, UnicodeError) as fault:
        raise _refused("the CMP server", f"no certificate came: {fault}"[:SAID_BYTES]) from fault


def _parsed(leaf_pem: str, more_pem: str) -> Chain:
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem.encode())
        more = x509.load_pem_x509_certificates(more_pem.encode())
        above = [one for one in more if one.subject == leaf.issuer]
    except _UNREADABLE as fault:
        raise _refused("the CA", f"no certificate came: {str(fault)[:SAID_BYTES]}") from fault
    if not above:
        raise _refused("the CA", "the issuing certificate did not come with it")
    return Chain(leaf, above[0])


def _refused(who: str, said: str) -> PeerFault:
    return PeerFault(
        f"{who} gave no certificate: {said}",
        code="EW-ID-040",
        next_step="see the CA's log; check ca.* in fleet.toml",
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
