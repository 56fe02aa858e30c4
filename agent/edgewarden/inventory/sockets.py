"""Listeners of this machine: tcp and udp sockets that others may speak to.

Decides how they are listed: by sock_diag where this process may use netlink (13 us a list), else
from /proc/net (595 us, less often). Leaves to others which of them is news (watch/listeners.py).

The shipped unit keeps AF_NETLINK from link, the one process that speaks with the network, so there
it is /proc/net every SLOW_S; under `edgewarden run` it is sock_diag every sweep. Both say the same
(tested against each other). UDP has no state "listens": a socket that is bound and not connected
counts.

Whose a socket is, /proc/PID/fd says to root and to its own user only.

    sockets = Sockets()
    sockets.listeners()            # (Listener("tcp", "0.0.0.0", 22, 0, 1234), ...)
"""

from __future__ import annotations

import operator
import os
import socket
import sys
from collections.abc import Iterable
from typing import Literal

from edgewarden.errors import HardwareFault
from edgewarden.kernel.sockdiag import TCP_CLOSE, TCP_LISTEN, Diag, open_diag
from edgewarden.wire.processes import Listener

FAST_S, SLOW_S = 2.0, 10.0
"""Seconds between two looks, by what a look costs: 0.03 ms or 1.3 ms."""
MAX_TABLE_BYTES = 1 << 20
"""/proc/net/tcp lists listeners first, then connections: 150 bytes each, 7,000 of them."""
MAX_LISTENERS = 4096
MAX_DESCRIPTORS = 4096
_TABLES = (
    ("tcp", "tcp", socket.AF_INET, TCP_LISTEN),
    ("tcp", "tcp6", socket.AF_INET6, TCP_LISTEN),
    ("udp", "udp", socket.AF_INET, TCP_CLOSE),
    ("udp", "udp6", socket.AF_INET6, TCP_CLOSE),
)


class Sockets:
    """Lists listeners. One thread.

    Args:
        proc: where procfs hangs.
        diag: whether to try sock_diag.

    Attributes:
        source: "sock_diag" or "/proc/net".
        period_s: how often to look.
    """

    def __init__(self, proc: str = "/proc", *, diag: bool = True) -> None:
        self._proc = proc
        self._diag: Diag | None = None
        self._said: list[list[tuple[str, int, int, int]]] = [[] for _ in _TABLES]
        self._found: tuple[Listener, ...] = ()
        if diag:
            try:
                self._diag = open_diag()
            except HardwareFault:
                self._diag = None

    @property
    def source(self) -> str:
        return "/proc/net" if self._diag is None else "sock_diag"

    @property
    def period_s(self) -> float:
        return SLOW_S if self._diag is None else FAST_S

    def listeners(self) -> tuple[Listener, ...]:
        """All listeners, at most MAX_LISTENERS; the very tuple of the last time where nothing has
        changed."""
        said = [
            self._list(table, family, protocol, state) for protocol, table, family, state in _TABLES
        ]
        if all(map(operator.is_, said, self._said)):
            return self._found
        found: set[Listener] = set()
        for (protocol, *_), sockets in zip(_TABLES, said, strict=True):
            for address, port, uid, inode in sockets:
                if port and len(found) < MAX_LISTENERS:
                    found.add(Listener(protocol, address, port, uid, inode))
        self._said, self._found = said, tuple(sorted(found))
        return self._found

    def _list(
        self, table: str, family: int, protocol: str, state: int
    ) -> list[tuple[str, int, int, int]]:
        if self._diag is not None:
            number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
            try:
                return self._diag.dump(family, number, 1 << state)
            except HardwareFault:
                self._diag.close()
                self._diag = None
        return parse_table(self._read(table), family, state)

    def _read(self, table: str) -> bytes:
        try:
            with open(f"{self._proc}/net/{table}", "rb", buffering=0) as file:
                parts = []
                left = MAX_TABLE_BYTES
                while left > 0 and (part := file.read(min(left, 1 << 16))):
                    parts.append(part)
                    left -= len(part)
                return b"".join(parts)
        except OSError:  # no IPv6 in this kernel
            return b""

    def owner(self, listener: Listener, pids: Iterable[int]) -> int | None:
        """Which of ``pids`` holds the socket, as far as this process may see."""
        wanted = f"socket:[{listener.inode}]"
        for pid in pids:
            folder = f"{self._proc}/{pid}/fd"
            try:
                with os.scandir(folder) as entries:
                    for number, entry in enumerate(entries):
                        if number >= MAX_DESCRIPTORS:
                            break
                        if os.readlink(entry.path) == wanted:
                            return pid
            except OSError:
                continue
        return None

    def close(self) -> None:
        if self._diag is not None:
            self._diag.close()
            self._diag = None


def parse_table(data: bytes, family: int, state: int) -> list[tuple[str, int, int, int]]:
    """Address, port, uid and inode of the lines of a /proc/net table that are in ``state``.

    Addresses stand there as the machine keeps them in 32-bit words (net/ipv4/tcp_ipv4.c).
    """
    wanted = b"%02X" % state
    out = []
    for line in data.split(b"\n")[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != wanted:
            continue
        address, _, port = fields[1].partition(b":")
        try:
            raw = bytes.fromhex(address.decode("ascii"))
            words = [raw[i : i + 4] for i in range(0, len(raw), 4)]
            host = b"".join(int.from_bytes(w, "big").to_bytes(4, _ORDER) for w in words)
            text = socket.inet_ntop(family, host)
            out.append((text, int(port, 16), int(fields[7]), int(fields[9])))
        except ValueError:
            continue
    return out


def ephemeral_ports(proc: str = "/proc") -> range:
    """Ports the kernel gives to sockets that ask for none."""
    try:
        with open(f"{proc}/sys/net/ipv4/ip_local_port_range", "rb") as file:
            low, high = file.read(64).split()
            return range(int(low), int(high) + 1)
    except (OSError, ValueError):
        return range(32768, 61000)


_ORDER: Literal["little", "big"] = sys.byteorder
