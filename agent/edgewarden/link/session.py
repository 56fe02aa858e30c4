"""One MQTT connection, from CONNECT to its end, driven by the asyncio loop.

Decides how paho is used. Leaves to uplink.py what is sent and when to try again, to dial.py how a
connection comes about.

* A new paho client per connection: the old one's queue would be sent again, all at once, before
  any acknowledgement (paho #492; measured, still so in 2.2.0). Correctness never relies on the
  broker's session: clean start, no expiry.
* paho never queues: its two limits stand at the window, and a publish beyond it is a defect
  (OurFault).
* Only the PUBACK's reason code counts. is_published() is true after a refusal, too (measured). It
  is read before paho reads it: Mosquitto answers 0x95 to what is too long, which no PUBACK may
  say, and paho drops the connection over it (measured), for ever, as the record comes again.
* paho is handed a socket that is connected and verified; it never resolves, dials or reads proxy
  settings (client.py).
* The broker's keep-alive counts where it is the shorter one (Mosquitto's max_keepalive): pings in
  its time, or it ends a session that rests.
* What the broker may send is bounded twice: by the Maximum Packet Size of our CONNECT, and by
  refusing to read further when it does not keep to it.

* MQTT 3.1.1 is spoken where a broker knows nothing else: no reason codes, no limits of its own, so
  that its acknowledgement proves nothing (acknowledged.py says what does). Its goodbye is a closed
  socket: a DISCONNECT would take the will with it.

All methods on the event loop's thread; none blocks.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgewarden.errors import OurFault, PeerFault, PeerUnavailable
from edgewarden.link.client import MAX_PACKET_BYTES, Client
from edgewarden.link.dial import acknowledge_at_once
from edgewarden.link.websocket import WebSocket
from edgewarden.plain import dataclass

RECEIVE_MAXIMUM = 8
"""Messages to us in flight: nonce and result, a few times over."""
CONNACK_S = 15.0
"""A broker that looks up a revocation list takes seconds; more is no answer."""
CLOSE_S = 2.0
"""How long a goodbye may take before the socket is simply closed."""
MISC_S = 6.0
"""Period of paho's keepalive check: a ping may be this late; brokers wait half a keepalive more."""

MQTT_311, MQTT_5 = 4, 5
"""Protocol levels (MQTT 3.1.1 §3.1.2.2, MQTT 5.0 §3.1.2.2)."""

# MQTT 5.0 §3.14.2.1 and §3.2.2.2
DISCONNECT_WITH_WILL = 0x04
SESSION_TAKEN_OVER = 0x8E
RETAIN_NOT_SUPPORTED = 0x9A
_DEFAULT_RECEIVE_MAXIMUM = 65535
_NEXT = {
    0x84: "compare [uplink] broker with the MQTT version that this broker speaks",
    0x85: "have the operator allow this gateway's id as client id",
    0x87: "have the operator allow this gateway at the broker",
    0x9C: "ask the operator for the name of the broker to use; set [uplink] host to it",
    0x9D: "ask the operator for the name of the broker to use; set [uplink] host to it",
}
"""§3.2.2.2: what a person can do about a refusal."""
_CALLBACKS = (
    "on_socket_open", "on_socket_close", "on_socket_register_write", "on_socket_unregister_write",
    "on_connect", "on_subscribe", "on_publish", "on_message", "on_disconnect", "on_log",
)  # fmt: skip
"""Of paho's client, each a method of a session."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the broker's CONNACK allows.

    Attributes:
        receive_maximum: our QoS 1 messages in flight.
        max_packet_bytes: of one packet, None for no limit.
        retains: whether it keeps messages for those who come later.
    """

    receive_maximum: int
    max_packet_bytes: int | None
    retains: bool = True


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session is over: a broker's reason code (None when the connection just went) and
    text.
    """

    reason: int | None
    text: str


class Session:
    """See the module's docstring.

    Args:
        connection: from dial() or dial_plain(); belongs to the session from now on.
        client_id: the device id.
        keepalive_s: the broker gives up after one and a half of it, we after two.
        window: messages in flight that the caller will never exceed.
        protocol: MQTT_5 or MQTT_311.
        will: (topic, payload).
        will_retained: whether the broker keeps the will for those who come later.
        credentials: (user, password) for a broker that asks.
        on_acked: (packet identifier, reason code) of each PUBACK.
        on_message: (topic, payload) of each message.
    """

    def __init__(
        self,
        connection: ssl.SSLSocket | WebSocket | socket.socket,
        client_id: str,
        *,
        keepalive_s: int,
        window: int,
        will: tuple[str, bytes],
        on_acked: Callable[[int, int], None],
        on_message: Callable[[str, bytes], None],
        protocol: int = MQTT_5,
        will_retained: bool = True,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self._protocol = mqtt.MQTTv5 if protocol == MQTT_5 else mqtt.MQTTv311
        self._loop = asyncio.get_running_loop()
        self._on_acked = on_acked
        self._on_message = on_message
        self._keepalive_s = keepalive_s
        self._misc: asyncio.TimerHandle | None = None
        self._terms: asyncio.Future[Terms] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        self._log = ""
        # 3.1.1's clean session, which 5 says in its CONNECT.
        clean = None if protocol == MQTT_5 else True
        client = Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=clean, protocol=self._protocol,
            reconnect_on_failure=False,
        )  # fmt: skip
        client.ready = connection
        client.max_inflight_messages = client.max_queued_messages = window
        client.will_set(will[0], will[1], qos=1, retain=will_retained)
        if credentials is not None:
            client.username_pw_set(*credentials)
        client.on_socket_open = self._socket_opened
        client.on_socket_close = self._socket_closed
        client.on_socket_register_write = self._wants_write
        client.on_socket_unregister_write = self._wants_no_write
        client.on_connect = self._connected
        client.on_subscribe = self._was_subscribed
        client.on_publish = self._published
        client.on_message = self._received
        client.on_disconnect = self._disconnected
        client.on_log = self._logged
        self._client = client
        self._connection = connection

    async def connect(self, host: str, port: int) -> Terms:
        """Send CONNECT, wait for CONNACK.

        Raises:
            PeerFault: EW-NET-008, the broker refuses or does not speak this version.
            PeerUnavailable: EW-NET-008, the connection went before an answer.
        """
        if self._protocol == mqtt.MQTTv5:
            wishes = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            wishes.ReceiveMaximum = RECEIVE_MAXIMUM
            wishes.MaximumPacketSize = MAX_PACKET_BYTES
            self._client.connect_async(
                host, port, self._keepalive_s, clean_start=True, properties=wishes
            )
        else:
            self._client.connect_async(host, port, self._keepalive_s)
        self._client.reconnect()
        self._tick()
        try:
            async with asyncio.timeout(CONNACK_S):
                return await self._terms
        except TimeoutError as fault:
            self.abort("no CONNACK")
            raise PeerUnavailable(
                f"no CONNACK within {CONNACK_S:g} s",
                code="EW-NET-008",
                next_step="ask the operator whether the broker is overloaded",
            ) from fault

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe with QoS 1 and wait for the broker's word.

        Raises:
            PeerFault: EW-NET-008, one of the topics is refused.
            PeerUnavailable: the connection went.
        """
        if self._protocol == mqtt.MQTTv5:
            self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
        else:
            self._client.subscribe([(topic, 1) for topic in topics])
        try:
            async with asyncio.timeout(CONNACK_S):
                await self._subscribed
        except TimeoutError as fault:
            raise PeerUnavailable("no SUBACK", code="EW-NET-008") from fault

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> int | None:
        """Send; return the packet identifier, or None when the connection just went.

        With QoS 0 on_acked comes when the message is written out, perhaps before this returns.

        Raises:
            OurFault: more than the window allows: paho would have queued it.
        """
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            raise OurFault("a publish beyond the window")
        return info.mid if info.rc == mqtt.MQTT_ERR_SUCCESS else None

    async def close(self) -> None:
        """Say goodbye so that the broker publishes the will (this session's end), then be gone."""
        if not self.ended.done() and self._protocol == mqtt.MQTTv5:
            reason = ReasonCode(PacketTypes.DISCONNECT, identifier=DISCONNECT_WITH_WILL)
            self._client.disconnect(reasoncode=reason)
            await asyncio.wait([self.ended], timeout=CLOSE_S)
        self.abort("closed")

    def abort(self, why: str) -> None:
        """Close the socket now, and let go of whoever listened. Harmless when it is closed."""
        if self._misc is not None:
            self._misc.cancel()
            self._misc = None
        # paho holds our methods and we hold paho: what is left of a session would wait for the
        # collector of cycles, minutes, with 50 kB of OpenSSL's behind it (measured).
        for deaf in _CALLBACKS:
            setattr(self._client, deaf, None)
        self._on_acked, self._on_message = _nobody, _nobody
        if self._connection.fileno() >= 0:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
        self._end(Ending(None, why))

    # --- paho's callbacks, on the loop's thread -----------------------------------------------

    def _socket_opened(self, client: mqtt.Client, _: Any, connection: Any) -> None:
        self._loop.add_reader(connection, self._readable)

    def _socket_closed(self, client: mqtt.Client, _: Any, connection: Any) -> None:
        self._loop.remove_reader(connection)
        self._loop.remove_writer(connection)

    def _wants_write(self, client: mqtt.Client, _: Any, connection: Any) -> None:
        self._loop.add_writer(connection, client.loop_write)

    def _wants_no_write(self, client: mqtt.Client, _: Any, connection: Any) -> None:
        self._loop.remove_writer(connection)

    def _readable(self) -> None:
        """Read until TLS holds nothing back: decrypted bytes do not make the socket readable."""
        self._client.loop_read()
        while not self.ended.done() and self._connection.fileno() >= 0:
            if not isinstance(self._connection, (ssl.SSLSocket, WebSocket)):
                break  # nothing is held back without TLS
            if not self._connection.pending():
                break
            self._client.loop_read()
        if not self._terms.done() and self._connection.fileno() >= 0:
            acknowledge_at_once(self._connection)

    def _tick(self) -> None:
        """paho's keepalive: ping, and notice that pings stay unanswered."""
        if not self.ended.done():
            self._client.loop_misc()
            if self._misc is not None:
                self._misc.cancel()
            period_s = min(MISC_S, self._keepalive_s / 4)
            late_s = self._loop.time() % period_s  # in step with what else wakes this process
            self._misc = self._loop.call_later(period_s - late_s, self._tick)

    def _connected(
        self, client: mqtt.Client, _: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._terms.done():
            return
        if reason.is_failure:
            self._terms.set_exception(refused_session(reason, properties))
            return
        if getattr(properties, "MaximumQoS", 1) == 0:
            self._terms.set_exception(
                PeerFault(
                    "the broker takes QoS 0 only, which nobody acknowledges",
                    code="EW-NET-008",
                    next_step="ask the operator for QoS 1 at this broker",
                )
            )
            return
        asked_s = getattr(properties, "ServerKeepAlive", self._keepalive_s)
        self._keepalive_s = min(self._keepalive_s, asked_s or self._keepalive_s)
        self._client.keep_alive(self._keepalive_s)
        self._loop.call_soon(self._tick)
        self._terms.set_result(
            Terms(
                getattr(properties, "ReceiveMaximum", _DEFAULT_RECEIVE_MAXIMUM),
                getattr(properties, "MaximumPacketSize", None),
                getattr(properties, "RetainAvailable", 1) == 1,
            )
        )

    def _was_subscribed(
        self, client: mqtt.Client, _: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        refused = [str(r) for r in reasons if r.is_failure]
        if self._subscribed.done():
            return
        if refused:
            self._subscribed.set_exception(
                PeerFault(
                    f"the broker refused a subscription: {', '.join(refused)}",
                    code="EW-NET-008",
                    next_step="have the operator let this gateway read ew/1/.../e/ in the broker's "
                    "access list",
                )
            )
        else:
            self._subscribed.set_result(None)

    def _published(
        self, client: mqtt.Client, _: Any, mid: int, reason: ReasonCode, properties: Any
    ) -> None:
        self._on_acked(mid, self._client.reason)

    def _received(self, client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._on_message(topic, bytes(message.payload))

    def _logged(self, client: mqtt.Client, _: Any, level: int, text: str) -> None:
        if level == mqtt.MQTT_LOG_ERR:
            self._log = text

    def _disconnected(
        self, client: mqtt.Client, _: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._client.too_new and not self._terms.done():
            code = ReasonCode(PacketTypes.CONNACK, "Unsupported protocol version")
            self._terms.set_exception(refused_session(code, None))
        said = self._client.said
        if said is None:
            self._end(Ending(None, self._log or str(reason)))
        else:
            words = f"{reason} ({said:#04x})" if reason == said else f"reason {said:#04x}"
            self._end(Ending(said, f"the broker ended it: {words}{_besides(properties)}"))

    def _end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)
        lost = PeerUnavailable(
            f"the connection went before the broker answered: {ending.text}", code="EW-NET-008"
        )
        for waiting in (self._terms, self._subscribed):
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()  # nobody may be waiting for it


def refused_session(reason: ReasonCode, properties: Any) -> PeerFault:
    """A CONNACK that is a refusal, and what a person can do about it."""
    return PeerFault(
        f"the broker refused the session: {reason} ({reason.value:#x}){_besides(properties)}",
        code="EW-NET-008",
        next_step=_NEXT.get(reason.value, "give the reason code to the operator"),
        reason=reason.value,
    )


def _besides(properties: Any) -> str:
    """What the broker says in its own words, cut and printable."""
    said = [getattr(properties, name, None) for name in ("ReasonString", "ServerReference")]
    told = ", ".join(str(text) for text in said if text)
    return f", in its words: {''.join(c for c in told if c.isprintable())[:120]}" if told else ""


def _nobody(*_: object) -> None:
    """Who hears what comes after the end."""
