"""As much of MQTT 3.1.1 and 5 as a publisher needs, and not a packet more.

Pure: bytes in, packets or a refusal out, and the bytes of our answers. This is no broker: nothing
is routed, retained or handed to anybody else. Taken: CONNECT, PUBLISH of QoS 0 and 1, PINGREQ,
DISCONNECT. SUBSCRIBE is answered with failure, everything else ends the session.

Passed over, because the certificate says who it is and nobody else listens: client id, user name,
password, will, retain flag, every property of version 5.

Refusals: ``mqtt_too_long``, ``bad_mqtt``, ``mqtt_version``, ``mqtt_qos``, ``mqtt_order`` (CONNECT
is the first packet and only the first).

    packet, rest = take(data)      packet is None while it is not whole
"""

from __future__ import annotations

from enum import IntEnum

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass

MAX_PACKET_BYTES = 8192
"""A payload of 4 kB with the longest topic, and a CONNECT with a will."""
_MAX_HEAD = 5
_V311, _V5 = 4, 5


class Kind(IntEnum):
    """MQTT 3.1.1 §2.2.1, MQTT 5 §2.1.2: control packet types that are taken."""

    CONNECT = 1
    PUBLISH = 3
    SUBSCRIBE = 8
    PINGREQ = 12
    DISCONNECT = 14


_FLAGS = {Kind.CONNECT: 0, Kind.SUBSCRIBE: 2, Kind.PINGREQ: 0, Kind.DISCONNECT: 0}
"""Bits 3 to 0 of the first byte must be so."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; what a kind has not is left at its default.

    Attributes:
        version: of CONNECT: 4 (3.1.1) or 5.
        keepalive_s: of CONNECT; 0 = none.
        packet_id: of PUBLISH with QoS 1, and SUBSCRIBE.
        filters: of SUBSCRIBE, how many.
    """

    kind: Kind
    version: int = 0
    keepalive_s: int = 0
    topic: str = ""
    payload: bytes = b""
    qos: int = 0
    packet_id: int = 0
    filters: int = 0


def take(data: bytes, version: int = 0) -> tuple[Packet | None, bytes]:
    """The first packet and what follows it; (None, data) while it is not whole.

    Args:
        version: of the CONNECT that came; 0 before it.

    Raises:
        WireRefusal: see the module.
    """
    if len(data) < 2:
        return None, data
    size, head = 0, 1
    while True:
        if head == _MAX_HEAD:
            raise WireRefusal("bad_mqtt", "a length of more than four bytes")
        if head == len(data):
            return None, data
        size |= (data[head] & 0x7F) << 7 * (head - 1)
        head += 1
        if not data[head - 1] & 0x80:
            break
    if size > MAX_PACKET_BYTES:
        raise WireRefusal("mqtt_too_long", f"a packet of {size} bytes, at most {MAX_PACKET_BYTES}")
    if head > 2 and not data[head - 1]:
        raise WireRefusal("bad_mqtt", "a length in more bytes than it takes")  # MQTT-1.5.5-1
    if len(data) < head + size:
        return None, data
    return _packet(data[0], _Body(data[head : head + size]), version), data[head + size :]


def _packet(first: int, body: _Body, version: int) -> Packet:
    kind = first >> 4
    if kind not in set(Kind):
        raise WireRefusal("bad_mqtt", f"a packet of type {kind}")
    if kind != Kind.PUBLISH and first & 0x0F != _FLAGS[Kind(kind)]:
        raise WireRefusal("bad_mqtt", "reserved bits are set")
    if (kind == Kind.CONNECT) != (version == 0):
        raise WireRefusal("mqtt_order", "CONNECT is the first packet, and comes once")
    if kind == Kind.CONNECT:
        return _connect(body)
    if kind == Kind.PUBLISH:
        return _publish(first & 0x0F, body, version)
    if kind == Kind.SUBSCRIBE:
        return _subscribe(body, version)
    if kind == Kind.PINGREQ or version == _V311:
        body.end()
    return Packet(Kind(kind))


def _connect(body: _Body) -> Packet:
    """MQTT 3.1.1 §3.1, MQTT 5 §3.1."""
    if body.text() != "MQTT":
        raise WireRefusal("mqtt_version", "the protocol is not MQTT")
    version, flags, keepalive_s = body.byte(), body.byte(), body.short()
    if version not in (_V311, _V5):
        raise WireRefusal("mqtt_version", f"level {version}; 3.1.1 and 5 are spoken here")
    if not flags & 0x04 and flags & 0x38:
        raise WireRefusal("bad_mqtt", "a will's flags without a will")
    if flags & 0x01 or flags >> 3 & 3 == 3:
        raise WireRefusal("bad_mqtt", "flags that cannot be")
    body.properties(version)
    body.blob()  # client id
    if flags & 0x04:
        body.properties(version)
        body.blob()
        body.blob()
    for flag in (0x80, 0x40):
        if flags & flag:
            body.blob()
    body.end()
    return Packet(Kind.CONNECT, version=version, keepalive_s=keepalive_s)


def _publish(flags: int, body: _Body, version: int) -> Packet:
    """MQTT 3.1.1 §3.3, MQTT 5 §3.3."""
    qos = flags >> 1 & 3
    if not qos and flags & 0x08:
        raise WireRefusal("bad_mqtt", "again, and QoS 0")  # MQTT-3.3.1-2
    if qos > 1:
        raise WireRefusal("mqtt_qos", "QoS 2 is not taken; 0 and 1 are")
    topic = body.text()
    packet_id = body.short() if qos else 0
    body.properties(version)
    if (qos and not packet_id) or not topic or "+" in topic or "#" in topic:
        raise WireRefusal("bad_mqtt", "no topic (an alias is not taken), wildcards, or no number")
    return Packet(Kind.PUBLISH, topic=topic, payload=body.rest(), qos=qos, packet_id=packet_id)


def _subscribe(body: _Body, version: int) -> Packet:
    packet_id, filters = body.short(), 0
    body.properties(version)
    while body.left():
        body.blob()
        body.byte()
        filters += 1
    if not packet_id or not filters:
        raise WireRefusal("bad_mqtt", "SUBSCRIBE without a number or a filter")
    return Packet(Kind.SUBSCRIBE, packet_id=packet_id, filters=filters)


class _Body:
    """What is left of a packet; everything that runs over its end is refused."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise WireRefusal("bad_mqtt", "a packet ends in the middle of a field")
        self._at += count
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def short(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def blob(self) -> bytes:
        return self.take(self.short())

    def text(self) -> str:
        try:
            text = self.blob().decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_mqtt", "a text that is not UTF-8") from None
        if "\0" in text:
            raise WireRefusal("bad_mqtt", "a text with a null in it")
        return text

    def properties(self, version: int) -> None:
        """Pass over the properties of version 5: a variable length, and so many bytes."""
        if version != _V5:
            return
        size = 0
        for shift in (0, 7, 14):
            byte = self.byte()
            size |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
        else:
            raise WireRefusal("bad_mqtt", "properties longer than any packet")
        self.take(size)

    def left(self) -> int:
        return len(self._data) - self._at

    def rest(self) -> bytes:
        return self.take(self.left())

    def end(self) -> None:
        if self.left():
            raise WireRefusal("bad_mqtt", "bytes follow the packet's last field")


# --- our answers ----------------------------------------------------------------------------------

_MAXIMUM_QOS, _RETAIN, _MAXIMUM_PACKET = 0x24, 0x25, 0x27  # MQTT 5 §3.2.2.3
_SERVER_KEEP_ALIVE = 0x13  # MQTT 5 §3.2.2.3.14
DISCONNECT_RATE, DISCONNECT_ADMIN, DISCONNECT_MALFORMED = 0x96, 0x98, 0x81  # MQTT 5 §3.14.2.1


def connack(version: int, keepalive_s: int | None = None) -> bytes:
    """Welcome; version 5 is told: QoS 1, no retained messages, our longest packet, and a keep-alive
    that is not the one it asked for."""
    if version != _V5:
        return bytes((0x20, 2, 0, 0))
    properties = bytes((_MAXIMUM_QOS, 1, _RETAIN, 0, _MAXIMUM_PACKET))
    properties += MAX_PACKET_BYTES.to_bytes(4, "big")
    if keepalive_s is not None:
        properties += bytes((_SERVER_KEEP_ALIVE,)) + keepalive_s.to_bytes(2, "big")
    return bytes((0x20, 3 + len(properties), 0, 0, len(properties))) + properties


def puback(packet_id: int) -> bytes:
    """It is taken."""
    return bytes((0x40, 2)) + packet_id.to_bytes(2, "big")


def suback(packet: Packet, version: int) -> bytes:
    """Nothing to subscribe to: failure for each filter (MQTT 5: 0x83, implementation specific)."""
    codes = bytes([0x83 if version == _V5 else 0x80]) * packet.filters
    body = packet.packet_id.to_bytes(2, "big") + (b"\0" if version == _V5 else b"") + codes
    return b"\x90" + _length(len(body)) + body


def pingresp() -> bytes:
    """Here we are."""
    return b"\xd0\0"


def disconnect(version: int, reason: int) -> bytes:
    """Why the session ends; version 3.1.1 has no words for it."""
    return bytes((0xE0, 1, reason)) if version == _V5 else b""


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])
