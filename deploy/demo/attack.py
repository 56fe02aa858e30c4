"""The attack of the demo: a forged and a replayed report, sent with the gateway's own valid
credentials.

The broker has no reason to refuse either: certificate, client id and topic are right. So what
refuses them is the verifier, and what it must say is ``bad_signature`` and ``replay``.

    forged    a genuine record with one byte of its payload changed
    replayed  a genuine record of long ago, byte for byte

Taking the client id over ends the gateway's own session; it comes back by itself, and may end this
one before the broker has said what it took. Then the rest is sent again.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgewarden.wire import cose

ROUNDS = 200
"""Of 50 ms each: the whole attack is bounded to ten seconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many messages went out, and how many the broker took."""

    sent: int
    delivered: int


def attack(
    identity: Path, host: str, port: int, device: str, messages: list[tuple[str, bytes]]
) -> Outcome:
    """Publish messages as the gateway; return what the broker took.

    Args:
        identity: folder with key.pem, cert.pem, ca.pem.
        messages: (topic, payload).
    """
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, device, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(context)
    taken: set[int] = set()

    def on_publish(_c: mqtt.Client, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
        if reason.value < 0x80:
            taken.add(mid)

    client.on_publish = on_publish
    client.connect(host, port, keepalive=30)
    try:
        for _ in range(ROUNDS):
            client.loop(0.05)
            if client.is_connected():
                break
        sent = [client.publish(topic, payload, qos=1).mid for topic, payload in messages]
        for _ in range(ROUNDS):
            if client.loop(0.05) != mqtt.MQTT_ERR_SUCCESS:
                client.reconnect()  # and what was not taken goes out again by itself
            if taken >= set(sent):
                break
    finally:
        client.disconnect()
        client.loop(0.05)
    return Outcome(len(messages), len(taken))


def forge(genuine: bytes) -> bytes:
    """The record with one bit of its payload changed; everything else stays as it was signed."""
    payload = cose.open_envelope(genuine, cose.ContentType.RECORD).payload
    at = genuine.index(payload) + len(payload) // 2
    return genuine[:at] + bytes([genuine[at] ^ 1]) + genuine[at + 1 :]
