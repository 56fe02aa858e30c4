"""Profiles of brokers: what each can do, as data, and the settings that it therefore refuses.

A broker that speaks MQTT 3.1.1 alone acknowledges what it refuses and throws away. Such a profile
is offered only together with ``acknowledged_by = "verifier"``: the spool then lets go of a record
at the fleet's signed word and not at the broker's (ADR 40).

A profile is a promise about somebody else's service, so every number in it names the page that says
so. ``uplink.broker`` picks one; a setting that it cannot do is refused when the settings are read,
by the setting's own name, and not by a broker at three in the morning.

Decides which settings of [uplink] and [spool] go with which broker. Leaves to link/ how a session
is held, and to the broker what it tells by itself (Receive Maximum, Maximum Packet Size): that is
obeyed besides.

    PROFILES["aws-iot-core"].payload_bytes == 131072
    list(broker_rules(Settings(...)))    # one line for each setting that the profile cannot do
"""

from __future__ import annotations

from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import CONTRADICTION
from edgewarden.settings.tree import Broken
from edgewarden.settings.uplink import Uplink

LONGEST_TOPIC_SLASHES = 5
"""ew/1/<tenant>/<device>/<class>/<name> (wire/topics.py)."""
LONGEST_TOPIC_BYTES = 150
"""Prefix 4, tenant and device 63 each, the longest class and name 10, five slashes."""
LONGEST_CLIENT_ID_BYTES = 64
"""A board's name is its certificate's CN (wire/topics.py, MAX_SESSION_NAME)."""
RECORD_OF_COMMIT = 2
"""A record is at most twice the commit it is cut at (wire/record.py, MAX_RECORD_BYTES)."""
MQTT_311, MQTT_5 = 4, 5
"""Protocol levels (MQTT 3.1.1 §3.1.2.2, MQTT 5.0 §3.1.2.2)."""
TLS_PORT, SHARED_PORT = 8883, 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one kind of broker does.

    Attributes:
        title: for people.
        mqtt: the version it speaks, MQTT_5 or MQTT_311.
        refused: why it cannot be used at all; "" for most.
        payload_bytes: of one PUBLISH; None where the broker says it itself or has no limit.
        window: messages it takes without having acknowledged them.
        keepalive_s: lowest and highest interval it keeps to.
        transports, alpns: of uplink.transport and uplink.alpn, those that lead to a session
            with a client certificate.
        shared_alpn: the ALPN name that port 443 asks for; "" where it is like any other port.
        topic_slashes, topic_bytes, client_id_bytes: its limits; None for none.
        tells_void: whether PUBACK says that nobody was subscribed (0x10). Where it does not, what
            is published while the fleet has no session there is lost, and nobody is told.
        sources: where each fact is written.
    """

    title: str
    mqtt: int = MQTT_5
    refused: str = ""
    payload_bytes: int | None = None
    window: int = 65535
    keepalive_s: tuple[int, int] = (1, 65535)
    transports: tuple[str, ...] = ("mqtt", "websocket")
    alpns: tuple[str, ...] = ("none", "mqtt", "x-amzn-mqtt-ca")
    shared_alpn: str = ""
    topic_slashes: int | None = None
    topic_bytes: int | None = None
    client_id_bytes: int | None = None
    tells_void: bool = True
    sources: tuple[str, ...]


PROFILES: dict[str, Profile] = {
    "mqtt5": Profile(
        title="any broker that keeps to MQTT 5: Mosquitto, EMQX",
        sources=(
            "MQTT 5.0 §3.2.2.3: Receive Maximum and Maximum Packet Size are the broker's to say",
            "MQTT 5.0 §3.4.2.1: reason codes of PUBACK, 0x10 among them",
            "RFC 7301 and the registry of ALPN names: mqtt",
        ),
    ),
    "aws-iot-core": Profile(
        title="AWS IoT Core",
        payload_bytes=128 * 1024,
        window=100,
        keepalive_s=(30, 1200),
        transports=("mqtt",),
        alpns=("none", "x-amzn-mqtt-ca"),
        shared_alpn="x-amzn-mqtt-ca",
        topic_slashes=7,
        topic_bytes=256,
        client_id_bytes=128,
        tells_void=False,
        sources=(
            "AWS General Reference, AWS IoT Core endpoints and quotas, message broker: payload 128"
            " KB, 7 slashes and 256 bytes in a topic, client id 128 bytes, 100 unacknowledged"
            " messages of a client, keep-alive up to 1200 s (below 30 s it is not kept to; older"
            " editions say 5 s)",
            "AWS IoT Core Developer Guide, Device communication protocols: a client certificate"
            " goes with MQTT on 8883 without ALPN and on 443 with x-amzn-mqtt-ca; WebSocket with"
            " Signature Version 4 or an authorizer, ALPN mqtt with an authorizer",
            "AWS IoT Core Developer Guide, MQTT, reason codes: 0x10 is not among them; retained"
            " messages and a retained will are taken (the policy must allow iot:RetainPublish)",
        ),
    ),
    "mqtt311": Profile(
        title="any broker that keeps to MQTT 3.1.1 and no more",
        mqtt=MQTT_311,
        tells_void=False,
        sources=(
            "MQTT 3.1.1 §3.3.5: a server that does not allow a PUBLISH either acknowledges it or"
            " closes the connection; §3.4: PUBACK has no reason code",
        ),
    ),
    "nats": Profile(
        title="NATS server 2.9 and later, its MQTT listener with JetStream",
        mqtt=MQTT_311,
        payload_bytes=1024 * 1024,
        tells_void=False,
        sources=(
            "NATS documentation, MQTT: version 3.1.1; an account needs JetStream; a topic's / is a"
            " subject's .",
            "NATS documentation, configuration: max_payload is 1 MB unless it is set",
        ),
    ),
    "azure-iot-hub": Profile(
        title="Azure IoT Hub",
        mqtt=MQTT_311,
        refused="its topics are fixed (devices/ID/messages/events), and this agent's are not those",
        payload_bytes=256 * 1024,
        tells_void=False,
        sources=(
            "Azure IoT Hub, Communicate with an IoT hub using the MQTT protocol: 3.1.1, predefined"
            " topics, messages of 256 KB at most, not a general broker",
        ),
    ),
}


def fits_our_topics(profile: Profile) -> bool:
    """Whether every topic and client id of ours is within the broker's limits."""
    limits = (
        (profile.topic_slashes, LONGEST_TOPIC_SLASHES),
        (profile.topic_bytes, LONGEST_TOPIC_BYTES),
        (profile.client_id_bytes, LONGEST_CLIENT_ID_BYTES),
    )
    return all(limit is None or ours <= limit for limit, ours in limits)


def broker_rules(uplink: Uplink, bulk_commit_bytes: int) -> Iterator[Broken]:
    """One line for each setting that the chosen broker cannot do."""
    profile = PROFILES[uplink.broker]

    def no(key: str, text: str) -> Broken:
        return ("uplink", key), f"{text} (uplink.broker = {uplink.broker!r})", CONTRADICTION

    if profile.refused:
        yield no("broker", profile.refused)
        return
    if profile.mqtt != MQTT_5 and uplink.acknowledged_by != "verifier":
        text = (
            f"{profile.title} says nothing of what it refuses; it goes with acknowledged_by ="
            ' "verifier" alone'
        )
        yield no("broker", text)
    low, high = profile.keepalive_s
    if not low <= uplink.keepalive_s <= high:
        yield no("keepalive_s", f"{uplink.keepalive_s} is not kept to; {low} to {high} are")
    if uplink.window > profile.window:
        yield no("window", f"{uplink.window} is more than the {profile.window} it takes")
    if uplink.transport not in profile.transports:
        text = f"{uplink.transport} does not go with a client certificate there"
        yield no("transport", text)
    if uplink.alpn not in profile.alpns:
        yield no("alpn", f"{uplink.alpn} does not go with a client certificate there")
    if profile.shared_alpn and uplink.port == SHARED_PORT and uplink.alpn != profile.shared_alpn:
        yield no("port", f"{SHARED_PORT} asks for alpn = {profile.shared_alpn!r}")
    if profile.shared_alpn and uplink.port == TLS_PORT and uplink.alpn != "none":
        yield no("port", f"{TLS_PORT} goes without alpn")
    limit = profile.payload_bytes
    if limit is not None and bulk_commit_bytes * RECORD_OF_COMMIT > limit:
        text = f"{bulk_commit_bytes} makes records of twice that, and a message holds {limit}"
        where = f" (uplink.broker = {uplink.broker!r})"
        yield ("spool", "bulk_commit_bytes"), text + where, CONTRADICTION
