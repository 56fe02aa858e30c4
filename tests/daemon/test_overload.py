"""The ladder's adapter: what is measured, where facts go, what is told and counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgewarden.daemon.overload import TELL_AGAIN_S, Overload
from edgewarden.errors import HardwareFault
from edgewarden.judge.overload import LIMITS
from edgewarden.ports import ClassState
from edgewarden.record.quota import Cap
from edgewarden.settings.schema import Settings
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock

ALARM, AUDIT, BULK = RecordClass
STEP_S = 2.0
CAP_BYTES = 100_000_000
"""Less than the settings' cap_bytes: what the filesystem allows."""
CALM_S = Settings().overload.calm_s
ROUTINE = Event(OCSF.PROCESS_ACTIVITY, 1, Severity.LOW, 0)
FINDING = Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 0)


class Storing:
    """What is measured of the storage, and what it was given."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.events: list[tuple[Event, RecordClass]] = []
        self.counts: dict[str, int] = {}
        self.full = 0.0
        self.refuses: HardwareFault | None = None
        self.busy_ns: int | None = None
        self.used = dict.fromkeys(RecordClass, 0)

    def submit_reading(self, reading: Reading) -> None:
        self.readings.append(reading)

    def submit_readings(self, readings: Sequence[Reading]) -> None:
        self.readings += readings

    def submit_event(self, event: Event, record_class: RecordClass) -> None:
        self.events.append((event, record_class))

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def state(self) -> dict[int, ClassState]:
        return {int(c): ClassState(1, 0, 0, used, 0) for c, used in self.used.items()}

    def fault(self) -> Exception | None:
        return self.refuses

    def busy_since_ns(self) -> int | None:
        return self.busy_ns

    def fill(self) -> float:
        return self.full


class World:
    """An adapter over a storage and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.clock = Storing(), FakeClock()
        self.pressure = folder / "memory"
        rest = self.storage, self.clock, STEP_S, self.pressure
        self.overload = Overload(Settings(), Cap(CAP_BYTES, "cap_percent"), *rest)

    def looks(self, count: int = 1, step_s: float = STEP_S) -> None:
        for _ in range(count):
            self.clock.advance(step_s)
            self.overload.look()

    def mode(self) -> object:
        return self.overload.state()["mode"]

    def steps(self) -> list[tuple[object, object]]:
        return [(e.detail["previous"], e.detail["mode"]) for e, _ in self.storage.events
                if e.code == "EW-AGT-012"]  # fmt: skip

    def value(self, value: float) -> None:
        self.overload.reading(Reading("s", "n", "", value, self.clock.now().boot_ns))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_at_rest_facts_go_through_and_nothing_is_told(world: World) -> None:
    world.looks(100)
    world.value(1.0)
    world.overload.event(ROUTINE, BULK)
    assert (len(world.storage.readings), world.storage.events) == (1, [(ROUTINE, BULK)])
    state = world.overload.state()
    assert (state["mode"], state["level"], state["since_s"], state["why"]) == (
        "normal",
        0,
        None,
        "",
    )


def test_an_episode_is_told_step_by_step_with_exact_counts(world: World) -> None:
    world.storage.full = 1.0
    world.looks(4)
    assert world.mode() == "essential"
    for n in range(5):
        world.value(float(n))
    for fact, c in ((ROUTINE, BULK), (ROUTINE, BULK), (FINDING, ALARM)):
        world.overload.event(fact, c)
    assert (FINDING, ALARM) in world.storage.events
    assert world.storage.readings == []
    state = world.overload.state()
    assert (state["why"], state["level"]) == ("the queue to the storage is 100% full", 3)
    assert state["next"] == LIMITS["queue"].next_step
    world.storage.full = 0.0
    world.looks(3 * round(CALM_S / STEP_S) + 3)
    assert world.mode() == "normal"
    assert world.steps() == [
        ("normal", "coalescing"), ("coalescing", "sampling"), ("sampling", "essential"),
        ("essential", "sampling"), ("sampling", "coalescing"), ("coalescing", "normal"),
    ]  # fmt: skip
    last, record_class = world.storage.events[-1]
    assert record_class is AUDIT
    assert last.detail["shed"] == {
        "readings_aggregated": 5, "readings_shed": 0, "routine_shed": 2, "plugs_shed": 0,
    }  # fmt: skip
    assert world.storage.counts == {"shed_routine": 2}
    (one,) = world.storage.readings
    assert one.spread is not None
    assert (one.value, one.spread.count) == (2.0, 5)
    assert [c for e, c in world.storage.events if e.detail.get("mode") == "essential"] == [ALARM]


def test_the_counts_of_an_episode_are_its_own(world: World) -> None:
    for _ in range(2):
        world.storage.full = 0.5
        world.looks(2)
        world.value(1.0)
        world.value(2.0)
        world.storage.full = 0.0
        world.looks(2 * round(CALM_S / STEP_S) + 2)
        assert world.mode() == "normal"
        told, _ = world.storage.events[-1]
        assert told.detail["shed"]["readings_aggregated"] == 2  # type: ignore[index,call-overload]


def test_what_waits_when_the_mode_ends_is_stored_and_counted(world: World) -> None:
    world.storage.full = 0.5
    world.looks(2)
    world.storage.full = 0.0
    given = 0
    while world.mode() != "normal":
        world.value(1.0)
        world.value(2.0)
        given += 2
        world.looks()
    stored = [1 if r.spread is None else r.spread.count for r in world.storage.readings]
    assert sum(stored) == given
    told, _ = world.storage.events[-1]
    assert told.detail["shed"]["readings_aggregated"] == given  # type: ignore[index,call-overload]


def test_a_mode_that_lasts_is_told_again_with_its_counts(world: World) -> None:
    world.storage.full = 0.5
    world.looks(2 + round(TELL_AGAIN_S / STEP_S))
    assert world.steps() == [("normal", "coalescing"), ("coalescing", "coalescing")]


def test_what_waits_is_stored_before_the_end(world: World) -> None:
    world.storage.full = 0.5
    world.looks(2)
    world.value(1.0)
    world.overload.finish()
    assert len(world.storage.readings) == 1
    assert world.steps()[-1] == ("coalescing", "coalescing")


def test_without_overload_the_end_says_nothing(world: World) -> None:
    world.overload.finish()
    assert world.storage.events == []


def measured(world: World) -> dict[str, float]:
    return world.overload.measured(world.clock.now().boot_ns)


def test_every_measure_is_in_the_table_and_at_rest_asks_for_nothing(world: World) -> None:
    world.pressure.write_text("some avg10=1.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00\n")
    found = measured(world)
    assert found.keys() == LIMITS.keys()
    assert found["memory_stall"] == 1.5
    assert all(LIMITS[name].asks(value) == 0 for name, value in found.items())


@pytest.mark.parametrize("text", [None, "", "full avg10=0.00\n", "some avg10=many\n"])
def test_what_the_kernel_does_not_tell_is_not_measured(world: World, text: str | None) -> None:
    if text is not None:
        world.pressure.write_text(text)
    assert "memory_stall" not in measured(world)


def test_a_disk_that_stalls_or_refuses_is_measured_from_when_it_began(world: World) -> None:
    world.storage.busy_ns = world.clock.now().boot_ns
    world.storage.refuses = HardwareFault("no room")
    assert (measured(world)["stalled_s"], measured(world)["refused_s"]) == (0, 0)
    world.clock.advance(7)
    assert (measured(world)["stalled_s"], measured(world)["refused_s"]) == (7, 7)
    world.storage.busy_ns, world.storage.refuses = None, None
    assert (measured(world)["stalled_s"], measured(world)["refused_s"]) == (0, 0)
    world.storage.refuses = HardwareFault("no room")
    assert measured(world)["refused_s"] == 0


def test_a_look_that_comes_late_is_measured(world: World) -> None:
    assert measured(world)["loop_s"] == 0
    world.clock.advance(STEP_S + 5)
    assert measured(world)["loop_s"] == 5


def test_each_class_is_measured_by_its_own_quota(world: World) -> None:
    cap = CAP_BYTES
    world.storage.used = {ALARM: cap // 10, AUDIT: cap // 10, BULK: cap * 35 // 100}
    found = measured(world)
    shares = [round(found[f"spool_{c.label}"], 3) for c in RecordClass]
    assert shares == [1.0, 0.5, 0.5]


def test_readings_of_one_read_are_shed_as_each_by_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    came = [Reading("s", "n", "", float(n), 1) for n in range(5)]
    world.overload.readings(came)
    assert world.storage.readings == came
    world.storage.full = 1.0
    world.looks(20)
    assert world.overload.state()["level"] != 0
    before = len(world.storage.readings)
    world.overload.readings(came)
    assert len(world.storage.readings) == before
    world.overload.finish()
    (one,) = world.storage.readings[before:]
    assert one.spread is not None
    assert (one.spread.count, one.value) == (5, 2.0)
