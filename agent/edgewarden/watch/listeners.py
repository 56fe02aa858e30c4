"""New listeners: who else can be spoken to than before.

A listener is (protocol, address, port, user). The first look is the baseline: it is told as one
event that names the first of them, and nothing of it is a finding. Who was there before the agent
started is for whoever reads that event.

Rules, in order:

1. Expected by the settings, in the baseline, or told before: no finding. A service that restarts is
   none.
2. UDP on a port of the ephemeral range is told when it is still there after SETTLED_S: every
   resolver opens such for a moment.
3. Anything else: EW-PROC-007, MEDIUM; LOW where only this machine can reach it (127/8, ::1).
4. At most MAX_KNOWN are remembered, and of one ordinary user MAX_OF_ONE: he hides nobody else's.
   Who is gone for longest is forgotten first. What finds no place is counted, each once while it is
   there, and the count is told.

    Listeners(expected, ephemeral=range(32768, 61000)).see(now_ns, found, who)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from edgewarden.plain import dataclass
from edgewarden.watch.findings import finding
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.processes import Listener, Process

MAX_KNOWN = 1024
"""About 150 bytes each, so a name and a number, not a tuple of four. A gateway has some dozen."""
MAX_OF_ONE = 256
OWNERS_PER_LOOK = 16
"""Whose it is costs a look at the descriptors of his processes, and he decides how many."""
SETTLED_S = 30.0
OTHER = 99
"""OCSF network_activity."""
_LOCAL = ("127.", "::ffff:127.")
_ANY = ("0.0.0.0", "::")  # noqa: S104  # what is compared, not bound

Key = str
"""``tcp 0.0.0.0 22 1000``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A listener that is no news; an address or user of "" or None fits any."""

    name: str
    protocol: str
    port: int
    address: str = ""
    uid: int | None = None

    def fits(self, listener: Listener) -> bool:
        """Whether ``listener`` is this one."""
        return (
            (self.protocol, self.port) == (listener.protocol, listener.port)
            and self.address in ("", listener.address)
            and self.uid in (None, listener.uid)
        )


class _Room:
    """Places among what is known, within one look; those that are gone make room, oldest first."""

    def __init__(self, known: dict[Key, int], present: Collection[Key]) -> None:
        self._known = known
        self._held = Counter(known.values())
        self._gone: dict[int, list[Key]] = {}
        for key in reversed(known):
            if key not in present:
                self._gone.setdefault(known[key], []).append(key)

    def make(self, uid: int) -> bool:
        """Whether there is a place now for one more of this user."""
        if uid and self._held[uid] >= MAX_OF_ONE:
            made = self._forget(uid)
        else:
            full = len(self._known) >= MAX_KNOWN
            made = not full or any(self._forget(one) for one in list(self._gone))
        self._held[uid] += made
        return made

    def _forget(self, uid: int) -> bool:
        gone = self._gone.get(uid)
        if not gone:
            self._gone.pop(uid, None)
            return False
        del self._known[gone.pop()]
        self._held[uid] -= 1
        return True


class Listeners:
    """What is known; one look after another.

    Args:
        expected: of the settings.
        ephemeral: ports the kernel gives to whoever asks for none.

    Attributes:
        crowded: listeners that were not remembered, since the start.
    """

    def __init__(self, expected: Iterable[Expected], ephemeral: range) -> None:
        self._expected = tuple(expected)
        self._ephemeral = ephemeral
        self._known: dict[Key, int] = {}  # whose it is
        self._beyond: set[Key] = set()
        self._waiting: dict[Key, int] = {}
        self._baseline = True
        self._settled_on: Iterable[Listener] | None = None  # nothing of it is news any more
        self._crowd_told = 0
        self.crowded = 0

    def see(
        self,
        now_ns: int,
        found: Iterable[Listener],
        who: Callable[[Listener], Process | None],
    ) -> Iterator[Event]:
        """What one look means.

        Args:
            now_ns: CLOCK_BOOTTIME.
            found: all listeners there are.
            who: whose it is, where that can be seen; asked for new ones only.
        """
        if found is self._settled_on and not self._waiting and not self._beyond:
            return
        by_key = {f"{f.protocol} {f.address} {f.port} {f.uid}": f for f in found}
        if self._baseline:
            self._baseline = False
            yield self._first(now_ns, by_key)
            return
        self._settled_on = found
        self._waiting = {k: at for k, at in self._waiting.items() if k in by_key}
        self._beyond &= by_key.keys()
        for key in [key for key in by_key if key in self._known]:
            self._known[key] = self._known.pop(key)  # seen last, forgotten last
        room = _Room(self._known, by_key)
        asked = 0
        for key, listener in by_key.items():
            if key in self._known or not self._settled(key, listener, now_ns):
                continue
            if not room.make(listener.uid):
                self.crowded += key not in self._beyond
                self._beyond.add(key)
                continue
            self._known[key] = listener.uid
            self._beyond.discard(key)
            if not any(one.fits(listener) for one in self._expected):
                asked += 1
                process = who(listener) if asked <= OWNERS_PER_LOOK else None
                yield _new(now_ns, listener, process)
        if self.crowded > self._crowd_told:
            yield self._crowd(now_ns)

    def _first(self, now_ns: int, by_key: dict[Key, Listener]) -> Event:
        self._known = {key: one.uid for key, one in list(by_key.items())[:MAX_KNOWN]}
        told: list[Plain] = [one.as_map() for one in list(by_key.values())[:64]]
        detail: dict[str, Plain] = {"baseline": len(by_key), "listeners": told}
        return Event(OCSF.NETWORK_ACTIVITY, OTHER, Severity.INFORMATIONAL, now_ns, detail)

    def _settled(self, key: Key, listener: Listener, now_ns: int) -> bool:
        if listener.protocol != "udp" or listener.port not in self._ephemeral:
            return True
        since_ns = self._waiting.setdefault(key, now_ns)
        if now_ns - since_ns < SETTLED_S * 1e9:
            return False
        del self._waiting[key]
        return True

    def _crowd(self, now_ns: int) -> Event:
        count, self._crowd_told = self.crowded - self._crowd_told, self.crowded
        title = "more listeners than can be told apart, counted only"
        return finding(now_ns, "EW-PROC-007", title, Severity.HIGH, None, {"repeated": count})


def _new(now_ns: int, listener: Listener, process: Process | None) -> Event:
    local = listener.address == "::1" or listener.address.startswith(_LOCAL)
    evidence: dict[str, Plain] = {"endpoint": listener.as_map()}
    if process is None:
        evidence["program"] = "not visible to link: another user's"
    reach = ", every interface" if listener.address in _ANY else ""
    title = f"new listener {listener}{reach}, uid {listener.uid}"
    severity = Severity.LOW if local else Severity.MEDIUM
    return finding(now_ns, "EW-PROC-007", title, severity, process, evidence)
