"""What publishers of copies need of link, without a link: daemon.mirrors.Owner."""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.daemon.clock import SystemClock
from edgewarden.link.uplink import UplinkSnapshot
from edgewarden.ports import ClassState
from edgewarden.serial.portlife import PortState, SensorState
from edgewarden.wire.facts import Event, Quality, Reading
from edgewarden.wire.record import RecordClass


class Least:
    """Randomness that always draws the lowest."""

    def token_bytes(self, count: int) -> bytes:
        return bytes(count)

    def uniform(self, low: float, high: float) -> float:
        return low


class Sensor:
    """The boiler's port."""

    def __init__(self, owner: Mirrored) -> None:
        self._owner = owner

    def snapshot(self) -> SensorState:
        state = PortState.LIVE if self._owner.alive else PortState.SILENT
        return SensorState("boiler", state, 0, 0, 0.0, 0, "", {}, {}, "/dev/boiler", "")


class Mirrored:
    """A link that takes everything.

    Attributes:
        taken: what came the signed way.
        alive: whether the boiler is heard.
        alarms: (durable, acknowledged) of the class.
        connected: whether the uplink stands.
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.random = Least()
        self.sensors = [Sensor(self)]
        self.taken: list[Event | Reading] = []
        self.alive = True
        self.connected = True
        self.alarms = (0, 0)
        self.uplink = self
        self.storage = self

    def take(self, fact: Event | Reading) -> None:
        self.taken.append(fact)

    def take_many(self, readings: Sequence[Reading]) -> None:
        self.taken += readings

    def status(self) -> dict[str, object]:
        return {"verdict": "ok", "uplink": {"connected": True}}

    def snapshot(self) -> UplinkSnapshot:
        return UplinkSnapshot(self.connected, None, 0, 0, 0, None, (), {})

    def state(self) -> dict[int, ClassState]:
        durable, acked = self.alarms
        return {RecordClass.ALARM: ClassState(durable + 1, durable, acked, 0, 0)}

    def reading(
        self, name: str, value: float, quality: Quality = Quality.GOOD, raw: float | None = None
    ) -> Reading:
        return Reading("boiler", name, "Cel", value, self.clock.now().boot_ns, quality, raw)
