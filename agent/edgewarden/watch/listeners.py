"""New listeners: who else can be spoken to than before.

A listener is (protocol, address, port, user). The first look is the baseline: it is told as one
event with all of them, and nothing of it is a finding but what the settings do not expect, if they
expect anything.

Rules, in order:

1. Expected by the settings, in the baseline, or told before: no finding. A service that restarts is
   none.
2. UDP on a port of the ephemeral range is told when it is still there after SETTLED_S: every
   resolver opens such for a moment.
3. Anything else: EW-PROC-007, MEDIUM; LOW where only this machine can reach it (127/8, ::1).
4. At most MAX_KNOWN are remembered; the ones beyond are counted, and the count is told.

    Listeners(expected, ephemeral=range(32768, 61000)).see(now_ns, found, who)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgewarden.watch.findings import finding
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.processes import Listener, Process

MAX_KNOWN = 1024
"""About 150 bytes each. A gateway has some dozen."""
SETTLED_S = 30.0
OTHER = 99
"""OCSF network_activity."""
_LOCAL = ("127.", "::1")
_ANY = ("0.0.0.0", "::")  # noqa: S104  # what is compared, not bound

Key = tuple[str, str, int, int]


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
        self._known: set[Key] = set()
        self._waiting: dict[Key, int] = {}
        self._baseline = True
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
        by_key = {(f.protocol, f.address, f.port, f.uid): f for f in found}
        if self._baseline:
            self._baseline = False
            yield self._first(now_ns, by_key)
            return
        self._waiting = {k: at for k, at in self._waiting.items() if k in by_key}
        for key, listener in by_key.items():
            if key in self._known or not self._settled(key, listener, now_ns):
                continue
            if len(self._known) >= MAX_KNOWN:
                self.crowded += 1
                continue
            self._known.add(key)
            if not any(one.fits(listener) for one in self._expected):
                yield _new(now_ns, listener, who(listener))
        if self.crowded > self._crowd_told:
            yield self._crowd(now_ns)

    def _first(self, now_ns: int, by_key: dict[Key, Listener]) -> Event:
        self._known = set(list(by_key)[:MAX_KNOWN])
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
    local = listener.address.startswith(_LOCAL)
    evidence: dict[str, Plain] = {"endpoint": listener.as_map()}
    if process is None:
        evidence["program"] = "not visible to link: another user's"
    reach = ", every interface" if listener.address in _ANY else ""
    title = f"new listener {listener}{reach}, uid {listener.uid}"
    severity = Severity.LOW if local else Severity.MEDIUM
    return finding(now_ns, "EW-PROC-007", title, severity, process, evidence)
