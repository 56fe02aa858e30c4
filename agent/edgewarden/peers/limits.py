"""Flood limits at layers 3 and 4, as part of the network table.

What this decides, in order, about what comes from outside and belongs to no connection yet (ssh
never comes here):

1. Enrolled addresses are let through, and from whomever it comes what IPv6 needs to work at all: no
   limit below concerns them. A hold is of a whole /64, the router's and everybody's own who is at
   the same wire, and by who has forged one address of it (measured: no neighbour was found any
   more, ssh over IPv6 was gone with the rest).
2. An address on hold is refused until the hold ends by itself (``hold_s``).
3. One address may open so many TCP connections a second, and hold so many at a time; IPv6 counts by
   /64. Who goes on against a limit (more than HOLD_RATE times a second) is put on hold.
4. UDP: so many packets a second from one address, and from all strangers together. Only what
   nothing here has answered counts.

and about TCP connections that stand: strangers share ``unknown_slots`` of them. A slot is taken by
the packet that completes the handshake, so that forged addresses cannot take any; who finds none is
reset. What the services take beyond that is reserved for enrolled devices: an attack from ten
thousand addresses cannot take their places.

A slot stands for the descriptor of our service, so it is the service that gives it back, by its own
FIN or RST. A stranger's FIN proves nothing: behind a hole in the sequence it never arrives. Nor
does its RST: one that counted is answered by silence, one that did not by an ACK, and there are
RESET_S to say so. ``gone`` remembers connections without a slot, so that their last ACK takes none
(it once did, for IDLE_S: 500 honest connections in ten minutes locked all strangers out). The
kernel collects what was given back each second. What neither side tells, a peer that vanished, ends
after IDLE_S without a packet. Not covered: a connection that is silent for longer and that the
service still holds (docs/policy.md).

A SYN flood from forged addresses is the kernel's business (SYN cookies; measured in the research
note: no harm with or without rules), so there is deliberately no limit on all strangers' SYNs
together: it would refuse honest strangers for what an attacker forged.

Every limit ends by itself: rates and holds are set elements with a timeout, counts follow the
connections. What it leaves to others: what a refusal does in each mode (modes.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Protocol

from edgewarden.plain import dataclass, field
from edgewarden.settings.schema import Network

SOURCES = 16384
"""Addresses watched at a time, about 2 MB of kernel memory a set; beyond it a new address is not
limited on its own, and the slots still hold."""
RATE_S = 10
"""How long a silent address's rate is remembered."""
HOLD_RATE, HOLD_BURST = 10, 50
"""Refusals a second that put an address on hold: a person's retries are far below, floods above."""
IDLE_S = 600
"""A connection that is silent so long gives its slot back: twice an MQTT keep-alive of 300 s."""
RESET_S = 5
"""How long our service has to say that a reset did not count: a delayed ACK takes 0.2 s."""
GONE_S = 65
"""How long a connection without a slot may say its last words: a closed socket waits 60 s for them
(FIN_WAIT2, TIME_WAIT) and answers by RST then."""
SYN = "tcp flags & (fin | syn | rst | ack) == syn"
PREFIX = "ffff:ffff:ffff:ffff::"
"""One /64 is one customer, RFC 6177."""
LOG_RATE = 1
# RFC 4890 section 4.4: what a host needs of ICMPv6 beside errors (those are "related").
ICMPV6_NEEDED = "meta l4proto 58 icmpv6 type { 130-137, 143 }"
DHCPV6_NEEDED = "ip6 saddr fe80::/10 udp dport 546"
"""What a server says to a client, RFC 8415; answers to a multicast are nobody's connection."""


class Counting(Protocol):
    """Makes a chain that counts and goes on; see peers/rules.py."""

    def __call__(self, kind: str, label: str, then: str, *, rate: int = ...) -> str: ...


@dataclass(slots=True)
class Limited:
    """What the limits add to the table.

    Attributes:
        sets, chains: text.
        before: lines of ``input`` before established connections are accepted.
        after: lines of ``input`` behind that, for what is new.
    """

    sets: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def limit_body(network: Network, counting: Counting) -> Limited:
    """The text of all limits."""

    def counter(label: str, then: str) -> str:
        return counting("limit", label, then, rate=LOG_RATE)

    known, known_sets = _known(network.enrolled)
    limited = Limited(sets=[*known_sets, *_sets(network.hold_s, network.unknown_slots)])
    held = counter("hold", "over")
    syn, count = counter("syn_per_source", "over"), counter("connections_per_source", "over")
    udp, strangers = counter("udp_per_source", "over"), counter("udp_unknown", "over")
    full = counter("unknown_slots", "full")
    lines = [*known, f"{ICMPV6_NEEDED} return", f"{DHCPV6_NEEDED} return"]
    for family, key in _keys():
        lines.append(f"{key} @held{family} goto {held}")
    lines += [f"{SYN} jump limits_tcp", "meta l4proto 17 goto limits_udp"]
    limited.chains += [
        _chain("limits", lines),
        _chain("limits_tcp", _tcp_lines(network, syn, count)),
        _chain("limits_udp", _udp_lines(network, udp, strangers)),
        *(_chain(f"again_{name}", _again_lines(name)) for name in (syn, count)),
        _chain("slots", _slot_lines(known, full)),
        _chain("slot_reset", _RESET_LINES),
        _chain("slot_answer", _ANSWER_LINES),
        "chain slots_out {\ntype filter hook output priority -10; policy accept;\n"
        "ct state established ct direction reply meta l4proto 6 ct id @slots jump slot_answer\n}\n",
    ]
    limited.before.append("ct state established ct direction original meta l4proto 6 jump slots\n")
    limited.after.append("jump limits\n")
    return limited


def _tcp_lines(network: Network, syn: str, count: str) -> list[str]:
    rate = f"limit rate over {network.syn_per_source}/second burst {network.syn_burst} packets"
    lines = []
    for family, key in _keys():
        lines.append(f"add @syn{family} {{ {key} {rate} }} goto again_{syn}")
        most = f"ct count over {network.connections_per_source}"
        lines.append(f"add @conn{family} {{ {key} {most} }} goto again_{count}")
    return lines


def _again_lines(refusal: str) -> list[str]:
    """Who is refused too often is held; every refusal is counted."""
    often = f"limit rate over {HOLD_RATE}/second burst {HOLD_BURST} packets"
    lines = [
        f"add @again{family} {{ {key} {often} }} add @held{family} {{ {key} }}"
        for family, key in _keys()
    ]
    return [*lines, f"goto {refusal}"]


def _udp_lines(network: Network, one: str, together: str) -> list[str]:
    rate, everybody = network.udp_per_source, network.udp_unknown
    lines = [
        f"add @udp{family} {{ {key} limit rate over {rate}/second burst {2 * rate} packets }} "
        f"goto {one}"
        for family, key in _keys()
    ]
    limit = f"limit rate over {everybody}/second burst {2 * everybody} packets"
    return [*lines, f"{limit} goto {together}"]


def _slot_lines(known: Sequence[str], full: str) -> list[str]:
    return [
        "tcp dport @ssh return",
        *known,
        # A repeated SYN belongs to an established entry as soon as we have answered the first, so a
        # forged pair of them would take a slot (measured: a flood of them took all).
        "tcp flags & syn != 0 return",
        "tcp flags & rst != 0 goto slot_reset",
        "ct id @gone return",
        "update @slots { ct id } return",
        f"goto {full}",
    ]


_RESET_LINES = (
    "ct id != @slots return",
    f"update @slots {{ ct id timeout {RESET_S}s }}",
)
"""Of a stranger's reset."""
_ANSWER_LINES = (
    "tcp flags & (fin | rst) == 0 update @slots { ct id } return",
    "delete @slots { ct id }",
    "add @gone { ct id }",
)
"""Of what our service sends to a stranger that has a slot."""


def _sets(hold_s: int, slots: int) -> list[str]:
    sets = []
    for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        head = f"{{ type {kind}; size {SOURCES}; flags dynamic"
        sets += [
            f"set held{family} {head}, timeout; timeout {hold_s}s; }}\n",
            f"set conn{family} {head}; }}\n",
        ]
        sets += [
            f"set {name}{family} {head}, timeout; timeout {RATE_S}s; }}\n"
            for name in ("syn", "udp", "again")
        ]
    slot = f"{{ typeof ct id; size {slots}; flags dynamic, timeout; timeout {IDLE_S}s; }}"
    gone = f"{{ typeof ct id; size {SOURCES}; flags dynamic, timeout; timeout {GONE_S}s; }}"
    return [*sets, f"set slots {slot}\n", f"set gone {gone}\n"]


def _keys() -> tuple[tuple[int, str], ...]:
    return (4, "ip saddr"), (6, f"ip6 saddr & {PREFIX}")


def _known(enrolled: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lines that leave a chain for enrolled addresses, and their sets."""
    lines, sets = [], []
    for version, family, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
        networks = [n for n in map(ipaddress.ip_network, enrolled) if n.version == version]
        if networks:
            least = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]  # one version
            listed = ", ".join(str(n) for n in least)
            lines.append(f"{family} saddr @known{version} return")
            sets.append(
                f"set known{version} {{ type {kind}; flags interval; "
                f"elements = {{ {listed} }}; }}\n"
            )
    return lines, sets


def _chain(name: str, lines: Sequence[str]) -> str:
    return f"chain {name} {{\n" + "".join(f"{line}\n" for line in lines) + "}\n"
