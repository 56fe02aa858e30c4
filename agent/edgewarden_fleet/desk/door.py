"""The enrolment service's door: whose connections are let in, and how long each may take.

Everybody reaches the port, so what a stranger can hold by being slow is counted here, before TLS
and before a byte is read. Rules, in order, for each connection from accept to its end:

1. PER_SOURCE of one source at most; more are closed at once. A source is an IPv4 address, or the
   /64 of an IPv6 address, which is what one subscriber has
2. where CONNECTIONS are there already, one whose request is not whole yet makes room: of the source
   that has most of those, the one that came first. Whoever has one alone goes last
3. TLS and the whole request within ASK_S, everything within WHOLE_S; then it is cut

So slow strangers hold what they can hold of CONNECTIONS, and an honest gateway, which needs half a
second, gets in beside them. **Not defended**: a stranger behind the gateway's own address takes its
PER_SOURCE; one with as many addresses as CONNECTIONS can push out gateways that need longer than he
takes to come again.

Left to others: attempts a minute, one request to a connection, which request is whole (server.py).

    door = Door(context)                     # door.asked(request): this one's request is whole
    await door.open(runner.server, host, port); ...; await door.close()
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

PER_SOURCE = 16
"""A site of sixty gateways behind one address comes back from a power cut in seconds, half a second
each."""
CONNECTIONS = 384
"""Open files of a process are 1024 by default, and store, broker and console need theirs."""
ASK_S = 15.0
"""TLS and 2 kB are seconds on a modem; it is what the gateway itself waits (enrol/service.py)."""
WHOLE_S = 60.0
"""A CA of others may take 20 s, and a queue stands before it."""
LOOK_S = 0.5
BACKLOG = 128
_IPV6_SITE = 64

log = logging.getLogger("edgewarden_fleet.enroll")


def source_of(address: str) -> str:
    """Who is counted as one: an IPv4 address, the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), _IPV6_SITE), strict=False))
    return str(ip)


@dataclass(eq=False)
class _Guest:
    """One connection.

    Attributes:
        asked: a whole request has come.
        begun: TLS has, and the socket is the event loop's.
        inner: aiohttp's side of it, once TLS is done.
    """

    source: str
    plain: socket.socket
    since_mono_s: float
    asked: bool = False
    begun: bool = False
    task: asyncio.Task[None] | None = None
    transport: asyncio.BaseTransport | None = None
    inner: object = None


class _Shown(asyncio.Protocol):
    """aiohttp's protocol, with its beginning and end seen by the door."""

    def __init__(self, door: Door, guest: _Guest, inner: asyncio.Protocol) -> None:
        self._door, self._guest, self._inner = door, guest, inner
        guest.inner = inner
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guest.transport = transport
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self._door.left(self._guest)


class Door:
    """See the module. Args: TLS, and the limits, for tests."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connections: int = CONNECTIONS,
        per_source: int = PER_SOURCE,
        ask_s: float = ASK_S,
        whole_s: float = WHOLE_S,
    ) -> None:
        self._context = context
        self._connections, self._per_source = connections, per_source
        self._ask_s, self._whole_s = ask_s, whole_s
        self.guests: set[_Guest] = set()
        self._listeners: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.turned_away: Counter[str] = Counter()
        """Why -> how often."""

    async def open(
        self, server: Callable[[], asyncio.Protocol], host: str | None, port: int
    ) -> int:
        """Listen for an aiohttp server; returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in {(f[0], f[4]) for f in found}:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        self._tasks = [loop.create_task(self._accept(one, server)) for one in self._listeners]
        self._tasks.append(loop.create_task(self._look()))
        return int(self._listeners[0].getsockname()[1])

    async def close(self) -> None:
        """No more connections; those that are there are cut."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for guest in list(self.guests):
            self._cut(guest)
        for listener in self._listeners:
            listener.close()

    def asked(self, request: web.Request) -> None:
        """A whole request has come: its connection makes room for nobody any more."""
        for guest in self.guests:
            if guest.inner is request.protocol:
                guest.asked = True

    def left(self, guest: _Guest) -> None:
        """A connection has ended."""
        self.guests.discard(guest)

    async def _accept(
        self, listener: socket.socket, server: Callable[[], asyncio.Protocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                plain, address = await loop.sock_accept(listener)
            except OSError as fault:  # no descriptor, or it has gone again
                log.error("no connection can be taken error=%s", fault)
                await asyncio.sleep(LOOK_S)
                continue
            guest = _Guest(source_of(address[0]), plain, loop.time())
            if not self._admit(guest):
                plain.close()
                continue
            self.guests.add(guest)
            guest.task = loop.create_task(self._receive(guest, server))
            await asyncio.sleep(0)  # a queue of connections must not keep those that are in waiting

    def _admit(self, guest: _Guest) -> bool:
        """Rules 1 and 2."""
        if sum(g.source == guest.source for g in self.guests) >= self._per_source:
            self.turned_away["source"] += 1
            return False
        if len(self.guests) < self._connections:
            return True
        waiting = [g for g in self.guests if not g.asked]
        if not waiting:
            self.turned_away["full"] += 1
            return False
        of = Counter(g.source for g in waiting)
        self._cut(min(waiting, key=lambda g: (-of[g.source], g.since_mono_s)))
        self.turned_away["made room"] += 1
        return True

    async def _receive(self, guest: _Guest, server: Callable[[], asyncio.Protocol]) -> None:
        """TLS; afterwards aiohttp has it."""
        loop, guest.begun = asyncio.get_running_loop(), True
        try:
            await loop.connect_accepted_socket(
                lambda: _Shown(self, guest, server()), guest.plain,
                ssl=self._context, ssl_handshake_timeout=self._ask_s,
            )  # fmt: skip
        except (OSError, asyncio.CancelledError) as fault:
            log.debug("no TLS source=%s error=%r", guest.source, fault)
            self.left(guest)

    async def _look(self) -> None:
        """Rule 3."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            for guest in list(self.guests):
                limit_s = self._whole_s if guest.asked else self._ask_s
                if loop.time() - guest.since_mono_s >= limit_s:
                    self.turned_away["slow"] += 1
                    self._cut(guest)

    def _cut(self, guest: _Guest) -> None:
        self.left(guest)
        if isinstance(guest.transport, asyncio.WriteTransport):
            guest.transport.abort()
        elif guest.task is not None:
            guest.task.cancel()
            if not guest.begun:  # nobody else will
                guest.plain.close()
