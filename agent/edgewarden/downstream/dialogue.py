"""What is said in one session: HTTP or MQTT, request by request.

The shapes are http.py's and mqtt.py's, the answers desk.py's. Each request is counted before any of
it is judged (``too_many_requests`` ends the session), and a session that is silent for too long
ends: HTTP_IDLE_S between requests, one and a half keep-alives between MQTT packets, of those
UNASKED_KEEPALIVE_S without one; version 5 is told where that is not what it asked for. What waits
to be written is bounded by not reading on.
"""

from __future__ import annotations

import asyncio

from edgewarden.downstream import http, mqtt
from edgewarden.downstream.desk import NONCE_S, Desk
from edgewarden.downstream.readings import read_payload
from edgewarden.errors import WireRefusal

FIRST_BYTE_S = 10.0
HTTP_IDLE_S = 30.0
"""curl's next request comes at once; a board that thinks longer connects again."""
UNASKED_KEEPALIVE_S = 2400
"""Of who asks for none: an hour of silence."""
MAX_KEEPALIVE_S = 1200
"""What a client may ask for at most, times one and a half: half an hour of a slot."""
READ_BYTES = 4096


class Http:
    """One connection that speaks HTTP."""

    def __init__(
        self, desk: Desk, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._desk, self._number = desk, number
        self._reader, self._writer = reader, writer

    async def run(self, first: bytes) -> None:
        """Answer requests until one of both sides has enough."""
        while True:
            try:
                async with asyncio.timeout(HTTP_IDLE_S):
                    data = first + await self._head()
                    self._desk.asks(self._number)
                    head, first = http.parse_head(data), b""
                    if head.waits:
                        self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    body = await self._reader.readexactly(head.length)
            except http.Refused as refusal:
                self._desk.refuse(self._number, refusal)
                await self._send(http.answer(refusal.status, {"refused": str(refusal)}, close=True))
                return
            except WireRefusal as refusal:  # too many requests
                self._desk.refuse(self._number, refusal)
                await self._send(http.answer(429, {"refused": str(refusal)}, close=True))
                return
            self._desk.spoke(self._number)
            await self._send(self._answer(head, body))
            if head.close:
                return

    async def _head(self) -> bytes:
        try:
            return await self._reader.readuntil(http.END)
        except asyncio.LimitOverrunError:
            return b"\0" * http.MAX_HEAD_BYTES + http.END  # longer than the parser takes

    def _answer(self, head: http.Head, body: bytes) -> bytes:
        try:
            if head.path == "/nonce":
                told = {"nonce": self._desk.nonce(self._number).hex(), "valid_s": NONCE_S}
                schema = "edgewarden.device-nonce/1"
                return http.answer(200, {"schema": schema, **told}, head.close)
            if head.path == "/evidence":
                tier, why = self._desk.evidence(self._number, body)
                said: dict[str, object] = {"tier": tier.label, "why": why}
                schema = "edgewarden.device-verdict/1"
                return http.answer(200, {"schema": schema, **said}, head.close)
            self._desk.readings(self._number, read_payload(body))
            return http.answer(204, close=head.close)
        except WireRefusal as refusal:
            self._desk.refuse(self._number, refusal)
            status = 429 if refusal.name in ("rate", "too_many_challenges") else 400
            return http.answer(status, {"refused": str(refusal)}, head.close)

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(HTTP_IDLE_S):
            await self._writer.drain()


class Mqtt:
    """One connection that speaks MQTT."""

    def __init__(
        self, desk: Desk, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._desk, self._number = desk, number
        self._reader, self._writer = reader, writer
        self._version = 0
        self._idle_s = FIRST_BYTE_S

    async def run(self, data: bytes) -> None:
        """Take packets until DISCONNECT, the end, or a refusal."""
        while True:
            try:
                packet, data = mqtt.take(data, self._version)
                if packet is None:
                    async with asyncio.timeout(self._idle_s):
                        more = await self._reader.read(READ_BYTES)
                    if not more:
                        return
                    data += more
                    continue
                self._desk.asks(self._number)
                self._desk.spoke(self._number)
                if packet.kind is mqtt.Kind.DISCONNECT:
                    return
                self._writer.write(self._answer(packet))
            except WireRefusal as refusal:
                self._desk.refuse(self._number, refusal)
                self._writer.write(mqtt.disconnect(self._version, _REASON.get(refusal.name, 0x81)))
                return
            async with asyncio.timeout(self._idle_s):
                await self._writer.drain()

    def _answer(self, packet: mqtt.Packet) -> bytes:
        if packet.kind is mqtt.Kind.CONNECT:
            self._version = packet.version
            keepalive_s = min(packet.keepalive_s, MAX_KEEPALIVE_S) or UNASKED_KEEPALIVE_S
            self._idle_s = 1.5 * keepalive_s
            told = None if keepalive_s == packet.keepalive_s else keepalive_s
            return mqtt.connack(packet.version, told)
        if packet.kind is mqtt.Kind.PUBLISH:
            self._desk.readings(self._number, read_payload(packet.payload, packet.topic))
            return mqtt.puback(packet.packet_id) if packet.qos else b""
        if packet.kind is mqtt.Kind.SUBSCRIBE:
            return mqtt.suback(packet, self._version)
        return mqtt.pingresp()


_REASON = {
    "rate": mqtt.DISCONNECT_RATE,
    "too_many_requests": mqtt.DISCONNECT_RATE,
    "quarantined": mqtt.DISCONNECT_ADMIN,
}
