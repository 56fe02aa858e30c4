"""Publishers of copies beside the signed records: [homeassistant] and [sparkplug].

Both are off without a host. They speak with a broker of the site's in sessions of their own:
Sparkplug B needs a last will, and MQTT has one for a connection. The gateway's key and certificate
are not used there.

Decides the keys, and that TLS is left out on this very machine alone.

    HomeAssistant().host is None;  HomeAssistant().period_s == 2
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import CONTRADICTION
from edgewarden.settings.fields import number, path, text, whole
from edgewarden.settings.tree import Broken
from edgewarden.settings.uplink import HOST_FORM

HERE = frozenset({"localhost", "127.0.0.1", "::1"})
"""Where a packet never leaves the machine."""
TLS_PORT, PLAIN_PORT = 8883, 1883
"""The registry of ports: secure-mqtt and mqtt."""

_FILE_FORM = re.compile(r"(?:/[A-Za-z0-9_@+][A-Za-z0-9._@+-]{0,63}){1,8}")
_NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME_RULE = "letters, digits, _ and -, starting with a letter or digit, at most 32"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LocalBroker:
    """Where copies go, the same for every publisher."""

    host: str | None = text(
        absent="off",
        help="The broker that takes copies, unsigned: whoever may write there can change them. The "
        "signed records go to the uplink as ever, and alarms go first. Without it nothing of this "
        "is loaded.",
        form=HOST_FORM,
        rule="a host name or an IP address",
        example='"localhost"',
    )
    port: int | None = whole(
        low=1,
        high=65535,
        absent="8883, or 1883 without ca",
        help="The broker's TCP port.",
        example="1883",
    )
    ca: str | None = text(
        absent="none",
        form=_FILE_FORM,
        rule="an absolute path",
        help="PEM file of the root that this broker's certificate comes from; TLS is spoken with "
        "it. Without it the broker must be on this machine (localhost, 127.0.0.1, ::1).",
        example='"/etc/edgewarden/site-ca.pem"',
    )
    credentials: str = path(
        "/etc/edgewarden/site-broker-credentials",
        help="A file with one line, USER:PASSWORD, for a broker that asks; not readable by "
        "everybody. Without the file none are given.",
    )
    period_s: float = number(
        2,
        low=1,
        high=3600,
        help="Seconds between two looks at what changed; of what came in between the last value is "
        "told, the others are counted in status (`publishers`, superseded).",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HomeAssistant(LocalBroker):
    """Home Assistant by MQTT discovery."""

    prefix: str = text(
        "homeassistant",
        form=_NAME_FORM,
        rule=_NAME_RULE,
        help="Home Assistant's discovery prefix.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sparkplug(LocalBroker):
    """Sparkplug B: this gateway is an edge node, each sensor a device."""

    group: str = text(
        "edgewarden", form=_NAME_FORM, rule=_NAME_RULE, help="The group that the edge node is in."
    )


def publish_rules(section: str, wanted: LocalBroker) -> Iterator[Broken]:
    """What the keys of a publisher must keep together."""
    if wanted.host is not None and wanted.ca is None and wanted.host not in HERE:
        text = f"{wanted.host} is not this machine; name the root of its certificate in ca"
        yield (section, "host"), text, CONTRADICTION


def port_of(wanted: LocalBroker) -> int:
    """The port that counts."""
    return wanted.port or (PLAIN_PORT if wanted.ca is None else TLS_PORT)
