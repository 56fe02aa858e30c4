"""[downstream]: the listener for devices behind the gateway, off unless an address is given.

Part of the settings' tree (schema.py); docs/devices.md says how a device comes in.
"""

from __future__ import annotations

import re

from edgewarden.plain import dataclass
from edgewarden.settings.fields import choice, number, path, tables, text, texts, whole

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PREFIX = re.compile(r"[a-z][a-z0-9+.-]{0,15}:[\x21-\x7e]{1,120}")
_DIGEST = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})")
# RFC 7468: what `openssl ... -pubout` writes, on one line or several.
_PUBLIC_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]{100,400}-----END PUBLIC KEY-----\s*"
)


_EXAMPLE_KEY = (
    "-----BEGIN PUBLIC KEY-----\\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE+uzm/lMq2qDRW5EIowsHrzYgIheG\\n"
    "LOnI80dezBFkw7TJ0DPpZJtDa6I8at+FaH052UOUP4QLsj2HeyslxAeVyw==\\n-----END PUBLIC KEY-----"
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DownstreamDevice:
    """What an operator knows of one device."""

    name: str = text(
        help="Its name: what follows the prefix in its certificate's URI.", example='"press-1"'
    )
    attestation_key: str | None = text(
        form=_PUBLIC_KEY,
        rule="a P-256 public key in PEM, as `openssl ec -pubout` writes it",
        absent="its TLS key",
        help="The key that signs its evidence, where that is not the key of its certificate. Only "
        "evidence by a key named here is ever affirming.",
        example=f'"{_EXAMPLE_KEY}"',
    )
    measurements: tuple[str, ...] = texts(
        most=32,
        form=_DIGEST,
        rule="a SHA-256, SHA-384 or SHA-512 in lower-case hex",
        help="What its software components may measure. Empty: its evidence is held to nothing.",
        example='["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]',
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Downstream:
    """The listener for devices behind the gateway."""

    listen: str | None = text(
        absent="off",
        form=_ADDRESS,
        rule="an IPv4 or IPv6 address; :: is all of both",
        help="The address it listens on.",
        example='"192.168.7.1"',
    )
    port: int = whole(8883, low=1024, high=65535, help="TCP port for MQTT and HTTPS, both on it.")
    ca: str = path(
        "/etc/edgewarden/devices/ca.pem",
        help="Certificates of the CA whose devices are let in; never the fleet's.",
    )
    certificate: str = path(
        "/etc/edgewarden/devices/server.pem", help="What the listener shows, with its chain."
    )
    key: str = path(
        "/etc/edgewarden/devices/server.key",
        help="Its key; the agent's user reads it, nobody else.",
    )
    crl: str | None = text(
        form=re.compile(r"/[\x21-\x7e]{1,200}"),
        rule="an absolute path",
        absent="none",
        help="A file with the CA's list of revoked certificates; read again each minute.",
        example='"/etc/edgewarden/devices/crl.pem"',
    )
    tls: str = choice("1.3", of=("1.3", "1.2"), help="The least version of TLS.")
    uri: str = text(
        "urn:edgewarden:downstream:",
        form=_PREFIX,
        rule="the beginning of a URI",
        help="What the URI in a device's certificate begins with; the rest is its name.",
    )
    admit: str = choice(
        "certified",
        of=("certified", "listed"),
        help="certified: whoever the CA named. listed: of those, the devices below alone.",
    )
    sessions: int = whole(64, low=1, high=256, help="Sessions that stand at a time.")
    handshakes: int = whole(
        8,
        low=2,
        high=64,
        help="TLS handshakes at a time; strangers have half of them, sources that lately showed a "
        "good certificate all.",
    )
    handshake_s: float = number(5, low=1, high=60, help="A handshake ends within so many seconds.")
    handshakes_per_source: int = whole(
        2, low=1, high=64, help="Handshakes of one address (IPv6: one /64) at a time."
    )
    handshakes_per_minute: int = whole(
        30, low=1, high=6000, help="Handshakes of one address (IPv6: one /64) in a minute."
    )
    handshakes_burst: int = whole(10, low=1, high=1000, help="As many at once are let through.")
    handshakes_per_s: int = whole(
        20,
        low=1,
        high=1000,
        help="Handshakes of all strangers in a second, and as many of known sources beside them.",
    )
    values_per_s: int = whole(
        20, low=1, high=1000, help="Readings of one device in a second; ten times as many at once."
    )
    evidence_valid_s: int = whole(
        86400, low=60, high=2592000, help="A device's evidence counts for so long."
    )
    device: tuple[DownstreamDevice, ...] = tables(
        DownstreamDevice, most=64, help="What is known of single devices."
    )
