"""Quality, substitution, findings: what leaves the room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.judge.describe import describe, subject_of
from edgewarden.readings.limits import Limits, OnFault, Rule
from edgewarden.readings.worth import EVERY_OTHER, MAX_CHANNELS, Worth
from edgewarden.wire.burst import Burst
from edgewarden.wire.facts import OCSF, Event, FramesSeen, Quality, Reading, Severity
from tests.readings.series import SECOND, pressure


def said(value: float | str | bool, at_s: float, name: str = "t") -> Reading:
    return Reading("boiler", name, "Cel", value, round(at_s * SECOND))


def worth(**limits: object) -> Worth:
    return Worth("boiler", {"t": Limits(**limits)})  # type: ignore[arg-type]


def test_a_good_reading_leaves_as_it_came() -> None:
    reading = said(20.0, 0)
    assert worth(high=110).reading(reading) == (reading, [])


def test_a_finding_comes_once_with_its_evidence_and_its_end_with_the_count() -> None:
    boiler = worth(high=110)
    marked, (found,) = boiler.reading(said(400.0, 0))
    assert marked.quality is Quality.SUSPECT
    assert marked.value == 400.0
    assert (found.code, found.severity_id) == ("EW-SER-010", Severity.MEDIUM)
    assert found.detail["evidence"] == {"value": 400.0, "high": 110}
    assert describe(found) == "boiler: t leaves its range"
    for i in range(1, 40):
        assert boiler.reading(said(400.0 + i, i))[1] == []
    events = [e for i in range(40, 120) for e in boiler.reading(said(20.0, i))[1]]
    assert [(e.activity_id, e.detail["evidence"]) for e in events] == [
        (3, {"count": 40, "span_s": 39.0})
    ]
    assert subject_of(events[0]) != subject_of(found)
    assert boiler.quality() is Quality.GOOD


def test_a_value_that_trembles_about_its_limit_is_one_matter() -> None:
    boiler = worth(high=110)
    events = [e for i in range(1000) for e in boiler.reading(said(109.0 + 2 * (i % 2), i))[1]]
    assert len(events) == 1


@pytest.mark.parametrize(
    ("on_fault", "value", "left", "quality", "raw"),
    [
        (OnFault.MARK, 400.0, 400.0, Quality.SUSPECT, None),
        (OnFault.UNTRUSTED, 400.0, 400.0, Quality.UNTRUSTED, None),
        (OnFault.SUBSTITUTE, 400.0, 25.0, Quality.SUBSTITUTED, 400.0),
    ],
)
def test_what_becomes_of_a_value_is_what_the_settings_say(
    on_fault: OnFault, value: float, left: float, quality: Quality, raw: float | None
) -> None:
    marked, _ = worth(high=110, on_fault=on_fault, failsafe=25.0).reading(said(value, 0))
    assert (marked.value, marked.quality, marked.raw) == (left, quality, raw)


def test_a_stuck_input_is_substituted_by_a_truth_value_and_a_text_by_nothing() -> None:
    boiler = worth(stuck_s=1, on_fault=OnFault.SUBSTITUTE, failsafe=1)
    boiler.reading(said(False, 0))
    for i in range(1, 4):
        boiler.reading(said(False, i))
    marked, _ = boiler.reading(said(False, 5))
    assert (marked.value, marked.raw, marked.quality) == (True, False, Quality.SUBSTITUTED)
    for i in range(6, 10):
        boiler.reading(said("ok", i))
    marked, _ = boiler.reading(said("ok", 10))
    assert (marked.value, marked.raw, marked.quality) == ("ok", None, Quality.UNTRUSTED)


def test_a_played_recording_is_untrusted_and_high() -> None:
    boiler, recording = worth(), pressure(300)
    events, last = [], said(0.0, 0)
    for i, value in enumerate(recording + recording[100:]):
        last, found = boiler.reading(said(value, i))
        events += found
    assert [(e.code, e.severity_id) for e in events] == [("EW-SER-013", Severity.HIGH)]
    assert last.quality is Quality.UNTRUSTED
    assert boiler.why() == ("t: replay",)


def test_the_limits_named_star_are_those_of_every_other_channel() -> None:
    both = Worth("boiler", {"t": Limits(high=10), EVERY_OTHER: Limits(high=100)})
    assert both.reading(said(50.0, 0))[0].quality is Quality.SUSPECT
    assert both.reading(said(50.0, 0, "p"))[0].quality is Quality.GOOD
    assert both.reading(said(500.0, 1, "p"))[0].quality is Quality.SUSPECT


def adapter(now: str, was: str) -> Event:
    detail = {"peripheral_device": {"name": "boiler", "adapter": now}, "previous": was}
    return Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 0, detail, "EW-USB-003")


def test_what_comes_over_another_adapter_is_suspect_until_the_first_is_back() -> None:
    boiler = worth(on_fault=OnFault.SUBSTITUTE, failsafe=0.0)
    boiler.happened(adapter("b", "a"))
    marked, events = boiler.reading(said(20.0, 0))
    assert (marked.quality, marked.raw, events) == (Quality.SUBSTITUTED, 20.0, [])
    boiler.happened(adapter("c", "b"))
    assert boiler.why() == (Rule.ADAPTER,)
    assert Worth("x").reading(said(1.0, 0))[0].quality is Quality.GOOD
    boiler.happened(adapter("a", "c"))
    assert boiler.reading(said(21.0, 1))[0].quality is Quality.GOOD


def test_a_strange_cadence_marks_and_never_substitutes() -> None:
    boiler = worth(on_fault=OnFault.SUBSTITUTE, failsafe=0.0)
    events = []
    for i in range(400):
        events += boiler.frames(FramesSeen("boiler", i * SECOND, 60, 1, 0))
    for i in range(200):
        events += boiler.frames(FramesSeen("boiler", 400 * SECOND + i * SECOND // 9, 60, 1, 0))
    assert [e.code for e in events] == ["EW-SER-014"]
    marked, _ = boiler.reading(said(20.0, 500))
    assert (marked.value, marked.quality) == (20.0, Quality.SUSPECT)
    assert boiler.why() == (Rule.CADENCE,)


def answers(of: dict[int, tuple[int, float]], rounds: range) -> list[FramesSeen]:
    """A bus: unit -> bytes and time of its answer, each asked once a round."""
    return [
        FramesSeen("bus", at * SECOND + unit, size, 1, 0, round(took_s * SECOND), unit)
        for at in rounds
        for unit, (size, took_s) in of.items()
    ]


def test_a_unit_of_a_bus_that_falls_silent_makes_no_stranger_of_the_others() -> None:
    bus, units = Worth("bus"), {1: (9, 0.002), 2: (9, 0.003), 3: (85, 0.2)}
    said = [e for seen in answers(units, range(400)) for e in bus.frames(seen)]
    for gone in (1, 2):
        del units[gone]
        said += [e for seen in answers(units, range(gone * 400, 800)) for e in bus.frames(seen)]
    assert (said, bus.why()) == ([], ())


def test_another_device_in_the_place_of_one_unit_is_named_and_over_when_it_is_back() -> None:
    bus, honest = Worth("bus"), {1: (9, 0.002), 2: (9, 0.003), 3: (85, 0.2)}
    events = [e for seen in answers(honest, range(400)) for e in bus.frames(seen)]
    swapped = honest | {2: (9, 0.1)}
    events += [e for seen in answers(swapped, range(400, 600)) for e in bus.frames(seen)]
    assert [e.code for e in events] == ["EW-SER-014"]
    evidence = events[0].detail["evidence"]
    assert isinstance(evidence, dict)
    assert (evidence["unit"], evidence["feature"]) == (2, "answer_s")
    assert bus.why() == (Rule.CADENCE,)
    events += [e for seen in answers(honest, range(600, 800)) for e in bus.frames(seen)]
    assert [(e.code, e.activity_id) for e in events] == [("EW-SER-014", 1), ("EW-SER-014", 3)]
    assert bus.why() == ()


def test_a_unit_whose_answers_are_all_damaged_is_noise_and_no_stranger() -> None:
    bus = Worth("bus")
    said = [e for seen in answers({1: (9, 0.002)}, range(400)) for e in bus.frames(seen)]
    for at in range(400, 700):
        said += bus.frames(FramesSeen("bus", at * SECOND, 9, 0, 1, None, 1))
    assert said == []


def test_more_channels_than_any_decoder_lets_through_cost_nothing() -> None:
    boiler = Worth("boiler", {EVERY_OTHER: Limits()})
    for i in range(MAX_CHANNELS + 50):
        boiler.reading(said(1.0, i, f"c{i}"))
    assert len(boiler.latest) == MAX_CHANNELS
    assert boiler.unjudged == 50


def sensor() -> Worth:
    limits = {"t": Limits(high=110), "p": Limits(low=0, on_fault=OnFault.SUBSTITUTE, failsafe=1.0)}
    return Worth("boiler", limits)


ADAPTER = Event(
    OCSF.DETECTION_FINDING, 1, Severity.HIGH, 0,
    {"previous": "a", "peripheral_device": {"adapter": "b"}}, "EW-USB-003",
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("tpxy"), st.sampled_from([-5.0, 7.0, 400.0, True, "on"]))
        ),
        max_size=8,
    ),
    st.integers(0, 12),
)  # fmt: skip
def test_readings_taken_at_once_are_worth_what_each_is_by_itself(
    reads: list[list[tuple[str, float | str | bool]]], swapped_at: int
) -> None:
    burst, many, each = sensor(), sensor(), sensor()
    for at, read in enumerate(reads):
        if at == swapped_at:
            for one in (burst, many, each):
                one.happened(ADAPTER)
        came = [said(value, 40 * at, name) for name, value in read]
        pairs = [each.reading(reading) for reading in came]
        columns = Burst.of("boiler", [(r.name, r.unit, r.value) for r in came], 40 * at * SECOND)
        assert columns == came
        for one, given_all in ((burst, columns), (many, came)):
            marked, found = one.readings(given_all)
            assert list(marked) == [reading for reading, _ in pairs]
            assert found == [event for _, events in pairs for event in events]
            assert (one.latest, one.why()) == (each.latest, each.why())
            assert list(one.latest) == list(each.latest)


def test_a_burst_of_good_values_stays_one_whether_its_channels_have_limits_or_not() -> None:
    boiler = sensor()
    for names in (["x", "y"], ["t", "x", "p"]):
        came = Burst.of("boiler", [(name, "Cel", 7.0) for name in names], 0)
        assert boiler.readings(came)[0] is came


def test_more_channels_than_are_judged_are_counted_when_they_come_at_once() -> None:
    boiler = sensor()
    came = [said(1.0, 0, f"c{n}") for n in range(MAX_CHANNELS + 3)] * 2
    assert boiler.readings(came) == (came, [])
    assert (boiler.unjudged, len(boiler.latest)) == (6, MAX_CHANNELS)
    boiler = sensor()
    burst = Burst.of("boiler", [(reading.name, "Cel", 1.0) for reading in came], 0)
    assert boiler.readings(burst) == (burst, [])
    assert (boiler.unjudged, len(boiler.latest)) == (6, MAX_CHANNELS)
