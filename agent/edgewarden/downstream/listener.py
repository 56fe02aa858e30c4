"""The listener for devices: sockets and TLS, around the judges of this room.

    accept ──▶ budget ──▶ TLS, mutual, within handshake_s ──▶ name, key ──▶ desk.enter
                 │ no                 │ no                        │ no          │ no
                 ▼                    ▼                           ▼             ▼
               closed               closed                      closed        closed

    then by the first byte:  0x10  MQTT (a CONNECT)      a letter  HTTP      anything else  closed

The first byte says which protocol it is, not ALPN: mosquitto_pub and `openssl s_client` name none.
Where a client names one, http/1.1 and mqtt are agreed to.

Bounds: ACCEPTS_PER_S connections are looked at in a second, the rest waits in the kernel's queue or
is dropped there, and nobody can say whose it was; sessions and handshakes (budget.py); SESSION_S
for a session, FIRST_BYTE_S for its first byte, then dialogue.py; PIECES_PER_S of what comes in one;
a dead peer is found by the kernel (places.KEEPALIVE).

A fault of one connection ends that connection. Every method on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Callable

from edgewarden.appraise.devices import key_of_info
from edgewarden.downstream.budget import Bucket, Budget, place_of
from edgewarden.downstream.certificate import key_digest, name_of, public_key_info
from edgewarden.downstream.desk import Desk
from edgewarden.downstream.dialogue import FIRST_BYTE_S, READ_BYTES, Http, Mqtt
from edgewarden.downstream.places import KEEPALIVE
from edgewarden.downstream.sessions import Peer
from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden.plain import dataclass
from edgewarden.ports import Clock

SESSION_S = 24 * 3600.0
"""Then the device connects anew: a certificate that has ended counts within a day."""
ACCEPTS_PER_S = 200
"""To accept and close costs 0.1 ms here, some 0.5 ms on a small board: a tenth of a core. A flood
beyond it is the network table's to stop ([network] limits)."""
BACKLOG = 32
ACCEPT_PAUSE_S = 0.1
"""After accept(2) failed (no descriptors left): not at once again."""
PIECES_PER_S = 200
"""Pieces of one connection that are looked at, five times as many at once; twice the requests that
desk.py takes of a device."""

_LIST_ENDED = frozenset({11, 12})
"""X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_CRL_HAS_EXPIRED: no certificate is to blame. Of other
faults of a list a stranger's made-up chain could be the cause."""

NewContext = Callable[[], ssl.SSLContext]
"""The context for the next handshake; may raise TrustFault."""


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Where and how long; budget.py has the rest."""

    host: str
    port: int
    prefix: str
    handshake_s: float


class Listener:
    """See the module."""

    def __init__(
        self,
        settings: ListenerSettings,
        budget: Budget,
        desk: Desk,
        context: NewContext,
        clock: Clock,
        overrun: Callable[[str], None] = lambda refusal: None,
        listed: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._desk = desk
        self._context = context
        self._clock = clock
        self._overrun = overrun
        self._listed = listed
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: dict[int, asyncio.Task[None]] = {}
        self._era = 0
        self.failed: dict[str, int] = {}
        self.port = settings.port
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Take the address; ``run`` must follow. Raises OSError when it cannot be had."""
        self._socket = open_socket(self._settings.host, self._settings.port)
        self.port = self._socket.getsockname()[1]

    async def run(self) -> None:
        """Serve until cancelled."""
        assert self._socket is not None  # open() comes first
        try:
            await self._accept(self._socket)
        finally:
            self.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Give the address back."""
        if self._socket is not None:
            self._socket.close()

    def end(self, number: int) -> None:
        """End a session of the desk's."""
        task = self._ends.get(number)
        if task is not None:
            task.cancel()

    def end_all(self) -> None:
        """Have every certificate shown anew: the list of revoked ones is another.

        Sessions that are on their way by the old list end as soon as they stand.
        """
        self._era += 1
        for task in list(self._ends.values()):
            task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepts = Bucket(ACCEPTS_PER_S, ACCEPTS_PER_S, self._clock.now().boot_ns)
        while True:
            if not accepts.has(self._clock.now().boot_ns):
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            accepts.take()
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            source = self._budget.source(address[0], self._clock.now().boot_ns)
            refusal = self._budget.admit(source, self._clock.now().boot_ns)
            if refusal:
                connection.close()
                self._overrun(refusal)
                continue
            task = loop.create_task(self._serve(connection, source, place_of(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:  # ours, not the device's
            self._count("fault")
            print(f"edgewarden link: devices: {fault!r}", file=sys.stderr, flush=True)

    async def _serve(self, connection: socket.socket, source: str, place: str) -> None:
        """One connection, from its handshake to its end."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        era = self._era
        try:
            keep_alive(connection)
            streams = await self._shake(connection)
        except (OSError, EdgewardenError) as fault:  # ssl.SSLError is an OSError
            self._fail(fault, era)
        finally:
            self._budget.done(source)
            if streams is None:
                connection.close()
        if streams is None:
            return
        self._listed("")
        self._budget.sessions += 1
        try:
            async with asyncio.timeout(SESSION_S):
                await self._session(*streams, place, era)
        except WireRefusal as refusal:
            self._count(refusal.name)
        except (OSError, EOFError):  # TimeoutError, IncompleteReadError
            pass
        finally:
            self._budget.sessions -= 1
            streams[1].close()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()

    async def _shake(
        self, connection: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
        protocol = _Paced(reader, loop, self._clock, self._count)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._context(),
            ssl_handshake_timeout=self._settings.handshake_s,
            ssl_shutdown_timeout=1.0,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str, era: int
    ) -> None:
        peer, tls_key = self._peer(writer, place)
        number = await self._desk.enter(peer, tls_key)
        task = asyncio.current_task()
        assert task is not None  # _accept made one
        self._ends[number] = task
        self._budget.remember(peer.name, place, self._clock.now().boot_ns)
        try:
            if era != self._era:
                raise WireRefusal("other_list", "it was let in by a list that is not in use now")
            async with asyncio.timeout(FIRST_BYTE_S):
                first = await reader.readexactly(1)
            if first == b"\x10":
                self._desk.speaks(number, "mqtt")
                await Mqtt(self._desk, number, reader, writer).run(first)
            elif first.isalpha():
                self._desk.speaks(number, "http")
                await Http(self._desk, number, reader, writer).run(first)
            else:
                raise WireRefusal("unknown_protocol", f"first byte {first[0]:#04x}")
        finally:
            self._ends.pop(number, None)
            self._desk.leave(number)

    def _peer(self, writer: asyncio.StreamWriter, place: str) -> tuple[Peer, bytes]:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der, told = tls.getpeercert(binary_form=True) or b"", tls.getpeercert()
        # Never so with trust/tls.py's context; held here too, since all that follows rests on it.
        if not told or tls.session_reused:
            raise WireRefusal("no_certificate", "this session showed none that was verified")
        name = name_of(told.get("subjectAltName", ()), self._settings.prefix)
        return Peer(name, key_digest(der), place), key_of_info(public_key_info(der))

    def _fail(self, fault: Exception, era: int) -> None:
        name = "closed"
        if isinstance(fault, ssl.SSLCertVerificationError):
            name = f"certificate: {fault.verify_message}"
            if fault.verify_code in _LIST_ENDED and era == self._era:
                self._listed(fault.verify_message)
        elif isinstance(fault, ssl.SSLError):
            name = (fault.reason or "tls").lower()
        elif isinstance(fault, EdgewardenError):
            name = fault.code
        elif isinstance(fault, (TimeoutError, ConnectionAbortedError)):
            name = "handshake_timeout"
        self._count(name[:64])

    def _count(self, name: str) -> None:
        if name in self.failed or len(self.failed) < 64:
            self.failed[name] = self.failed.get(name, 0) + 1


class _Paced(asyncio.StreamReaderProtocol):
    """Ends a connection that comes in smaller pieces than anything honest: each costs us as much
    as a whole request."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        count: Callable[[str], None],
    ) -> None:
        super().__init__(reader, loop=loop)
        self._clock, self._count = clock, count
        self._pieces = Bucket(PIECES_PER_S, 5 * PIECES_PER_S, clock.now().boot_ns)
        self._transport_here: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands."""
        self._transport_here = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """A piece came."""
        if self._pieces.has(self._clock.now().boot_ns):
            self._pieces.take()
            super().data_received(data)
        elif isinstance(self._transport_here, asyncio.Transport):
            self._count("too_many_pieces")
            self._transport_here.abort()


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; ``::`` is all of both families."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel find out when a peer is gone, and send what there is at once.

    asyncio sets TCP_NODELAY only on sockets that name their protocol, which an accepted one does
    not: without it an answer's end waited 43 ms for a delayed acknowledgement.
    """
    idle_s, between_s, times = KEEPALIVE
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, times)
    # With something of ours unacknowledged, retransmission goes on for 15 min instead (tcp(7)).
    gone_ms = 1000 * (idle_s + between_s * times)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_ms)
