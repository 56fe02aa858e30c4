"""Where a device is, and whether that is one device.

Pure: sessions, places and times in, a reason for quarantine out, or "". Leaves to desk.py what
becomes of it. A place is an address (budget.py).

One device has one place. It may move, as often as it likes and to as many places as there are; then
its old session is silent, and the kernel ends it within KEEPALIVE. So these are two:

    spoke     something comes in a session that is older than one of another place
    stand     a session stands OVERLAP_S after one of another place began
    returns   QUICK arrivals in QUICK_S, or SLOW in DAY_S, at places that were left within DAY_S

It does not matter whether the younger session still stands: a copy of the key that comes and goes
between two words of the device's own session has been there.

    A |=======......| dead                 moved: A fell silent, B is the device
    B        |===========

    A |======......x==|                    two: A spoke after B began
    B        |==|

    A |=|     |=|     |=|                  two, or a device that goes to and fro: told apart by how
    B     |=|     |=|                      often, and by nothing else

**Not told apart**: two behind one address; a copy that is used while the device is away, or beside
a device of short sessions and fewer than SLOW / 2 times a day. Places are known since link started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edgewarden.plain import dataclass, field

KEEPALIVE = (5, 2, 3)
"""TCP_KEEPIDLE, TCP_KEEPINTVL (seconds), TCP_KEEPCNT: a peer that is gone is found in 11 s."""
OVERLAP_S = 15.0
"""KEEPALIVE's 11 s and room: whoever still stands then is there."""
QUICK, QUICK_S = 2, 600.0
"""A move, and back, is one. A device on two networks that changes more often needs a cable."""
SLOW, DAY_S = 12, 24 * 3600.0
"""A cart that charges in another hall six times a day is honest; a copy that is used each hour
beside the device is seen by its sixth or seventh use."""
MAX_PLACES = 16
"""Places of one device that are remembered for a day. The first ones are kept: who tries a new
address for each session does not have the device's own place forgotten."""


@dataclass(slots=True)
class Track:
    """The places of one device.

    Attributes:
        last: where its last session began.
        left: place -> when a session last began there; the last place and earlier ones.
        returns: when it came back to a place.
    """

    last: str = ""
    left: dict[str, int] = field(default_factory=dict)
    returns: deque[int] = field(default_factory=lambda: deque(maxlen=SLOW))

    def arrive(self, place: str, now_ns: int) -> str:
        """A session begins there."""
        moved, self.last = place != self.last, place
        self.left = {p: ns for p, ns in self.left.items() if now_ns - ns <= DAY_S * 1e9}
        known = place in self.left
        if known or len(self.left) < MAX_PLACES:
            self.left[place] = now_ns
        if moved and known:
            self.returns.append(now_ns)
        for count, within_s in ((QUICK, QUICK_S), (SLOW, DAY_S)):
            if len(self.returns) >= count and now_ns - self.returns[-count] <= within_s * 1e9:
                others = sorted(self.left, key=lambda p: -self.left[p])[:3]
                within = f"{count} times in {within_s / 60:.0f} min"
                return f"it took turns between {' and '.join(sorted(others))}: back {within}"
        return ""


@dataclass(slots=True)
class _Standing:
    """A session that stands.

    Attributes:
        rival: the first session of this device that began later and elsewhere, ended or not:
            (place, when).
    """

    name: str
    place: str
    rival: tuple[str, int] | None = None


@dataclass(slots=True)
class Whereabouts:
    """Which device is where. Every method names the reason for a quarantine, or ""."""

    sessions: dict[int, _Standing] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)

    def begin(self, number: int, name: str, place: str, now_ns: int) -> str:
        """A session was let in."""
        for other in self.sessions.values():
            if other.name == name and other.place != place and other.rival is None:
                other.rival = (place, now_ns)
        self.sessions[number] = _Standing(name, place)
        return self.tracks.setdefault(name, Track()).arrive(place, now_ns)

    def spoke(self, number: int) -> str:
        """Something came in a session."""
        mine = self.sessions[number]
        if mine.rival is not None:
            return f"it spoke from {mine.place} after it came from {mine.rival[0]}"
        return ""

    def end(self, number: int) -> None:
        """A session is over."""
        self.sessions.pop(number, None)

    def together(self, now_ns: int) -> Mapping[str, str]:
        """Name -> reason, of devices that stand in two places for too long."""
        found: dict[str, str] = {}
        for one in self.sessions.values():
            if one.rival is not None and now_ns - one.rival[1] >= OVERLAP_S * 1e9:
                found[one.name] = f"it is at {one.place} and came from {one.rival[0]}"
        return found

    def of(self, name: str) -> list[int]:
        """The sessions of a device."""
        return [number for number, one in self.sessions.items() if one.name == name]

    def forget(self, name: str) -> None:
        """An operator has spoken: what was before does not count."""
        self.tracks.pop(name, None)
