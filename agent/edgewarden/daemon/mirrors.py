"""Whether readings are copied to anybody at all: without a host in [homeassistant] or [sparkplug]
nothing of the publishers is loaded, and a reading's way is the one it always was.

    mirrors = mirrors_of(settings, "gw-1", link)
    mirrors.take(reading)     # the sink of sensors: on to link, and beside it to the publishers
    mirrors.snapshot() == {}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from edgewarden.link.uplink import UplinkSnapshot
from edgewarden.ports import ClassState, Clock, FactSink, Randomness, ReadingsSink
from edgewarden.serial.portlife import SensorState
from edgewarden.settings.schema import Settings
from edgewarden.wire.facts import Event, Reading


class Port(Protocol):
    """One sensor."""

    def snapshot(self) -> SensorState:
        """What its port does."""


class Sends(Protocol):
    """The uplink."""

    def snapshot(self) -> UplinkSnapshot:
        """Whether a session stands."""


class Stores(Protocol):
    """The storage."""

    def state(self) -> dict[int, ClassState]:
        """Counters per class."""


class Owner(Protocol):
    """What publishers need of link; asked while it runs, not before."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def random(self) -> Randomness:
        """Jitter."""

    def take(self, fact: Event | Reading) -> None:
        """The sink that counts: triage and storage."""

    def take_many(self, readings: Sequence[Reading]) -> None:
        """The same for the readings of one read."""

    def status(self) -> dict[str, object]:
        """The status object, about a millisecond."""

    @property
    def sensors(self) -> Iterable[Port]:
        """The sensors that run."""

    @property
    def uplink(self) -> Sends:
        """Where signed records go."""

    @property
    def storage(self) -> Stores:
        """Where they wait."""


class Mirrors(Protocol):
    """The publishers together. On the loop's thread."""

    @property
    def take(self) -> FactSink:
        """The sink of sensors."""

    @property
    def take_many(self) -> ReadingsSink:
        """The same for the readings of one read."""

    async def run(self) -> None:
        """Publish, for as long as link runs; no fault of a broker ends it."""

    def snapshot(self) -> dict[str, object]:
        """Name -> what it did, for status."""


class NoMirrors:
    """None wanted."""

    def __init__(self, take: FactSink, take_many: ReadingsSink) -> None:
        self.take, self.take_many = take, take_many

    async def run(self) -> None:
        """Nothing, and at once."""

    def snapshot(self) -> dict[str, object]:
        """Nobody."""
        return {}


def mirrors_of(settings: Settings, device: str, owner: Owner) -> Mirrors:
    """The publishers that the settings ask for, or none."""
    if settings.homeassistant.host is None and settings.sparkplug.host is None:
        return NoMirrors(owner.take, owner.take_many)
    from edgewarden.daemon import publish

    return publish.build(settings, device, owner)
