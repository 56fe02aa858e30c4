"""The judge of sessions: a peer whose certificate held comes in, or does not; and who is where.

Pure: certificates, places and times in, words out. Leaves to listener.py to close what is to be
closed, to desk.py to tell and to keep.

A new session, rules in order, each with its refusal's name:

    no_name, two_names, foreign_name     certificate.py
    not_listed                           only listed devices are admitted, and it is none of them
    quarantined                          until an operator's word
    other_key                            not the key that is pinned          a finding
    too_many_devices                     no room for one more pin
    too_many_here                        this device has MAX_HERE sessions

Two places at once: a device has one place. It may move: whoever leaves is silent from then on, and
the kernel finds a dead connection within KEEPALIVE. So two boards show a name, and both are
quarantined, when

    spoke     something comes from one place after a session of another place began
    stand     sessions of two places have stood together for OVERLAP_S
    turns     the place changed TURNS times within TURNS_S: two that take turns, each with short
              sessions; whoever moves does not go back and forth

    one TCP session A |=======......| dead        moved: A fell silent, B is the device
    another         B        |===========
    one TCP session A |======x==|                 two: A spoke after B began
    another         B      |====|

Two boards behind one address (a NAT) are one place: not seen here. Said in docs/devices.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edgewarden.downstream.lineage import MAX_DEVICES, Devices

KEEPALIVE = (5, 2, 3)
"""TCP_KEEPIDLE, TCP_KEEPINTVL (seconds), TCP_KEEPCNT: a peer that is gone is found in 11 s."""
OVERLAP_S = 15.0
"""KEEPALIVE's 11 s and room: after it both ends are there."""
TURNS = 3
TURNS_S = 600.0
"""A move, and back, is two. A device on two networks that changes more often needs a cable."""
MAX_HERE = 4
"""Sessions of one device: a publisher, a script beside it, and both again while they reconnect."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whoever shows a certificate of our CA.

    Attributes:
        name: from its SAN URI.
        key: SHA-256 of its SubjectPublicKeyInfo.
        place: its address (budget.py).
    """

    name: str
    key: bytes
    place: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a session: refused by name, or let in, perhaps after its key is pinned."""

    refusal: str = ""
    why: str = ""
    pin: bool = False


def judge(peer: Peer, devices: Devices, listed: Collection[str] | None, here: int) -> Verdict:
    """Judge a new session.

    Args:
        listed: the only names let in; None lets everyone in whom the CA named.
        here: sessions this device has.
    """
    if listed is not None and peer.name not in listed:
        return Verdict("not_listed", "it is not among the devices of the settings")
    known = devices.known.get(peer.name)
    if known is not None and known.quarantine:
        return Verdict("quarantined", known.quarantine)
    if known is not None and known.key and known.key != peer.key:
        return Verdict(
            "other_key",
            f"its key is {peer.key.hex()[:16]}.., {known.key.hex()[:16]}.. is pinned",
        )
    if known is None and len(devices.known) >= MAX_DEVICES:
        return Verdict("too_many_devices", f"{MAX_DEVICES} are pinned")
    if here >= MAX_HERE:
        return Verdict("too_many_here", f"it has {here} sessions")
    return Verdict(pin=known is None or not known.key)


@dataclass(slots=True)
class _Standing:
    """A session that stands."""

    name: str
    place: str
    since_ns: int


@dataclass(slots=True)
class Whereabouts:
    """Which device is where. Every method names the reason for a quarantine, or "".

    Attributes:
        sessions: id -> where and since when.
        turns: name -> (when, place) of each change.
    """

    sessions: dict[int, _Standing] = field(default_factory=dict)
    turns: dict[str, deque[tuple[int, str]]] = field(default_factory=dict)

    def begin(self, number: int, name: str, place: str, now_ns: int) -> str:
        """A session was let in; numbers grow."""
        self.sessions[number] = _Standing(name, place, now_ns)
        seen = self.turns.setdefault(name, deque(maxlen=TURNS + 1))
        if not seen or seen[-1][1] != place:
            seen.append((now_ns, place))
        if len(seen) == TURNS + 1 and now_ns - seen[1][0] <= TURNS_S * 1e9:
            places = " and ".join(sorted({where for _, where in seen})[:3])
            return f"it took turns between {places}"
        return ""

    def spoke(self, number: int) -> str:
        """Something came in a session."""
        mine = self.sessions[number]
        for later, other in self.sessions.items():
            if later > number and _apart(mine, other):
                return f"it spoke from {mine.place} while it was at {other.place}"
        return ""

    def end(self, number: int) -> None:
        """A session is over."""
        self.sessions.pop(number, None)

    def together(self, now_ns: int) -> Mapping[str, str]:
        """Name -> reason, of devices that stand in two places for too long."""
        found: dict[str, str] = {}
        by_age = sorted(self.sessions.values(), key=lambda one: one.since_ns)
        for i, old in enumerate(by_age):
            for young in by_age[i + 1 :]:
                if _apart(old, young) and now_ns - young.since_ns >= OVERLAP_S * 1e9:
                    found[old.name] = f"it is at {old.place} and at {young.place}"
        return found

    def of(self, name: str) -> list[int]:
        """The sessions of a device."""
        return [number for number, one in self.sessions.items() if one.name == name]

    def forget(self, name: str) -> None:
        """An operator has spoken: what was before does not count."""
        self.turns.pop(name, None)


def _apart(one: _Standing, other: _Standing) -> bool:
    return one.name == other.name and one.place != other.place
