"""Who may begin a handshake: decided before TLS, when a stranger has cost us one accept.

Decides from addresses and times alone; knows no socket. Leaves to listener.py the accepting and
the deadline of a handshake, to sessions.py what becomes of a peer whose certificate held.

Rules of ``admit``, in order, each with its refusal's name:

1. sessions that stand                     ``too_many_sessions``
2. handshakes of one source at a time      ``source_busy``
3. handshakes of one source over time      ``source_rate``
4. handshakes of all at a time             ``busy``
5. handshakes of all over time             ``rate``

In 4 and 5 an address whose device was lately let in is not measured with strangers: those have
half of the slots and a bucket of their own, so that a storm of strangers leaves the other half.

A known source is an address: sixty devices of one /64 are sixty, and no neighbour takes their
turn. Strangers are an IPv4 address or the /64 of an IPv6 one (whoever has one address of a /64 has
all): the devices of a /64 that are new, or have not come since link started, share a turn with
every stranger in it.

    source = budget.source("192.0.2.7", now_ns)
    budget.admit(source, now_ns) == "" and budget.done(source)
    budget.remember("press-1", "192.0.2.7", now_ns)
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from edgewarden.plain import dataclass

MAX_SOURCES = 1024
"""Sources remembered, 200 bytes each; beyond it the one that was silent longest is forgotten and
starts with a full bucket. What that gains an attacker with as many addresses is held by rule 5."""
MAX_KNOWN = 256
"""Four times the devices that there can be (lineage.py): some change their address."""
KNOWN_OF_ONE = 4
"""Addresses of one device: who has a certificate and a /64 does not have the others forgotten."""
KNOWN_NS = 24 * 3600 * 10**9
"""A good certificate counts for a day: devices that report once a day stay known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of rules 1 to 5; the settings section [downstream] has them.

    Attributes:
        per_minute: handshakes of one source over time; ``burst`` of them at once.
        all_per_s: handshakes of all known sources, and again of all strangers, each second. One
            costs a Raspberry Pi some 5 ms: 20 and 20 are a fifth of one core.
    """

    sessions: int = 64
    handshakes: int = 8
    per_source: int = 2
    per_minute: int = 30
    burst: int = 10
    all_per_s: int = 20


class Bucket:
    """A token bucket: ``burst`` at once, ``per_s`` after that. Starts full."""

    __slots__ = ("burst", "last_ns", "left", "per_s")

    def __init__(self, per_s: float, burst: float, now_ns: int) -> None:
        self.per_s, self.burst = per_s, burst
        self.left, self.last_ns = burst, now_ns

    def has(self, now_ns: int, count: float = 1) -> bool:
        """Whether so many are left now; takes none."""
        passed_s = max(0, now_ns - self.last_ns) / 1e9
        self.left, self.last_ns = min(self.burst, self.left + passed_s * self.per_s), now_ns
        return self.left >= count

    def take(self, count: float = 1) -> None:
        """Take them; only after ``has``."""
        self.left -= count


class Budget:
    """See the module. Every method on the loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sources: OrderedDict[str, Bucket] = OrderedDict()
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._busy: dict[str, int] = {}
        self._all: dict[bool, Bucket] = {}
        self.sessions = 0
        self.refused: dict[str, int] = {}

    def admit(self, source: str, now_ns: int) -> str:
        """Let one handshake begin, or name why not; "" lets it, and ``done`` must follow."""
        refusal = self._judge(source, now_ns)
        if refusal:
            self.refused[refusal] = self.refused.get(refusal, 0) + 1
            return refusal
        self._bucket(source, now_ns).take()
        self._of_all(self.knows(source, now_ns), now_ns).take()
        self._busy[source] = self._busy.get(source, 0) + 1
        return ""

    def source(self, address: str, now_ns: int) -> str:
        """What an address of accept(2) is measured by now: itself once known, else source_of it."""
        place = place_of(address)
        return place if self.knows(place, now_ns) else source_of(address)

    def done(self, source: str) -> None:
        """A handshake that was let begin has ended."""
        left = self._busy[source] - 1
        self._busy[source] = left
        if not left:
            del self._busy[source]

    def remember(self, name: str, place: str, now_ns: int) -> None:
        """A device was let in there."""
        self._known[place] = name, now_ns
        self._known.move_to_end(place)
        its = [other for other, (owner, _) in self._known.items() if owner == name]
        if len(its) > KNOWN_OF_ONE:
            del self._known[its[0]]
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def knows(self, source: str, now_ns: int) -> bool:
        """Whether a device was lately let in there."""
        seen = self._known.get(source)
        return seen is not None and now_ns - seen[1] < KNOWN_NS

    def _judge(self, source: str, now_ns: int) -> str:
        limits, known = self._limits, self.knows(source, now_ns)
        if self.sessions >= limits.sessions:
            return "too_many_sessions"
        if self._busy.get(source, 0) >= limits.per_source:
            return "source_busy"
        if not self._bucket(source, now_ns).has(now_ns):
            return "source_rate"
        strangers = sum(n for s, n in self._busy.items() if not self.knows(s, now_ns))
        all_busy = sum(self._busy.values())
        if all_busy >= limits.handshakes or (not known and strangers * 2 >= limits.handshakes):
            return "busy"
        if not self._of_all(known, now_ns).has(now_ns):
            return "rate"
        return ""

    def _bucket(self, source: str, now_ns: int) -> Bucket:
        found = self._sources.get(source)
        if found is None:
            found = Bucket(self._limits.per_minute / 60, self._limits.burst, now_ns)
            self._sources[source] = found
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        self._sources.move_to_end(source)
        return found

    def _of_all(self, known: bool, now_ns: int) -> Bucket:
        if known not in self._all:
            self._all[known] = Bucket(self._limits.all_per_s, self._limits.all_per_s, now_ns)
        return self._all[known]


def source_of(address: str) -> str:
    """What a budget is kept by: an IPv4 address, or the /64 of an IPv6 one."""
    ip = _plain(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def place_of(address: str) -> str:
    """Where a device is: its whole address. Two boards on one network share their /64."""
    return str(_plain(address))


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of accept(2): no scope, and IPv4 also where a dual-stack socket maps it."""
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip if mapped is None else mapped
