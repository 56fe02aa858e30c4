"""As much of MQTT as a publisher needs, packet by packet; every other one is refused by name.

What mosquitto_pub really sends is in test_listener.py's and tests/system's hands.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgewarden.downstream import mqtt
from edgewarden.downstream.mqtt import MAX_PACKET_BYTES, Kind, Packet, take
from edgewarden.errors import WireRefusal


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + mqtt._length(len(body)) + body


def connect(version: int = 4, flags: int = 2, rest: bytes = text(b"me"), name: bytes = b"MQTT") -> bytes:  # fmt: skip  # noqa: E501
    properties = b"\0" if version == 5 else b""
    return packet(0x10, text(name) + bytes((version, flags, 0, 60)) + properties + rest)


HELLO = Packet(Kind.CONNECT, version=4, keepalive_s=60)
TAKEN: list[tuple[bytes, int, Packet]] = [
    (connect(), 0, HELLO),
    (connect(5), 0, Packet(Kind.CONNECT, version=5, keepalive_s=60)),
    (connect(4, 0xC2, text(b"me") + text(b"user") + text(b"password")), 0, HELLO),
    (connect(4, 0x06, text(b"me") + text(b"will/topic") + text(b"bye")), 0, HELLO),
    (connect(5, 0x06, text(b"") + b"\x02\x01\x01" + text(b"t") + text(b"m")), 0,
     Packet(Kind.CONNECT, version=5, keepalive_s=60)),
    (packet(0x30, text(b"a/b") + b"21.5"), 4, Packet(Kind.PUBLISH, topic="a/b", payload=b"21.5")),
    (packet(0x30, text(b"a") + b"1" * 200), 4,
     Packet(Kind.PUBLISH, topic="a", payload=b"1" * 200)),
    (packet(0x31, text(b"a") + b""), 4, Packet(Kind.PUBLISH, topic="a")),
    (packet(0x3A, text(b"a") + b"\0\x07x"), 4,
     Packet(Kind.PUBLISH, topic="a", payload=b"x", qos=1, packet_id=7)),
    (packet(0x32, text(b"a") + b"\0\x07\x02\x01\x01x"), 5,
     Packet(Kind.PUBLISH, topic="a", payload=b"x", qos=1, packet_id=7)),
    (packet(0x82, b"\0\x05" + text(b"#") + b"\0" + text(b"b") + b"\1"), 4,
     Packet(Kind.SUBSCRIBE, packet_id=5, filters=2)),
    (packet(0xC0, b""), 4, Packet(Kind.PINGREQ)),
    (packet(0xE0, b""), 4, Packet(Kind.DISCONNECT)),
    (packet(0xE0, b"\x04\0"), 5, Packet(Kind.DISCONNECT)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "version", "wanted"), TAKEN)
def test_what_is_taken(data: bytes, version: int, wanted: Packet) -> None:
    assert take(data + b"more", version) == (wanted, b"more")
    for cut in range(len(data)):
        assert take(data[:cut], version) == (None, data[:cut])


REFUSED: list[tuple[bytes, int, str]] = [
    (b"\x10\xff\xff\xff\xff\x01", 0, "bad_mqtt"),
    (b"\x10" + mqtt._length(MAX_PACKET_BYTES + 1), 0, "mqtt_too_long"),
    (packet(0x00, b""), 4, "bad_mqtt"),
    (packet(0x20, b"\0\0"), 4, "bad_mqtt"),
    (packet(0x62, b"\0\1"), 4, "bad_mqtt"),
    (packet(0xF0, b""), 5, "bad_mqtt"),
    (packet(0x11, b""), 0, "bad_mqtt"),
    (packet(0xC1, b""), 4, "bad_mqtt"),
    (packet(0x80, b"\0\1" + text(b"a") + b"\0"), 4, "bad_mqtt"),
    (packet(0x30, text(b"a")), 0, "mqtt_order"),
    (connect(), 4, "mqtt_order"),
    (connect(name=b"HTTP"), 0, "mqtt_version"),
    (connect(3, name=b"MQIsdp"), 0, "mqtt_version"),
    (connect(3), 0, "mqtt_version"),
    (connect(6), 0, "mqtt_version"),
    (connect(flags=3), 0, "bad_mqtt"),
    (connect(flags=0x1E, rest=text(b"me") + text(b"t") + text(b"m")), 0, "bad_mqtt"),
    (connect(rest=text(b"me") + b"x"), 0, "bad_mqtt"),
    (connect(rest=b"\0\x05me"), 0, "bad_mqtt"),
    (connect(4, 0x80, text(b"me")), 0, "bad_mqtt"),
    (packet(0x10, text(b"MQTT") + bytes((5, 2, 0, 60)) + b"\x80\x80\x80\x01"), 0, "bad_mqtt"),
    (packet(0x10, text(b"MQTT") + bytes((5, 2, 0, 60)) + b"\x09" + text(b"me")), 0, "bad_mqtt"),
    (packet(0x34, text(b"a") + b"\0\1x"), 4, "mqtt_qos"),
    (packet(0x36, text(b"a") + b"\0\1x"), 4, "mqtt_qos"),
    (packet(0x32, text(b"a") + b"\0\0x"), 4, "bad_mqtt"),
    (packet(0x30, text(b"") + b"\0x"), 5, "bad_mqtt"),
    (packet(0x30, b"\0\x05ab"), 4, "bad_mqtt"),
    (packet(0x30, text(b"a/+/b") + b"x"), 4, "bad_mqtt"),
    (packet(0x30, text(b"a/#") + b"x"), 4, "bad_mqtt"),
    (packet(0x30, text(b"\xff") + b"x"), 4, "bad_mqtt"),
    (packet(0x30, text(b"a\0") + b"x"), 4, "bad_mqtt"),
    (packet(0x82, b"\0\0" + text(b"a") + b"\0"), 4, "bad_mqtt"),
    (packet(0x82, b"\0\1"), 4, "bad_mqtt"),
    (packet(0xC0, b"x"), 4, "bad_mqtt"),
    (packet(0xC0, b"x"), 5, "bad_mqtt"),
    (packet(0xE0, b"\0"), 4, "bad_mqtt"),
    (packet(0x38, text(b"a") + b"x"), 4, "bad_mqtt"),
    (b"\xc0\x80\x00", 4, "bad_mqtt"),
    (b"\x30\x84\x80\x00" + text(b"a") + b"x", 4, "bad_mqtt"),
    (connect(flags=0x22), 0, "bad_mqtt"),
    (connect(flags=0x0A), 0, "bad_mqtt"),
]


@pytest.mark.parametrize(("data", "version", "name"), REFUSED)
def test_what_is_refused(data: bytes, version: int, name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        take(data, version)
    assert refused.value.name == name


def test_a_long_packet_is_not_waited_for() -> None:
    """A length of 268 MB is refused as soon as it is read, whatever follows."""
    with pytest.raises(WireRefusal):
        take(b"\x30\xff\xff\xff\x7f", 4)


ANSWERS: list[tuple[Callable[[], bytes], bytes]] = [
    (lambda: mqtt.connack(4), b"\x20\x02\0\0"),
    (lambda: mqtt.connack(5), b"\x20\x0c\0\0\x09\x24\x01\x25\0\x27\0\0\x20\0"),
    (lambda: mqtt.connack(5, 1200),
     b"\x20\x0f\0\0\x0c\x24\x01\x25\0\x27\0\0\x20\0\x13\x04\xb0"),
    (lambda: mqtt.puback(7), b"\x40\x02\0\x07"),
    (lambda: mqtt.suback(Packet(Kind.SUBSCRIBE, packet_id=5, filters=2), 4),
     b"\x90\x04\0\x05\x80\x80"),
    (lambda: mqtt.suback(Packet(Kind.SUBSCRIBE, packet_id=5, filters=1), 5),
     b"\x90\x04\0\x05\0\x83"),
    (mqtt.pingresp, b"\xd0\0"),
    (lambda: mqtt.disconnect(4, 0x96), b""),
    (lambda: mqtt.disconnect(5, 0x96), b"\xe0\x01\x96"),
    (lambda: mqtt._length(127), b"\x7f"),
    (lambda: mqtt._length(128), b"\x80\x01"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "wanted"), ANSWERS)
def test_an_answer(made: Callable[[], bytes], wanted: bytes) -> None:
    assert made() == wanted
