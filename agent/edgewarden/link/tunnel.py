"""Through a site's proxy to the broker: HTTP CONNECT and SOCKS5, before any TLS.

Decides what is said to a proxy and what of its answer is believed: whether there is a way, nothing
else. The broker proves itself behind it, by its own name, as without a proxy. Leaves the TCP
connection, the deadline and TLS to dial.py. Blocks; runs on an executor.

* The name of the broker is the proxy's to resolve: sites with a proxy often have no other DNS.
* Credentials come from a file of their own (settings: a path), never from a URL, an argument or
  the environment, and never into a message: HTTP Basic (RFC 7617), SOCKS5 user and password
  (RFC 1929). A proxy that wants none is not told them.
* Not a byte beyond the answer is read: what follows belongs to TLS.
* An answer is bounded (MAX_HEAD_BYTES), and what it says is told cut and printable.

    proxy = Proxy("http", "proxy.example", 3128)
    through(proxy, connection, "broker.example", 8883, wait)
"""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable
from typing import Literal

from edgewarden.errors import PeerUnavailable
from edgewarden.plain import dataclass, field

CODE = "EW-NET-014"
MAX_HEAD_BYTES = 8192
"""Of an HTTP answer: what common servers allow for a head."""
MAX_SECRET_BYTES = 255
"""RFC 1929: one byte of length for each."""

# RFC 1928, RFC 1929
_SOCKS, _AUTH = 5, 1
_NO_AUTH, _USER_PASSWORD = 0, 2
_CONNECT, _DOMAIN, _IPV4, _IPV6 = 1, 3, 1, 4
_SOCKS_SAYS = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r\n")

Wait = Callable[[], float]
"""Seconds that are left; raises TimeoutError when none is."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy is and who we are to it.

    Attributes:
        kind: "http" (CONNECT) or "socks5".
        credentials: called before each use; (user, password) or None.
    """

    kind: Literal["http", "socks5"]
    host: str
    port: int
    credentials: Callable[[], tuple[str, str] | None] = field(default=lambda: None, repr=False)


def through(proxy: Proxy, connection: socket.socket, host: str, port: int, wait: Wait) -> None:
    """Ask the proxy for a way to host:port; afterwards the connection is the broker's.

    Raises:
        PeerUnavailable: EW-NET-014, the proxy refuses or is none.
        OSError: the connection went, or time is over.
    """
    if proxy.kind == "http":
        _http_connect(proxy, connection, host, port, wait)
    else:
        _socks5(proxy, connection, host, port, wait)


def read_head(connection: socket.socket, wait: Wait) -> bytes:
    """An HTTP answer up to and including its empty line, and not a byte more.

    Raises:
        ConnectionError: it ended early, or is longer than MAX_HEAD_BYTES.
        OSError: as the socket.
    """
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        if len(head) >= MAX_HEAD_BYTES:
            raise ConnectionError(f"an HTTP head beyond {MAX_HEAD_BYTES} bytes")
        head += _exactly(connection, 1, wait)
    return bytes(head)


def status_of(head: bytes) -> tuple[int, str]:
    """(status, reason as printable text); (0, "") when it is no HTTP answer."""
    found = _STATUS.match(head)
    if found is None:
        return 0, ""
    reason = (found.group(2) or b"").decode("ascii", "replace")
    return int(found.group(1)), "".join(c for c in reason if c.isprintable())[:80]


def _http_connect(
    proxy: Proxy, connection: socket.socket, host: str, port: int, wait: Wait
) -> None:
    """RFC 9110 §9.3.6."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if (who := proxy.credentials()) is not None:
        word = base64.b64encode(f"{who[0]}:{who[1]}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {word}")
    connection.settimeout(wait())
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    status, reason = status_of(read_head(connection, wait))
    if 200 <= status < 300:
        return
    if status == 0:
        raise _no_way(proxy, "it does not answer as an HTTP proxy")
    if status in (401, 407):  # tinyproxy answers 401 to a wrong password
        known = "refuses the credentials" if who else "wants credentials"
        raise _no_way(proxy, f"it {known} ({status})")
    raise _no_way(proxy, f"it answered {status} {reason}".rstrip())


def _socks5(proxy: Proxy, connection: socket.socket, host: str, port: int, wait: Wait) -> None:
    who = proxy.credentials()
    methods = bytes([_NO_AUTH]) if who is None else bytes([_NO_AUTH, _USER_PASSWORD])
    connection.settimeout(wait())
    connection.sendall(bytes([_SOCKS, len(methods)]) + methods)
    version, method = _exactly(connection, 2, wait)
    if version != _SOCKS:
        raise _no_way(proxy, "it does not answer as a SOCKS5 proxy")
    if method == _USER_PASSWORD and who is not None:
        user, password = (text.encode()[:MAX_SECRET_BYTES] for text in who)
        connection.sendall(
            bytes([_AUTH, len(user)]) + user + bytes([len(password)]) + password
        )  # fmt: skip
        if _exactly(connection, 2, wait)[1] != 0:
            raise _no_way(proxy, "it refuses the credentials")
    elif method != _NO_AUTH:
        raise _no_way(proxy, "it wants credentials")
    asked = bytes([_SOCKS, _CONNECT, 0]) + _target(host) + port.to_bytes(2, "big")
    connection.sendall(asked)
    version, reply, _, kind = _exactly(connection, 4, wait)
    if version != _SOCKS or reply != 0:
        raise _no_way(proxy, _SOCKS_SAYS.get(reply, f"reply {reply}"))
    if kind == _DOMAIN:
        length = _exactly(connection, 1, wait)[0]
    elif kind in (_IPV4, _IPV6):
        length = 4 if kind == _IPV4 else 16
    else:
        raise _no_way(proxy, f"an address of type {kind}")
    _exactly(connection, length + 2, wait)


def _target(host: str) -> bytes:
    """RFC 1928 §5: an address is one, and no name for the proxy to ask its DNS about."""
    for kind, family in ((_IPV4, socket.AF_INET), (_IPV6, socket.AF_INET6)):
        try:
            return bytes([kind]) + socket.inet_pton(family, host)
        except OSError:
            continue
    name = host.encode("idna")
    return bytes([_DOMAIN, len(name)]) + name


def _exactly(connection: socket.socket, count: int, wait: Wait) -> bytes:
    """count bytes; raises ConnectionError when the other side ends before."""
    got = bytearray()
    while len(got) < count:
        connection.settimeout(wait())
        more = connection.recv(count - len(got))
        if not more:
            raise ConnectionError("the other side closed the connection")
        got += more
    return bytes(got)


def _no_way(proxy: Proxy, why: str) -> PeerUnavailable:
    return PeerUnavailable(
        f"no way through the proxy {proxy.host}:{proxy.port}: {why}",
        code=CODE,
        next_step="check [uplink] proxy and proxy_credentials; ask the site whether its proxy lets "
        "this gateway out to the broker",
    )
