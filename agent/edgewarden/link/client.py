"""paho's client on a socket that is connected already, and what of paho had to be mended.

Decides what a broker's packet may do to this process: be understood, or end the connection. Leaves
the session to session.py. 2.1 and 2.2 agree on these methods; the tests run on both.

* It never dials: the socket is handed in, once.
* The reason code of a PUBACK and of a DISCONNECT is read before paho reads it (session.py says
  why).
* A packet that paho cannot read ends the connection. 2.1 raises instead and keeps the packet: the
  socket stays readable, and the loop turned over that one packet for ever (measured).
* The keep-alive is ours to set: a broker's word for it (MQTT 5.0 §3.2.2.3.14) is unknown to 2.1.

    client = Client(CallbackAPIVersion.VERSION2, "gw-1", protocol=mqtt.MQTTv5)
    client.ready = connection
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import MQTTException  # type: ignore[attr-defined]

from edgewarden.errors import OurFault
from edgewarden.link.websocket import WebSocket

MAX_DOWN_BYTES = 16 * 1024
"""Payload of one message to us: a nonce or a result is under 1 kB, twice 8 kB is evidence's
limit.
"""
MAX_PACKET_BYTES = MAX_DOWN_BYTES + 1024
"""The same with topic and properties: what CONNECT tells the broker."""

_UNSPECIFIED = 0x80
# Table 3-4: what paho knows of a PUBACK.
_PUBACK_REASONS = frozenset({0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_UNREADABLE = (struct.error, LookupError, ValueError, TypeError, AssertionError, MQTTException)
"""What paho 2.1 raises over bytes that are no packet (tests/link/test_session.py looks for more).
"""


class Client(mqtt.Client):
    """See the module's docstring.

    Attributes:
        ready: the connection to use.
        too_new: a CONNACK of 3.1.1 does not know our version; paho would dial again by an older
            one, and without that it tells nobody.
        said: reason code of the broker's DISCONNECT; 2.1 overlooks one without properties.
        reason: reason code of the PUBACK that is being handled, as the broker sent it.
    """

    ready: ssl.SSLSocket | WebSocket | socket.socket | None = None
    too_new = False
    said: int | None = None
    reason: int = _UNSPECIFIED

    def keep_alive(self, seconds: int) -> None:
        """Ping after so much silence from now on."""
        self._keepalive = seconds

    def _create_socket(self) -> Any:
        if self.ready is None:
            raise OurFault("a session connects once")
        connection, self.ready = self.ready, None
        return connection

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > MAX_PACKET_BYTES:
            raise ConnectionError(f"a packet of {bufsize} bytes, limit {MAX_PACKET_BYTES}")
        return super()._sock_recv(bufsize)

    def _packet_handle(self) -> Any:
        try:
            return super()._packet_handle()
        except _UNREADABLE as fault:
            kind = self._in_packet["command"] >> 4
            text = f"a packet of type {kind} could not be handled: {fault!r}"
            self._easy_log(mqtt.MQTT_LOG_ERR, "%s", text[:200])
            return mqtt.MQTT_ERR_PROTOCOL

    def _handle_connack(self) -> Any:
        body = self._in_packet["packet"]
        self.too_new = self._protocol == mqtt.MQTTv311 and body[1:] == b"\x01"  # §3.2.2.3
        return super()._handle_connack()

    def _handle_pubackcomp(self, cmd: Any) -> Any:
        body = self._in_packet["packet"]
        self.reason = body[2] if len(body) > 2 else 0
        if self.reason not in _PUBACK_REASONS:
            self._in_packet["packet"] = body[:2] + bytes([_UNSPECIFIED]) + body[3:]
        return super()._handle_pubackcomp(cmd)

    def _handle_disconnect(self) -> None:
        body = self._in_packet["packet"]
        self.said = body[0] if body else 0
        super()._handle_disconnect()
