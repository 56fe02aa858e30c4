"""What link tells of a gate that it does not wait for: a start, a silence, the end of one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from edgewarden.daemon.heard import OFTEN, OFTEN_S, SILENT_S, START_S, Heard
from edgewarden.daemon.link import Link
from edgewarden.judge.describe import subject_of
from edgewarden.judge.triage import classify
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.local import GateStats
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock

STATS = GateStats("enforce", "T3", "none", *[True] * 3, *[0] * 18)


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[Event] = []
        self.heard = Heard(self.take, self.clock)

    def take(self, fact: Event | Reading) -> None:
        assert isinstance(fact, Event)
        self.told.append(fact)

    def words(self) -> list[object]:
        return [event.detail["gate"] for event in self.told]


def test_links_first_word_is_that_gate_is_not_heard_yet() -> None:
    told: list[Event] = []
    link = SimpleNamespace(
        clock=FakeClock(), running=SimpleNamespace(digest="d"), take=told.append, faults=(),
        indicator=SimpleNamespace(unavailable=""),
    )  # fmt: skip
    Link._tell_start(link, "")  # type: ignore[arg-type]
    [event] = told
    assert event.detail["gate"] == "not heard yet"


def test_a_start_is_no_alarm_and_the_first_word_is_told_once() -> None:
    rig = Rig()
    rig.clock.advance(SILENT_S - 1)
    rig.heard.look()
    assert (rig.told, rig.heard.silent_s()) == ([], SILENT_S - 1)
    rig.heard.came(STATS)
    rig.heard.came(STATS)
    [event] = rig.told
    assert event.detail == {"gate": "heard", "tier": "T3", "mode": "enforce", "armed": True}
    assert (event.class_uid, event.severity_id) == (OCSF.HEALTH, Severity.INFORMATIONAL)
    assert classify(event) is RecordClass.AUDIT
    assert rig.heard.silent_s() is None


def test_a_gate_that_stays_silent_is_one_alarm_and_its_return_one_event() -> None:
    rig = Rig()
    for _ in range(3):
        rig.clock.advance(SILENT_S)
        rig.heard.look()
    [event] = rig.told
    assert (event.code, event.severity_id) == ("EW-AGT-003", Severity.HIGH)
    assert classify(event) is RecordClass.ALARM
    assert event.detail["title"] == "gate was not heard for 30 s: programs start unchecked"
    rig.heard.came(STATS)
    assert rig.words() == ["not heard", "heard"]


def test_two_silences_are_the_same_matter_whenever_they_were_looked_at() -> None:
    rig = Rig()
    for late_s in (0.0, 1.9):
        rig.heard.went()
        rig.clock.advance(SILENT_S + late_s)
        rig.heard.look()
        rig.heard.came(STATS)
    one, two = (event for event in rig.told if event.code)
    assert subject_of(one) == subject_of(two)


def test_a_gate_that_is_back_in_a_moment_is_no_event() -> None:
    rig = Rig()
    rig.heard.came(STATS)
    for _ in range(100):
        rig.heard.went()
        rig.clock.advance(SILENT_S - 1)
        rig.heard.look()
        rig.heard.came(STATS)
        rig.clock.advance(OFTEN_S / (OFTEN - 1))
    assert rig.words() == ["heard"]
    rig.heard.went()
    rig.clock.advance(SILENT_S - 1)
    rig.heard.went()  # a connection that came to nothing
    rig.clock.advance(1)
    rig.heard.look()
    assert rig.words() == ["heard", "not heard"]


def test_a_gate_that_is_lost_again_and_again_is_an_alarm_and_no_flood() -> None:
    """Heard for a moment each time, it was never silent for long."""
    rig = Rig()
    rig.heard.came(STATS)
    for _ in range(OFTEN):
        assert rig.words() == ["heard"]
        rig.heard.went()
        rig.clock.advance(1)
        rig.heard.came(STATS)
    event = rig.told[-1]
    assert (event.code, event.severity_id) == ("EW-AGT-003", Severity.HIGH)
    assert event.detail["title"] == "gate was lost 3 times in 10 min: programs start unchecked"
    for _ in range(int(OFTEN_S) - 1):
        rig.heard.went()
        rig.clock.advance(1)
        rig.heard.came(STATS)
    assert rig.words() == ["heard", "lost again and again"]
    rig.heard.went()
    rig.clock.advance(1)
    rig.heard.came(STATS)
    assert rig.words() == ["heard", *["lost again and again"] * 2]


def test_what_ends_with_link_is_no_loss_of_gate() -> None:
    rig = Rig()
    rig.heard.came(STATS)
    for _ in range(OFTEN - 1):
        rig.heard.went()
        rig.heard.came(STATS)
    rig.heard.went()
    assert rig.words() == ["heard"]


@pytest.mark.parametrize("come", [True, False])
def test_evidence_waits_for_what_gate_says_first_and_not_for_ever(come: bool) -> None:
    rig = Rig()

    async def play() -> None:
        assert rig.heard.starting()
        waiting = asyncio.create_task(rig.heard.settled())
        await asyncio.sleep(0)
        assert not waiting.done()
        if come:
            rig.heard.came(STATS)
            await waiting
        else:
            waiting.cancel()
            rig.clock.advance(START_S - 0.01)
            await rig.heard.settled()
            rig.clock.advance(0.01)
        assert not rig.heard.starting()
        rig.heard.went()
        await rig.heard.settled()  # waits no more

    asyncio.run(play())


def test_a_gate_that_is_heard_is_no_silence_however_often_one_looks() -> None:
    rig = Rig()
    rig.heard.came(STATS)
    rig.clock.advance(10 * SILENT_S)
    rig.heard.look()
    assert rig.words() == ["heard"]
