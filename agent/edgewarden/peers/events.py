"""A refused packet as an event: OCSF network_activity (4001), with the rule that decided.

    network_event(verdict).detail["rule"] == "historian-to-plant"

A rule that names its peer by DNS is labelled ``by_name``: whoever answers DNS took part in it.
"""

from __future__ import annotations

import ipaddress

from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.local import UNKNOWN_UID, NetworkVerdict

REFUSE = 5
"""OCSF network_activity: activity_id 5, Refuse; an observed one was let through: 6, Traffic."""
TRAFFIC = 6
_ACTIONS = {"deny": "denied", "would_deny": "would_deny", "learned": "learned", "allow": "allowed"}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


def network_event(m: NetworkVerdict) -> Event:
    """The event of one refused packet."""
    peer: dict[str, Plain] = {"ip": str(ipaddress.ip_address(m.address))}
    detail: dict[str, Plain] = {
        "action": _ACTIONS[m.decision],
        "direction": m.direction,
        "mode": m.mode,
        "rule": m.rule,
        "by_name": m.by_name,
        "protocol": _PROTOCOLS.get(m.protocol, str(m.protocol)),
        "packets_refused": m.total,
    }
    outward = m.direction == "egress"
    if m.port and outward:
        peer["port"] = m.port
    elif m.port:
        detail["dst_endpoint"] = {"port": m.port}
    detail["dst_endpoint" if outward else "src_endpoint"] = peer
    if m.uid != UNKNOWN_UID:
        detail["process"] = {"uid": m.uid}
    denied = m.decision == "deny"
    return Event(
        OCSF.NETWORK_ACTIVITY, REFUSE if denied else TRAFFIC, _severity(m), m.boot_ns, detail,
        _code(m),
    )  # fmt: skip


def _severity(m: NetworkVerdict) -> Severity:
    if m.decision == "learned":
        return Severity.INFORMATIONAL
    if m.decision == "deny" and m.direction == "egress":
        return Severity.HIGH  # a program of this gateway tried to reach whom it must not
    return Severity.MEDIUM


def _code(m: NetworkVerdict) -> str:
    if m.decision not in ("deny", "would_deny"):
        return ""
    if m.direction == "limit":
        return "EW-NET-035"
    return "EW-NET-033" if m.decision == "deny" else "EW-NET-034"
