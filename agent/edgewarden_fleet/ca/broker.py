"""The Mosquitto configuration of a fleet, as text.

What it promises, and the option that keeps it (mosquitto.conf(5), read for 2.0.11):

* nobody connects without a certificate under our root           require_certificate, cafile
* who falls back to TLS 1.2 has AEAD and forward secrecy        tls_version (a least one), ciphers
* a gateway's name is its certificate's CN, whatever it says     use_identity_as_username
* a gateway cannot take another's session by its client id       use_username_as_clientid
* a gateway writes its own reports, evidence and status and      plugin dynamic-security: a role
  reads its own challenges and results, nothing else             for each (ADR 28)
* a revoked gateway's session ends                               the same; ingest/admission.py
* a replaced board's certificate is not its successor            another CN: wire/topics.py
* without that plugin: the first still, the second by a reload   acl_file, patterns with %u
* messages wait for a verifier that is down                      persistence, max_queued_messages,
   no byte limit
* nothing larger than a commit of ours is taken                  max_packet_size

Left to others: believing anything that comes through it. The verifier treats the broker as hostile
(verify/).
"""

from __future__ import annotations

import glob
import hashlib
import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from edgewarden.trust.tls import TLS12_CIPHERS
from edgewarden.wire.topics import PREFIX
from edgewarden_fleet.ca.certificates import FLEET_CN
from edgewarden_fleet.ca.settings import FleetSettings

MAX_PACKET_BYTES = 262_144
"""A record is at most 128 kB (wire/record.py); twice that leaves room for the MQTT header and a
later format."""
MAX_QUEUED_MESSAGES = 100_000
"""Waiting for a verifier that is down: 1,000 gateways, a message a minute, 1.6 hours."""
MAX_INFLIGHT_MESSAGES = 256
"""Sent to the verifier and not yet acknowledged: one group commit (ingest/worker.py) and one on
its way."""
AUTOSAVE_S = 30
"""Mosquitto acknowledges before it writes its queue to disk. A broker that is killed while the
fleet is down loses what came in these seconds; the chain shows that as a gap. Shorter costs a whole
rewrite of the queue each time."""

GATEWAY_WRITES = ("r/+", "e/evidence", "s/status")
GATEWAY_READS = ("e/nonce", "e/result", "e/ack")
"""What a gateway may say and hear, below ``ew/1/<tenant>/<device>/``."""
FLEET_ROLE = "fleet"
STATE_FILE = "dynamic-security.json"
"""The plugin's own state, in the broker's data folder: the plugin rewrites it with each change."""
_PLUGIN = "mosquitto_dynamic_security.so"
_PLUGIN_FOLDERS = ("/usr/lib/*-linux-gnu*", "/usr/lib", "/usr/lib64", "/usr/local/lib")


def find_plugin(folders: Sequence[str] = _PLUGIN_FOLDERS) -> str | None:
    """The dynamic-security plugin of Mosquitto's package, or None."""
    for folder in folders:
        found = sorted(glob.glob(f"{folder}/{_PLUGIN}"))
        if found:
            return found[0]
    return None


def listen_address(host: str) -> str | None:
    """Address to bind for a host that gateways use: an address itself, loopback for localhost,
    else all."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def mosquitto_conf(
    folder: Path, settings: FleetSettings, user: str, plugin: str | None = None
) -> str:
    """Return mosquitto.conf.

    Args:
        folder: the broker's folder, absolute.
        settings: host, port and tenant.
        user: whom a broker started by root becomes.
        plugin: the dynamic-security plugin; None: an access list in a file instead.
    """
    access = f"acl_file {folder / 'acl'}"
    if plugin is not None:
        access = f"plugin {plugin}\nplugin_opt_config_file {folder / 'data' / STATE_FILE}"
    address = listen_address(settings.broker.host)
    listener = f"listener {settings.broker.port}" + (f" {address}" if address else "")
    return f"""\
# Written by `edgewarden-fleet init`. Start: mosquitto -c {folder / "mosquitto.conf"}
user {user}
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true

per_listener_settings false
allow_anonymous false
{access}

persistence true
persistence_location {folder / "data"}/
autosave_interval {AUTOSAVE_S}
max_queued_messages {MAX_QUEUED_MESSAGES}
max_queued_bytes 0
max_inflight_messages {MAX_INFLIGHT_MESSAGES}
max_packet_size {MAX_PACKET_BYTES}

{listener}
cafile {folder / "ca.pem"}
certfile {folder / "server.pem"}
keyfile {folder / "server-key.pem"}
tls_version tlsv1.2
ciphers {TLS12_CIPHERS}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


def acl(tenant: str, gone: Collection[str] = (), later: Mapping[str, str] | None = None) -> str:
    """Return the access list, for brokers without the plugin: gateways by pattern (%u is the
    certificate's CN), the fleet by name.

    Args:
        gone: names of boards that are revoked or replaced; denied.
        later: names of boards that are not the first in their place, with the device of each.
    """
    own = f"{PREFIX}/{tenant}/%u"
    lines = [
        "# Written by `edgewarden-fleet`. Whatever is not named here is denied.",
        *(f"pattern write {own}/{topic}" for topic in GATEWAY_WRITES),
        *(f"pattern read {own}/{topic}" for topic in GATEWAY_READS),
        "",
        f"user {FLEET_CN}",
        f"topic read {PREFIX}/{tenant}/#",
        *(f"topic write {PREFIX}/{tenant}/+/{topic}" for topic in GATEWAY_READS),
    ]
    for name, device in sorted((later or {}).items()):
        place = f"{PREFIX}/{tenant}/{device}"
        lines += ["", f"user {name}"]
        lines += [f"topic write {place}/{topic}" for topic in GATEWAY_WRITES]
        lines += [f"topic read {place}/{topic}" for topic in GATEWAY_READS]
    for name in sorted(gone):
        lines += ["", f"user {name}", "topic deny #"]
    return "\n".join(lines) + "\n"


def first_state(tenant: str) -> str:
    """Return the plugin's state of a fleet without gateways: nobody may do anything but the fleet.

    ``publishClientReceive`` is allowed by default because nobody can subscribe to what is not his.
    """
    commands = "$CONTROL/dynamic-security/#"
    writes = [f"{PREFIX}/{tenant}/+/{topic}" for topic in GATEWAY_READS]
    acls = [
        _allow("subscribePattern", f"{PREFIX}/{tenant}/#"),
        _allow("subscribePattern", commands),
        _allow("publishClientSend", commands),
        _allow("publishClientReceive", commands),
        *(_allow("publishClientSend", topic) for topic in writes),
    ]
    return json.dumps(
        {
            "defaultACLAccess": {
                "publishClientSend": False,
                "publishClientReceive": True,
                "subscribe": False,
                "unsubscribe": True,
            },
            "clients": [{"username": FLEET_CN, "roles": [{"rolename": FLEET_ROLE}]}],
            "groups": [],
            "roles": [{"rolename": FLEET_ROLE, "acls": acls}],
        },
        indent=1,
    )


def role_of(session: str) -> str:
    """The name of a board's role, from its name at the broker. It names what it allows, too: a
    version that allows something else makes another role."""
    allowed = " ".join((*GATEWAY_WRITES, *GATEWAY_READS)).encode()
    return f"gateway.{session}.{hashlib.sha256(allowed).hexdigest()[:8]}"


def gateway_acls(tenant: str, device: str) -> list[dict[str, object]]:
    """What a gateway's role allows. By name: Mosquitto 2.0.11's plugin knows no %u (seen)."""
    own = f"{PREFIX}/{tenant}/{device}"
    return [
        *(_allow("publishClientSend", f"{own}/{topic}") for topic in GATEWAY_WRITES),
        *(_allow("subscribeLiteral", f"{own}/{topic}") for topic in GATEWAY_READS),
    ]


def _allow(kind: str, topic: str) -> dict[str, object]:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}
