"""What a publisher of copies is to the process that runs it: messages from facts, nothing else.

speaker.will()                  before each connection
speaker.born(look)              once the session stands: everything is to be said again
speaker.due(look, 40)           every look: at most so many messages, in this order
speaker.heard(topic, payload)   what the broker brought
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgewarden.mirror.latest import Value
from edgewarden.plain import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One PUBLISH."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """The moment at which messages are made.

    Attributes:
        boot_ns, wall_ns: both clocks.
        alive: source -> whether it is heard.
    """

    boot_ns: int
    wall_ns: int
    alive: Mapping[str, bool]

    def wall_ms(self, seen_mono_ns: int) -> int:
        """Milliseconds since 1970 of a moment of the boot clock, not below 0."""
        return max(0, (self.wall_ns - self.boot_ns + seen_mono_ns) // 1_000_000)


class Speaker(Protocol):
    """A way to say it. Pure; one caller; raises nothing."""

    topics: tuple[str, ...]
    """What is subscribed to before anything is said."""
    refused: int
    """Messages that came and were not honoured."""

    def will(self) -> Message:
        """What the broker says when the session ends. Called once for each connection."""

    def born(self, look: Look) -> None:
        """A session stands: whatever was said before is forgotten."""

    def due(self, look: Look, most: int) -> list[Message]:
        """What is to be said now, at most so many."""

    def heard(self, topic: str, payload: bytes) -> None:
        """A message came."""

    def kept(self) -> dict[str, object]:
        """What the next start must know. Asked when everything handed out by due() has arrived,
        and after will(), when nothing of the session before counts.
        """


_HEALTH: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("verdict", ("verdict",)),
    ("version", ("version",)),
    ("uplink-connected", ("uplink", "connected")),
    ("attestation", ("attestation", "result")),
    ("clock", ("clock", "state")),
    ("exec-mode", ("enforcement", "exec", "mode")),
    ("exec-denied", ("enforcement", "exec", "denied")),
    ("peripherals-denied", ("enforcement", "peripherals", "denied")),
    ("network-denied", ("enforcement", "network", "denied")),
)
"""Name, place in `edgewarden status`. A list of what is told, not of what is not: status names
serial numbers, devices and reasons that are nobody's on a broker of the site's.
"""


def health(status: Mapping[str, object]) -> dict[str, Value]:
    """What the gateway says of itself."""
    out: dict[str, Value] = {}
    for name, place in _HEALTH:
        at: object = status
        for step in place:
            at = at.get(step) if isinstance(at, Mapping) else None
        if isinstance(at, (bool, int, float, str)):
            out[name] = at
    spool = status.get("spool")
    for name, classes in (("alarms-waiting", ("alarm",)), ("records-waiting", ("audit", "bulk"))):
        out[name] = sum(_waiting(spool, label) for label in classes)
    return out


def _waiting(spool: object, label: str) -> int:
    of = spool.get(label) if isinstance(spool, Mapping) else None
    if not isinstance(of, Mapping):
        return 0
    durable, acked = of.get("durable"), of.get("acked")
    return durable - acked if isinstance(durable, int) and isinstance(acked, int) else 0
