"""The Mosquitto configuration of a fleet, as text.

What it promises, and the option that keeps it (mosquitto.conf(5), read for 2.0.11):

* nobody connects without a certificate under our root           require_certificate, cafile
* a gateway's name is its certificate's CN, whatever it says     use_identity_as_username
* a gateway cannot take another's session by its client id       use_username_as_clientid
* a gateway writes its own reports, evidence and status and      acl_file, patterns with %u
  reads its own challenges and results, nothing else
* messages wait for a verifier that is down                      persistence, max_queued_messages,
   no byte limit
* nothing larger than a commit of ours is taken                  max_packet_size

Left to others: believing anything that comes through it. The verifier treats the broker as hostile
(verify/).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

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


def listen_address(host: str) -> str | None:
    """Address to bind for a host that gateways use: an address itself, loopback for localhost,
    else all."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def mosquitto_conf(folder: Path, settings: FleetSettings, user: str) -> str:
    """Return mosquitto.conf.

    Args:
        folder: the broker's folder, absolute.
        settings: host, port and tenant.
        user: whom a broker started by root becomes.
    """
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
acl_file {folder / "acl"}

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
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


def acl(tenant: str) -> str:
    """Return the access list: gateways by pattern (%u is the certificate's CN), the fleet by
    name."""
    own = f"{PREFIX}/{tenant}/%u"
    return f"""\
# Written by `edgewarden-fleet init`. Whatever is not named here is denied.
pattern write {own}/r/#
pattern write {own}/e/evidence
pattern write {own}/s/status
pattern read {own}/e/nonce
pattern read {own}/e/result

user {FLEET_CN}
topic read {PREFIX}/{tenant}/#
topic write {PREFIX}/{tenant}/+/e/nonce
topic write {PREFIX}/{tenant}/+/e/result
"""
