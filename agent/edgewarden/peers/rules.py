"""The policy's rules about peers, as the text of one nftables table of our own.

    compile_network(policy, settings.network, users=..., generation=7).dump()

What a packet meets, in order. Going out: loopback; what belongs to a connection that was let
through before; then, if its socket is in a managed control group or of a managed user, that
subject's chain: the rules of the file that can concern it, first match first, and at its end a
refusal. Everybody else's sockets are not looked at further: root and its ssh are never managed
(settings/peers.py).

    output ─┬─ lo, established ─▶ accept
            ├─ control group ─▶ s0 ─┬─ allowed ─▶ accept
            ├─ user ──────────▶ s1 ─┤
            │                       └─ cN (count, log) ─▶ refuse       (by mode: modes.py)
            └─ accept
    input ──┬─ lo, established, ssh ─▶ accept
            ├─ limits ─▶ cN ─▶ over | full
            └─ listed ─▶ accept | cN ─▶ shut

Why text and not libnftables' JSON: Debian 12's 1.0.6 cannot say ``socket cgroupv2`` in JSON
(measured: "Expression type socket not allowed"). Why numbers everywhere: a name in the text makes
libnftables open /etc/passwd, services or protocols, and gate must open nothing.

Exact allows (address, tcp or udp, port) of one subject that follow each other become one set,
looked up at once however many they are; networks, ranges and names become a rule each.

What it leaves to others: users' numbers (users.py), units' places (places.py), today's addresses of
a name and today's control groups (gate fills ``h<i>v4`` and ``units<level>``), floods (limits.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from edgewarden.errors import OperatorFault
from edgewarden.peers.limits import ICMPV6_NEEDED, Limited, limit_body
from edgewarden.peers.numbers import Span, choice, merged, ports, segments, span
from edgewarden.peers.places import unit_path
from edgewarden.peers.users import Users
from edgewarden.plain import dataclass, field
from edgewarden.settings.policy import Policy
from edgewarden.settings.policy_peers import Egress, Peer
from edgewarden.settings.schema import Network
from edgewarden.wire.network_table import (
    MAX_COUNTERS,
    MAX_HOSTS,
    MAX_UNITS,
    Counter,
    NetworkTable,
    Unit,
)

PROTOCOL = {"tcp": (6,), "udp": (17,), "icmp": (1, 58)}
"""IANA protocol numbers; icmp is ICMP and ICMPv6."""
LOG_GROUP = 17751
"""NFLOG group of our own: 0x4557, "EW"."""
LOG_BYTES = 64
"""An IPv6 header and the ports."""
MAX_SUBJECTS = 128
MAX_EXACT = 65536
"""Addresses times ports of all exact rules: 100 bytes of kernel memory each."""
MAX_LINES = 256
"""Of a deny that names networks or ranges, each a line of its own: while a table is replaced, the
kernel finds nothing in a set of ranges for a moment (measured on 6.18: of 40 replacements, 88
packets went through a map of ranges, and none without). An allow may miss for that moment, a deny
may not."""
NAME_SIZE = 32
"""Of one name and family, twice what gate lets in: one that has ended counts until the kernel
collects it, up to a second later (measured: "Too many open files in system")."""
DHCP_CLIENT_PORTS = "{ 68, 546 }"
IGMP = 2
STANDING = "tcp flags & syn == 0 socket wildcard 0"
"""What is said to a socket with an address of its own: a connection's. Connection tracking begins
with our first table and sees a connection that stood before at its next packet; where that is the
other side's, it would be a stranger's, and an idle uplink or tunnel of this gateway would be deaf
until it speaks itself. A listener with an address of its own is met, too, and answers by RST."""
V4, V6 = "ip", "ip6"


def compile_network(
    policy: Policy,
    network: Network,
    *,
    users: Users,
    generation: int,
    place: Callable[[str], str] = unit_path,
) -> NetworkTable:
    """The table of a policy and the settings.

    Args:
        policy, network: checked.
        users: this gateway's.
        generation: rises with every change.
        place: the control group of a unit.

    Raises:
        OperatorFault: more names, units, users or addresses than there is room for; a user who is
            never managed.
    """
    if not (policy.egress or policy.ingress or network.managed_units or network.limits == "on"):
        return NetworkTable(
            generation, 0, network.dns_keep_s, network.dns_refresh_s, (), (), (), ""
        )
    body = _Body(_hosts(policy))
    units = _egress(body, policy.egress, network.managed_units, users, place)
    _input(body, policy, network)
    if len(body.counters) > MAX_COUNTERS:
        raise _fault(f"{len(body.counters)} ways to be refused; {MAX_COUNTERS} are the most")
    return NetworkTable(
        generation,
        len(policy.egress) + len(policy.ingress),
        network.dns_keep_s,
        network.dns_refresh_s,
        tuple(body.hosts),
        tuple(units),
        tuple(body.counters),
        body.text(),
    )


def _hosts(policy: Policy) -> dict[str, int]:
    names: dict[str, int] = {}
    for rule in (*policy.egress, *policy.ingress):
        for name in rule.host:
            names.setdefault(name, len(names))
    if len(names) > MAX_HOSTS:
        raise _fault(f"{len(names)} DNS names; {MAX_HOSTS} are the most")
    return names


@dataclass(slots=True)
class _Body:
    """The table as it grows: sets and maps, chains, counters."""

    hosts: dict[str, int]
    sets: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    exact: dict[tuple[str, frozenset[str]], str] = field(default_factory=dict)

    def counter(self, kind: str, label: str, then: str, *, rate: int = 5) -> str:
        """A chain that counts, logs a few a second, and goes on to ``then``."""
        name = f"c{len(self.counters)}"
        self.counters.append(Counter(name, kind, label))
        self.chains.append(
            f"counter {name} {{ }}\nchain {name} {{\ncounter name {name}\n"
            f"limit rate {rate}/second burst {2 * rate} packets "
            f'log prefix "{name}" group {LOG_GROUP} snaplen {LOG_BYTES}\ngoto {then}\n}}\n'
        )
        return name

    def exact_set(self, family: str, elements: frozenset[str]) -> str:
        """The name of a set with exactly these elements."""
        key = (family, elements)
        if key not in self.exact:
            if sum(len(known) for _, known in self.exact) + len(elements) > MAX_EXACT:
                raise _fault(f"more than {MAX_EXACT} exact addresses and ports")
            name = self.exact[key] = f"e{len(self.exact)}"
            kind = "ipv4_addr" if family == V4 else "ipv6_addr"
            listed = ", ".join(sorted(elements))
            self.sets.append(
                f"set {name} {{ type {kind} . inet_proto . inet_service; "
                f"elements = {{ {listed} }}; }}\n"
            )
        return self.exact[key]

    def text(self) -> str:
        names = "".join(
            f"set h{i}v{digit} {{ type ipv{digit}_addr; flags timeout; size {NAME_SIZE}; }}\n"
            for i in self.hosts.values()
            for digit in (4, 6)
        )
        return names + "".join(self.sets) + "".join(self.chains)


# --- egress -----------------------------------------------------------------------------------


def _egress(
    body: _Body,
    rules: Sequence[Egress],
    managed_units: Sequence[str],
    users: Users,
    place: Callable[[str], str],
) -> list[Unit]:
    """The chains of all subjects; returns the managed control groups."""
    uids = [users.spans(rule.name, rule.uid) for rule in rules]
    named = [tuple(map(place, rule.unit)) for rule in rules]
    paths = dict.fromkeys((*map(place, managed_units), *(one for found in named for one in found)))
    alone = [spans for rule, spans in zip(rules, uids, strict=True) if not rule.unit]
    spoken_of = segments([one for spans in alone for one in spans])
    if len(paths) > MAX_UNITS or len(spoken_of) > MAX_SUBJECTS:
        text = f"{len(paths)} units, {len(spoken_of)} ranges of users"
        raise _fault(f"{text}; {MAX_UNITS} and {MAX_SUBJECTS} are the most")
    refusals = {
        i: body.counter("egress-name" if r.host else "egress", r.name, "refuse")
        for i, r in enumerate(rules)
        if r.denies
    }
    units: list[Unit] = []
    for path in paths:
        chain = f"s{len(units)}"
        units.append(Unit(path.count("/") + 1, chain, path))
        mine = [
            (i, r, _skuid(uids[i])) for i, r in enumerate(rules) if not r.unit or path in named[i]
        ]
        _subject(body, chain, path.rpartition("/")[2], mine, refusals)
    verdicts: list[tuple[str, str]] = []
    for low, high in spoken_of:
        chain = f"s{len(units) + len(verdicts)}"
        mine = [
            (i, r, "")
            for i, r in enumerate(rules)
            if not r.unit and (not r.uid or any(a <= low and high <= b for a, b in uids[i]))
        ]
        _subject(body, chain, f"uid-{span(low, high)}", mine, refusals)
        verdicts.append((span(low, high), chain))
    _output(body, units, verdicts)
    return units


def _output(body: _Body, units: Sequence[Unit], verdicts: Sequence[tuple[str, str]]) -> None:
    if not units and not verdicts:
        return
    levels = sorted({unit.level for unit in units}, reverse=True)  # the closest unit first
    for level in levels:
        body.sets.append(f"map units{level} {{ type cgroupsv2 : verdict; }}\n")
    lines = [f"socket cgroupv2 level {level} vmap @units{level}\n" for level in levels]
    lines += [f"meta skuid {users} goto {chain}\n" for users, chain in verdicts]
    body.chains.append(
        'chain out {\noifname "lo" accept\nct state established,related accept\n'
        + "".join(lines)
        + "}\nchain output {\ntype filter hook output priority -10; policy accept;\n"
        "goto out\n}\n"
    )


def _subject(
    body: _Body,
    chain: str,
    who: str,
    rules: Sequence[tuple[int, Peer, str]],
    refusals: dict[int, str],
) -> None:
    """The chain of one subject: its rules in order, then no."""
    end = body.counter("egress", f"unlisted:{who}", "refuse")
    lines = _rule_lines(body, rules, refusals, "daddr")
    body.chains.append(f"chain {chain} {{\n{''.join(lines)}goto {end}\n}}\n")


def _rule_lines(
    body: _Body, rules: Iterable[tuple[int, Peer, str]], refusals: dict[int, str], side: str
) -> list[str]:
    lines: list[str] = []
    run: dict[tuple[str, str], set[str]] = {}
    """Exact allows since the last deny: (condition, family) -> elements."""

    def end_run() -> None:
        for (condition, family), elements in run.items():
            name = body.exact_set(family, frozenset(elements))
            key = f"{family} {side} . meta l4proto . th dport"
            lines.append(f"{condition}{key} @{name} accept\n")
        run.clear()

    for i, rule, condition in rules:
        if rule.denies:
            end_run()
        elif (found := _exact(rule)) is not None:
            for family, element in found:
                run.setdefault((condition, family), set()).add(element)
            continue
        then = f"goto {refusals[i]}" if rule.denies else "accept"
        lines += [f"{condition}{m}{then}\n" for m in _matches(rule, body.hosts, side)]
    end_run()
    return lines


def _exact(rule: Peer) -> list[tuple[str, str]] | None:
    """(family, element) of a rule that names nothing but single values; None for any other."""
    if rule.host or not rule.address or not rule.port:
        return None
    if any("-" in port for port in rule.port):
        return None
    found = []
    for text in rule.address:
        network = ipaddress.ip_network(text)
        if network.num_addresses != 1:
            return None
        family = V4 if network.version == 4 else V6
        for protocol in rule.protocol:
            number = PROTOCOL[protocol][0]
            found += [
                (family, f"{network.network_address} . {number} . {int(port)}")
                for port in rule.port
            ]
    return found


def _matches(rule: Peer, hosts: dict[str, int], side: str) -> list[str]:
    """The conditions of a rule, one line each for what must be said apart."""
    numbers = [n for protocol in rule.protocol for n in PROTOCOL[protocol]]
    head = f"meta l4proto {choice(str(n) for n in numbers)} " if numbers else ""
    spans = [span(*one) for one in ports(rule.port)]
    tails = [f"{head}th dport {one} " for one in _said(spans, rule, "-")] or [head]
    if not rule.address and not rule.host:
        return tails
    peers = []
    for family, version in ((V4, 4), (V6, 6)):
        networks = [n for n in map(ipaddress.ip_network, rule.address) if n.version == version]
        least = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]  # one version
        listed = [str(n).removesuffix("/32").removesuffix("/128") for n in least]
        peers += [f"{family} {side} {one} " for one in _said(listed, rule, "/")]
        peers += [f"{family} {side} @h{hosts[name]}v{version} " for name in rule.host]
    if len(peers) * len(tails) > MAX_LINES:
        raise _fault(f"rule {rule.name}: {len(peers)} networks times {len(tails)} ranges of ports")
    return [peer + tail for peer in peers for tail in tails]


def _said(values: Sequence[str], rule: Peer, ranged: str) -> list[str]:
    """Alternatives as one set, except ranges of a deny: see MAX_LINES."""
    if not values:
        return []
    if rule.denies and any(ranged in value for value in values):
        return list(values)
    return [choice(values)]


# --- ingress ----------------------------------------------------------------------------------


def _input(body: _Body, policy: Policy, network: Network) -> None:
    limited = Limited() if network.limits == "off" else limit_body(network, body.counter)
    body.sets += limited.sets
    body.chains += limited.chains
    if not policy.ingress and not limited.chains:
        return
    body.sets.append(f"set ssh {{ type inet_service; elements = {{ {network.ssh_port} }}; }}\n")
    lines = ['iifname "lo" accept\n', *limited.before, "ct state established,related accept\n"]
    lines += ["tcp dport @ssh accept\n", *limited.after]
    if policy.ingress:
        lines.append("goto listed\n")
        refusals = {
            i: body.counter("ingress-name" if r.host else "ingress", r.name, "shut")
            for i, r in enumerate(policy.ingress)
            if r.denies
        }
        listed = _rule_lines(
            body, [(i, r, "") for i, r in enumerate(policy.ingress)], refusals, "saddr"
        )
        if len(refusals) < len(policy.ingress):
            listed.append(f"goto {body.counter('ingress', 'unlisted', 'shut')}\n")
        body.chains.append(
            'chain in {\niifname "lo" accept\nct state established,related accept\n'
            "tcp dport @ssh accept\ngoto listed\n}\n"
        )
        body.chains.append(
            f"chain listed {{\n{STANDING} accept\n{ICMPV6_NEEDED} accept\n"
            f"meta l4proto {IGMP} accept\nudp dport {DHCP_CLIENT_PORTS} accept\n"
            f"{''.join(listed)}}}\n"
        )
    body.chains.append(
        "chain input {\ntype filter hook input priority -10; policy accept;\n"
        + "".join(lines)
        + "}\n"
    )


def _skuid(spans: Sequence[Span]) -> str:
    return f"meta skuid {choice(span(*s) for s in merged(spans))} " if spans else ""


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-NET-030", next_step="correct the policy file and compile it again"
    )
