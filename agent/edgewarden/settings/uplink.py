"""The settings of the session with the broker: [uplink].

Decides the keys, their units, limits and defaults. Leaves to schema.py the tree, to the daemon
what they become.

    Uplink().window == 20
"""

from __future__ import annotations

import re

from edgewarden.plain import dataclass
from edgewarden.settings.fields import choice, number, path, text, whole

# RFC 1123 §2.1 host names and RFC 4291 §2.2 addresses, written without brackets.
HOST_FORM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252}[A-Za-z0-9.:])?|::[0-9A-Fa-f:.]*")
# RFC 3986 §3.2 without userinfo: a password in a settings file would be copied and measured.
_PROXY_FORM = re.compile(
    r"(?:http|socks5)://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r":[1-9][0-9]{0,4}"
)
# RFC 3986 §3.3, the unreserved characters and slashes.
_URL_PATH_FORM = re.compile(r"/[A-Za-z0-9._~/-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Uplink:
    """The session with the broker."""

    broker: str = choice(
        "mqtt5",
        of=("mqtt5", "aws-iot-core", "mqtt311", "nats", "azure-iot-hub"),
        help="What kind of broker it is (settings/brokers.py has the facts and their sources). A "
        "setting that it cannot do is refused by name.",
    )
    acknowledged_by: str = choice(
        "broker",
        of=("broker", "verifier"),
        help="Whose word lets the spool forget a record. verifier: the fleet's, signed, that it is "
        "stored there (`acknowledge = true` in fleet.toml); the only one where a broker speaks "
        "MQTT 3.1.1.",
    )
    acknowledged_within_s: float = number(
        60,
        low=5,
        high=3600,
        help="Without progress in the verifier's word for so long, the session ends and everything "
        "is sent again in the next one.",
    )
    host: str | None = text(
        absent="the enrolment's",
        help="The broker's name or address.",
        form=HOST_FORM,
        rule="a host name or an IP address",
        example='"broker.example.org"',
    )
    port: int | None = whole(
        low=1,
        high=65535,
        absent="the enrolment's",
        help="The broker's TCP port for MQTT over TLS.",
        example="8883",
    )
    start_spread_s: float = number(
        10,
        low=0,
        high=600,
        help="The first connection waits a random part of this, so that a fleet does not connect "
        "in the same second after a power cut.",
    )
    keepalive_s: int = whole(30, low=5, high=1200, help="MQTT keep-alive interval, seconds.")
    window: int = whole(
        20, low=1, high=20, help="Messages sent and not yet acknowledged by the broker."
    )
    backlog_bytes_s: int = whole(
        262144,
        low=1024,
        high=67108864,
        help="What was kept while there was no session is sent at this rate at most, beside live "
        "data. Alarms are not held back.",
    )
    reconnect_base_s: float = number(
        1, low=0.1, high=60, help="Reconnect waits a random time below this, doubled each failure."
    )
    reconnect_cap_s: float = number(120, low=1, high=3600, help="The longest such wait.")
    proxy: str | None = text(
        absent="none",
        form=_PROXY_FORM,
        rule="http://HOST:PORT (CONNECT) or socks5://HOST:PORT, without a user",
        help="The site's proxy. The broker's name is resolved by the proxy, and TLS is with the "
        "broker as ever.",
        example='"http://proxy.example.org:3128"',
    )
    proxy_credentials: str = path(
        "/etc/edgewarden/proxy-credentials",
        help="A file with one line, USER:PASSWORD, for a proxy that asks; readable by the service "
        "alone. Without the file none are given.",
    )
    transport: str = choice(
        "mqtt",
        of=("mqtt", "websocket"),
        help="mqtt: MQTT inside TLS. websocket: MQTT inside a WebSocket inside TLS, where nothing "
        "else is let out.",
    )
    websocket_path: str = text(
        "/mqtt",
        form=_URL_PATH_FORM,
        rule="a path of an URL, /mqtt",
        help="Where the broker takes WebSockets.",
    )
    alpn: str = choice(
        "none",
        of=("none", "mqtt", "x-amzn-mqtt-ca"),
        help="The protocol named in the TLS handshake, for brokers that share port 443: mqtt, or "
        "AWS IoT Core's x-amzn-mqtt-ca.",
    )
