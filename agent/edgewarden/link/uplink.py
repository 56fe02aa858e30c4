"""The gateway's side of the uplink: connect, say who is there, drain, and know why not.

Decides when to connect and what a failure means to a person. Leaves to session.py how, to drain.py
what is sent.

The life of one connection, in order:

1. The status that will stand when this session ends is signed and becomes the will; then DNS, TCP,
   TLS.
2. CONNECT, CONNACK, subscriptions (nonce, result).
3. The status of this session, retained where the broker does that, in front of everything.
4. Records, until the connection ends.

    passing failure       wait by reconnect.failed(): full jitter, base to cap trust failure
    one alarm when it begins (again after a success), a slow re-check at the cap 3 losses in front
    of CONNACK: probe() once, since TLS 1.3 hides a refused certificate there session taken over
    an alarm: somebody else has our certificate, or a second agent runs

    uplink = Uplink(settings, storage, ...)
    await uplink.run()
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from edgewarden.errors import EdgewardenError, PeerUnavailable, TrustFault, WireRefusal
from edgewarden.link.acknowledged import VerifierKey, open_word
from edgewarden.link.dial import (
    DATES,
    DIRECT,
    REFUSES_US,
    Route,
    dial,
    probe,
    refused_certificate,
)
from edgewarden.link.drain import Drainer
from edgewarden.link.receiver import Receiver
from edgewarden.link.reconnect import STABLE_S, Reconnect
from edgewarden.link.session import MQTT_5, RETAIN_NOT_SUPPORTED, Session
from edgewarden.link.telling import EventSink, Telling
from edgewarden.link.websocket import WebSocket
from edgewarden.link.window import Lane
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, Drain, Randomness
from edgewarden.wire.record import MEMORY, RecordClass
from edgewarden.wire.topics import Topic

CERTIFICATE_REFUSED = "certificate_refused"
"""Counter: the broker's TLS alerts about our certificate."""
PROBE_AFTER = 3
"""Losses in front of CONNACK before a probe: one is a restart, two are bad luck."""

StatusBuilder = Callable[[int, bool], bytes]
"""(CLOCK_BOOTTIME of the session in ns, online) -> signed status message. Called on an executor."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """See the manual page of the settings for each."""

    tenant: str
    device: str
    host: str
    port: int
    start_spread_s: float = 10.0
    keepalive_s: int = 30
    window: int = 20
    backlog_bytes_s: int = 262_144
    reconnect_base_s: float = 1.0
    reconnect_cap_s: float = 120.0
    route: Route = DIRECT
    session: str = ""
    """Client id; "" for the device id."""
    protocol: int = MQTT_5
    """As CONNECT names it: 5, or 4 for 3.1.1."""
    verifier: VerifierKey | None = None
    """Whose word releases records; None: the broker's."""


@dataclass(frozen=True, slots=True)
class UplinkSnapshot:
    """What status shows.

    Attributes:
        since_utc: of the present state's beginning, RFC 3339; None before the first connection.
        reconnects: sessions after the first.
        fault: why there is no session, or None.
        parked: classes the broker keeps refusing.
    """

    connected: bool
    since_utc: str | None
    reconnects: int
    in_flight: int
    in_flight_bytes: int
    fault: EdgewardenError | None
    parked: tuple[int, ...]
    counters: Mapping[str, int]


class Uplink:
    """See the module's docstring. Methods on the event loop's thread.

    Args:
        storage: where records come from. tls_context_factory: called on an executor for each
        connection, so that a renewed certificate is used by the next one; may raise TrustFault.
        status_builder: see StatusBuilder. on_nonce, on_result: payloads from the fleet; must not
        block. event_sink: takes the uplink's own events.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        storage: Drain,
        tls_context_factory: Callable[[], ssl.SSLContext],
        status_builder: StatusBuilder,
        on_nonce: Callable[[bytes], None],
        on_result: Callable[[bytes], None],
        event_sink: EventSink,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._tls_context = tls_context_factory
        self._status = status_builder
        self._counters: Counter[str] = Counter()
        self._tell = Telling(event_sink, clock, settings.host, settings.port, self._counters)
        self._clock = clock
        self._reconnect = Reconnect(
            settings.reconnect_base_s,
            settings.reconnect_cap_s,
            settings.start_spread_s,
            randomness.uniform,
        )
        heard = None if settings.verifier is None else self._acknowledged
        self._receiver = Receiver(settings.tenant, settings.device, on_nonce, on_result, heard)
        self._lanes = {c: Lane(c) for c in (MEMORY, *RecordClass)}
        self._drainer: Drainer | None = None
        self._connected = False
        self._since_ns: int | None = None
        self._sessions = 0
        self._fault: EdgewardenError | None = None
        self._distrusted = False
        self._silent_losses = 0
        self._retains = True
        self._stopping = asyncio.Event()
        # One thread: a resolver that hangs makes the next try wait, not the threads pile up.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="uplink")

    async def run(self) -> None:
        """Keep the uplink until stop(), with a goodbye to the broker, or until cancelled."""
        self._storage.watch(self._records_came)
        try:
            await self._pause(self._reconnect.first())
            while not self._stopping.is_set():
                await self._pause(await self._one_session())
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Let run() close the session and return."""
        self._stopping.set()

    def publish_evidence(self, message: bytes) -> bool:
        """Send evidence in this session, before records; False when there is none (a nonce is
        answered in the session that brought it, or not at all).
        """
        if not self._connected or self._drainer is None:
            return False
        self._drainer.send(self._topic("e", "evidence"), message)
        return True

    def fails_by_dates(self) -> bool:
        """Is there no session because a certificate's dates do not hold, here and now?"""
        return self._fault is not None and self._fault.fields.get("verify_code") in DATES

    @property
    def connected(self) -> bool:
        """Whether a session stands: as ``snapshot`` says it, for who asks each step."""
        return self._connected

    @property
    def certificate_refused(self) -> int:
        """How often the broker has refused our certificate since the start; of ``snapshot``."""
        return self._counters[CERTIFICATE_REFUSED]

    def snapshot(self) -> UplinkSnapshot:
        """The picture of this moment."""
        since = None
        if self._since_ns is not None:
            when = datetime.fromtimestamp(self._since_ns / 1e9, UTC)
            since = when.isoformat(timespec="seconds").replace("+00:00", "Z")
        window = self._drainer.window if self._drainer is not None else ()
        return UplinkSnapshot(
            connected=self._connected,
            since_utc=since,
            reconnects=max(0, self._sessions - 1),
            in_flight=len(window),
            in_flight_bytes=self._drainer.window.bytes_flying if self._drainer else 0,
            fault=self._fault,
            parked=tuple(c for c, lane in self._lanes.items() if lane.parked),
            counters=self._counters + self._receiver.counters,
        )

    # --- one connection -----------------------------------------------------------------------

    async def _one_session(self) -> float:
        """Connect and drain until it ends; return the seconds to wait before the next try."""
        try:
            session = await self._dial()
        except TrustFault as fault:
            self._note_distrust(fault)
            return self._reconnect.distrusted()
        except EdgewardenError as fault:
            self._fault = fault.to_keep()
            self._counters["connect_failures"] += 1
            return self._reconnect.failed()
        return await self._live(session)

    async def _dial(self) -> Session:
        """Everything up to CONNECT's socket; raises TrustFault, PeerUnavailable."""
        settings, began_ns = self._settings, self._clock.now().boot_ns
        self._began_ns = began_ns
        context = await self._aside(self._tls_context)
        if self._silent_losses >= PROBE_AFTER:
            self._silent_losses = 0
            alert = await self._aside(
                lambda: probe(settings.host, settings.port, context, self._clock, settings.route)
            )
            if alert is not None:
                raise refused_certificate(alert)
        will = await self._aside(lambda: self._status(began_ns, False))
        connection = await self._aside(
            lambda: dial(settings.host, settings.port, context, self._clock, settings.route)
        )
        self._drainer = Drainer(
            self._storage,
            self._clock,
            self._lanes,
            (settings.tenant, settings.device),
            window=settings.window,
            park_s=settings.reconnect_cap_s,
            backlog_bytes_s=settings.backlog_bytes_s,
            on_refused=self._tell.refused,
            on_aside=self._tell.aside,
            on_other_record=self._tell.other_record,
            verified_within_s=settings.verifier.wait_s if settings.verifier else None,
            counters=self._counters,
        )
        return Session(
            connection,
            settings.session or settings.device,
            keepalive_s=settings.keepalive_s,
            window=settings.window,
            protocol=settings.protocol,
            will=(self._topic("s", "status"), will),
            will_retained=self._retains,
            on_acked=self._drainer.acked,
            on_message=self._receiver.take,
        )

    async def _live(self, session: Session) -> float:
        """From CONNECT to the end of the session; return the seconds to wait afterwards."""
        settings, drainer = self._settings, self._drainer
        assert drainer is not None
        stopper = asyncio.ensure_future(self._close_on_stop(session))
        try:
            terms = await session.connect(settings.host, settings.port)
            await session.subscribe(self._receiver.topics)
            status = await self._aside(lambda: self._status(self._began_ns, True))
            self._note_connected()
            kept = self._retains and terms.retains
            drainer.send(self._topic("s", "status"), status, retain=kept)
            await drainer.run(session, terms)
            await drainer.ended(session.ended.result().reason)
        except EdgewardenError as fault:
            self._fault = fault.to_keep()
            self._counters["connect_failures"] += 1
            if isinstance(fault, PeerUnavailable):
                self._silent_losses += 1
            if fault.fields.get("reason") == RETAIN_NOT_SUPPORTED:
                self._retains = False
        finally:
            stopper.cancel()
            session.abort("the uplink lets go")
        return self._note_ended(session, drainer)

    async def _close_on_stop(self, session: Session) -> None:
        await self._stopping.wait()
        await session.close()

    async def _aside(self, work: Callable[[], T]) -> T:
        """Run blocking work on the executor; what it opens after we were cancelled is closed."""
        future = self._executor.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_result)
            raise

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _acknowledged(self, message: bytes) -> None:
        """A message of e/ack; what is not believed is counted by name."""
        settings, drainer = self._settings, self._drainer
        assert settings.verifier is not None
        try:
            word = open_word(message, settings.verifier, settings.tenant, settings.device)
        except WireRefusal as refusal:
            self._counters[f"word_{refusal.name}"] += 1
            raise
        if drainer is not None:
            drainer.acknowledged(word)

    def _records_came(self) -> None:
        """From the storage thread, after each commit."""
        if (drainer := self._drainer) is not None:
            drainer.changed()

    def _topic(self, group: str, name: str) -> str:
        return str(Topic(self._settings.tenant, self._settings.device, group, name))

    # --- telling ------------------------------------------------------------------------------

    def _note_connected(self) -> None:
        self._connected, self._fault = True, None
        self._silent_losses = 0
        self._since_ns = self._clock.now().wall_ns
        self._sessions += 1
        self._distrusted = False
        self._tell.connected()

    def _note_ended(self, session: Session, drainer: Drainer) -> float:
        now = self._clock.now()
        if not self._connected:
            return self._reconnect.failed()
        self._connected, self._since_ns = False, now.wall_ns
        ending = session.ended.result()
        self._counters["sessions_ended"] += 1
        if self._fault is None:
            self._fault = PeerUnavailable(
                f"the session ended: {ending.text}", code="EW-NET-002", reason=ending.reason
            )
        self._tell.lost(ending)
        lasted_s = (now.boot_ns - self._began_ns) / 1e9
        if lasted_s >= STABLE_S:
            self._tell.anew()
        return self._reconnect.ended(lasted_s, drainer.accepted_any)

    def _note_distrust(self, fault: TrustFault) -> None:
        """One alarm when it begins: the re-checks that find the same are counted only."""
        self._fault = fault.to_keep()
        self._counters["trust_failures"] += 1
        if fault.code == REFUSES_US:
            self._counters[CERTIFICATE_REFUSED] += 1
        if not self._distrusted:
            self._distrusted = True
            self._tell.distrusted(fault)


def _close_result(future: Future[Any]) -> None:
    """Close a connection that nobody waits for any more."""
    done_well = not future.cancelled() and future.exception() is None
    if done_well and isinstance(future.result(), (ssl.SSLSocket, WebSocket)):
        future.result().close()
