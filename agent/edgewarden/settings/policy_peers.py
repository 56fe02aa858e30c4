"""``[[egress]]`` and ``[[ingress]]``: with whom programs of this gateway may speak.

    [[egress]]
    name = "historian-to-plant"
    unit = "historian.service"
    address = ["10.20.0.5", "2001:db8:20::/64"]
    protocol = "tcp"
    port = ["4840", "5000-5010"]

    [[ingress]]
    name = "broker"
    address = "10.20.0.0/16"
    protocol = "tcp"
    port = 8883

What a rule says (peers/rules.py compiles it):

- ``unit`` and ``uid`` name who speaks. A unit or user that an ``[[egress]]`` rule names is
  *managed*: what no rule allows it is denied. Nobody else is touched. A rule that names neither
  speaks of everybody who is managed.
- ``address`` and ``host`` name the other side: numbers, or DNS names that are looked up again and
  again. ``protocol`` and ``port`` narrow it. Values of one key are alternatives, and so are
  ``address`` and ``host``; other keys must all hold.
- The first rule of the section whose conditions all hold decides.

Rules in order: each key has its form; a port needs tcp or udp; an ``allow`` that names no other
side and no port allows everything, which is no allowlist, and is refused; root, the units
that let people in and the users of name, address and time services are never managed.

What it leaves to others: whether a user exists here (the policy one-shot), what a name means today
(link asks, gate bounds).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import BAD_FORM, CONTRADICTION, MISSING, OUT_OF_RANGE
from edgewarden.settings.fields import choice, text, texts
from edgewarden.settings.peers import (
    ADDRESS,
    ADDRESS_RULE,
    NEVER_MANAGED_USERS,
    UNIT,
    UNIT_RULE,
    address_fault,
    unit_fault,
)
from edgewarden.settings.policy_programs import MAX_UID, RULE_NAME, RULE_NAME_RULE
from edgewarden.settings.tree import Broken

MAX_PEER_RULES = 4096
"""Of one section: a plant's peers, each by name. One rule may name many more addresses."""
MAX_ADDRESSES = 8192
MAX_HOSTS = 16
"""Of one rule; of all rules peers/rules.py allows 64."""
MAX_PORTS = 64
PROTOCOLS = ("tcp", "udp", "icmp")

# RFC 1123 section 2.1; at least one dot: a bare name means something else on every network.
_HOST = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_HOST_RULE = "a full DNS name in lower case (api.example.org)"
_UID = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10})?|[a-z_][a-z0-9_-]{0,31}")
_UID_RULE = "a number, a range (1000-1999) or a user's name"
_PORT = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?")
_PORT_RULE = "a port or a range of ports (8000-8010)"
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What both sections have."""

    name: str = text(
        form=RULE_NAME,
        rule=RULE_NAME_RULE,
        help="The rule's name; every record names the rule that decided.",
        example='"historian-to-plant"',
    )
    action: str = choice("allow", of=("allow", "deny"), help="What follows when the rule holds.")
    address: tuple[str, ...] = texts(
        most=MAX_ADDRESSES,
        form=ADDRESS,
        rule=ADDRESS_RULE,
        help="The other side, by number.",
        example='["10.20.0.5", "2001:db8:20::/64"]',
    )
    host: tuple[str, ...] = texts(
        most=MAX_HOSTS,
        form=_HOST,
        rule=_HOST_RULE,
        help="The other side, by name: looked up again and again, and labelled by-name in every "
        "record, because whoever answers DNS decides.",
        example='"api.example.org"',
    )
    protocol: tuple[str, ...] = texts(
        most=len(PROTOCOLS),
        form=re.compile("|".join(PROTOCOLS)),
        rule="one of " + ", ".join(PROTOCOLS),
        help="icmp means ICMP and ICMPv6. Left out: any protocol.",
        example='"tcp"',
    )
    port: tuple[str, ...] = texts(
        most=MAX_PORTS,
        form=_PORT,
        rule=_PORT_RULE,
        numbers=True,
        help="The port spoken to: the other side's for egress, this gateway's for ingress.",
        example='["443", "8000-8010"]',
    )

    @property
    def denies(self) -> bool:
        """Whether it says no."""
        return self.action == "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress(Peer):
    """One rule about connections that start here."""

    unit: tuple[str, ...] = texts(
        most=64,
        form=UNIT,
        rule=UNIT_RULE,
        help="The systemd unit that speaks, with everything below its control group.",
        example='"historian.service"',
    )
    uid: tuple[str, ...] = texts(
        most=64,
        form=_UID,
        rule=_UID_RULE,
        numbers=True,
        help="The user whose socket it is; never root.",
        example='["historian", "1000-1999"]',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress(Peer):
    """One rule about connections that end here."""


def peer_rules(rule: Peer) -> Iterator[Broken]:
    """What a rule of either section must keep between its keys."""
    for value in rule.address:
        if fault := address_fault(value):
            yield ("address",), fault, BAD_FORM
    for value in rule.port:
        low, _, high = value.partition("-")
        if int(low) > int(high or low) or int(high or low) > MAX_PORT:
            yield ("port",), f"{value} is no port or range of ports", OUT_OF_RANGE
    if rule.port and set(rule.protocol) - {"tcp", "udp"}:
        yield ("port",), 'icmp has no ports; write protocol = "tcp" or "udp"', CONTRADICTION
    if rule.port and not rule.protocol:
        yield ("port",), 'a port needs a protocol: protocol = "tcp"', MISSING
    if not (rule.address or rule.host or rule.port or rule.protocol) and not rule.denies:
        yield (), "it would allow every peer; add address, host or port", MISSING


def egress_rules(rule: Egress) -> Iterator[Broken]:
    """As ``peer_rules``, and who may be managed."""
    yield from peer_rules(rule)
    for value in rule.uid:
        low, _, high = value.partition("-")
        if value == "root" or (low.isdecimal() and int(low) == 0):
            text = "root is never managed: it would be locked out of repairing this; name the unit"
            yield ("uid",), text, CONTRADICTION
        elif value in NEVER_MANAGED_USERS:
            text = f"{value} is never managed: without it this gateway is cut off; name the unit"
            yield ("uid",), text, CONTRADICTION
        elif low.isdecimal() and not int(low) <= int(high or low) <= MAX_UID:
            yield ("uid",), f"{value} is no user id or range of them", OUT_OF_RANGE
    for value in rule.unit:
        if fault := unit_fault(value):
            yield ("unit",), fault, CONTRADICTION
