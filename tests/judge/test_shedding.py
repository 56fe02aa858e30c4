"""What is given up in which mode, what never is, and that every fact is in one count."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.judge.overload import Mode, Step, told
from edgewarden.judge.shedding import MAX_CHANNELS, MAX_KINDS, Shedder, Worth, worth_of
from edgewarden.judge.triage import classify
from edgewarden.wire import cbor
from edgewarden.wire.facts import (
    OCSF,
    Event,
    Quality,
    Reading,
    Severity,
    Spread,
    readings_from_senml,
    readings_to_senml,
)
from edgewarden.wire.record import RecordClass

S = 1_000_000_000


def reading(value: float | str | bool, at_s: float = 0, **more: object) -> Reading:
    fields: dict[str, object] = {"source": "gps", "name": "n", "unit": "m"}
    return Reading(value=value, seen_mono_ns=round(at_s * S), **{**fields, **more})  # type: ignore[arg-type]


def shedding(mode: Mode) -> Shedder:
    shedder = Shedder()
    shedder.mode = mode
    return shedder


def event(
    what: OCSF, severity: Severity = Severity.INFORMATIONAL, activity: int = 1, action: str = ""
) -> Event:
    return Event(what, activity, severity, 0, {"action": action} if action else {})


# --- readings ----------------------------------------------------------------------------------


def test_in_normal_every_reading_goes_by_itself_at_once() -> None:
    shedder = Shedder()
    assert shedder.reading(reading(1.0)) == [reading(1.0)]
    assert shedder.close(S) == []
    assert shedder.counts() == {
        "readings_aggregated": 0, "readings_shed": 0, "routine_shed": 0, "plugs_shed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("mode", list(Mode)[1:])
def test_readings_of_a_channel_become_one_with_all_that_counts(mode: Mode) -> None:
    shedder = shedding(mode)
    for at_s, value in enumerate((4.0, 1.0, 7.0)):
        assert shedder.reading(reading(value, at_s)) == []
    assert shedder.close(9 * S) == [reading(4.0, 2, spread=Spread(3, 2.0, 1.0, 7.0))]
    assert shedder.counts()["readings_aggregated"] == 3
    assert shedder.close(9 * S) == []


def test_one_alone_stays_as_it_came() -> None:
    shedder = shedding(Mode.COALESCING)
    shedder.reading(reading(1.0))
    assert shedder.close(S) == [reading(1.0)]
    assert shedder.passed[Worth.READINGS] == 1


def test_each_channel_unit_and_quality_by_itself() -> None:
    shedder = shedding(Mode.COALESCING)
    apart = [
        reading(1.0), reading(1.0, name="o"), reading(1.0, unit="s"), reading(1.0, source="b"),
        reading(1.0, quality=Quality.SUSPECT),
    ]  # fmt: skip
    for one in [*apart, *apart]:
        shedder.reading(one)
    out = shedder.close(S)
    assert [r.spread for r in out] == [Spread(2, 0.0, 1.0, 1.0)] * 5
    assert {r.quality for r in out} == {Quality.GOOD, Quality.SUSPECT}


def test_what_is_no_number_is_the_last_of_them() -> None:
    shedder = shedding(Mode.COALESCING)
    for text in ("a", "b"):
        shedder.reading(reading(text))
        shedder.reading(reading(text == "a", name="t"))
    assert shedder.close(S) == [
        reading("b", spread=Spread(2, 0.0)), reading(False, name="t", spread=Spread(2, 0.0)),
    ]  # fmt: skip


def test_of_a_substitute_what_was_measured_is_the_mean() -> None:
    shedder = shedding(Mode.COALESCING)
    for raw in (400.0, 402.0):
        shedder.reading(reading(25.0, quality=Quality.SUBSTITUTED, raw=raw))
    (one,) = shedder.close(S)
    assert (one.value, one.raw, one.spread) == (25.0, 401.0, Spread(2, 0.0, 400.0, 402.0))


def test_channels_beyond_the_bound_are_counted_only() -> None:
    shedder = shedding(Mode.COALESCING)
    for n in range(MAX_CHANNELS + 7):
        shedder.reading(reading(1.0, name=f"n{n}"))
    shedder.reading(reading(math.nan))
    assert len(shedder.close(S)) == MAX_CHANNELS
    assert shedder.counts()["readings_shed"] == 8


def test_a_window_is_ten_seconds_and_a_minute_when_only_the_essential_goes() -> None:
    for mode, window_s in ((Mode.COALESCING, 10), (Mode.SAMPLING, 10), (Mode.ESSENTIAL, 60)):
        shedder = shedding(mode)
        assert shedder.due(100 * S) == []
        shedder.reading(reading(1.0))
        assert shedder.due((100 + window_s) * S - 1) == []
        assert len(shedder.due((100 + window_s) * S)) == 1
    assert Shedder().due(S) == []


NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
VALUES = NUMBERS | st.text(max_size=3) | st.booleans()


@settings(max_examples=200)
@given(st.lists(VALUES, min_size=2, max_size=12), st.booleans())
def test_whatever_is_made_one_can_be_read_at_the_fleet(
    values: list[float | str | bool], substituted: bool
) -> None:
    shedder = shedding(Mode.COALESCING)
    for value in values:
        one = reading(value, 1)
        if substituted:
            one = reading(0.0, 1, quality=Quality.SUBSTITUTED, raw=value)
        shedder.reading(one)
    (made,) = shedder.close(S)
    pack = cbor.decode(cbor.encode(readings_to_senml([made], S)))
    assert readings_from_senml(pack, S) == [made]
    assert made.spread is not None
    assert made.spread.count == len(values)
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == len(values) and all(abs(n) <= 1e300 for n in numbers):
        assert (made.spread.low, made.spread.high) == (min(numbers), max(numbers))


# --- events ------------------------------------------------------------------------------------

ROUTINE = event(OCSF.PROCESS_ACTIVITY)
PLUG = event(OCSF.PERIPHERAL_ACTIVITY)


@pytest.mark.parametrize(
    ("fact", "worth"),
    [
        (ROUTINE, Worth.ROUTINE),
        (event(OCSF.NETWORK_ACTIVITY, Severity.LOW), Worth.ROUTINE),
        (event(OCSF.PROCESS_ACTIVITY, Severity.MEDIUM), Worth.PLUGS),
        (PLUG, Worth.PLUGS),
        (event(OCSF.PERIPHERAL_ACTIVITY, Severity.HIGH), Worth.KEPT),
        (event(OCSF.PROCESS_ACTIVITY, Severity.HIGH), Worth.KEPT),
        (event(OCSF.DETECTION_FINDING), Worth.KEPT),
        (event(OCSF.HEALTH), Worth.KEPT),
        (event(OCSF.CONFIG_STATE), Worth.KEPT),
        (event(OCSF.EVENT_LOG_ACTIVITY), Worth.KEPT),
    ],
)
def test_the_worth_of_an_event(fact: Event, worth: Worth) -> None:
    assert worth_of(fact, classify(fact)) is worth


@pytest.mark.parametrize(
    ("mode", "routine", "plugs"),
    [
        (Mode.NORMAL, [1, 1], [1, 1]),
        (Mode.COALESCING, [1, 1], [1, 1]),
        (Mode.SAMPLING, [1, 0], [1, 1]),
        (Mode.ESSENTIAL, [0, 0], [0, 0]),
    ],
)
def test_routine_goes_before_plugs(mode: Mode, routine: list[int], plugs: list[int]) -> None:
    shedder = shedding(mode)
    assert [shedder.event(ROUTINE, RecordClass.BULK) for _ in range(2)] == routine
    assert [shedder.event(PLUG, RecordClass.AUDIT) for _ in range(2)] == plugs
    assert shedder.counts()["routine_shed"] == 2 - sum(routine)
    assert shedder.counts()["plugs_shed"] == 2 - sum(plugs)


def test_sampling_keeps_one_of_a_kind_a_window() -> None:
    shedder = shedding(Mode.SAMPLING)
    kinds = [
        ROUTINE, event(OCSF.NETWORK_ACTIVITY), event(OCSF.PROCESS_ACTIVITY, activity=2),
        event(OCSF.PROCESS_ACTIVITY, action="learned"), event(OCSF.PROCESS_ACTIVITY, Severity.LOW),
    ]  # fmt: skip
    assert all(shedder.event(one, RecordClass.BULK) for one in kinds)
    assert not any(shedder.event(one, RecordClass.BULK) for one in kinds)
    shedder.close(S)
    assert shedder.event(ROUTINE, RecordClass.BULK)
    many = [event(OCSF.PROCESS_ACTIVITY, action=f"a{n}") for n in range(2 * MAX_KINDS)]
    assert sum(shedder.event(one, RecordClass.BULK) for one in many) == MAX_KINDS - 1


EVENTS = st.builds(
    event, st.sampled_from(OCSF), st.sampled_from(Severity), st.integers(1, 2),
    st.sampled_from(["", "allowed", "denied"]),
)  # fmt: skip
READINGS = st.builds(reading, VALUES, name=st.sampled_from("abc"))
DONE = EVENTS | READINGS | st.sampled_from([*Mode, "close"])


@settings(max_examples=300)
@given(st.lists(DONE, max_size=60))
def test_every_fact_is_in_one_count_and_alarm_and_health_always_go(done: list[object]) -> None:
    """Total = passed on + made one with others + shed + waiting, after whatever happened."""
    shedder, out = Shedder(), []
    offered = {Worth.READINGS: 0}
    for n, one in enumerate(done):
        if isinstance(one, Reading):
            out += shedder.reading(one)
            offered[Worth.READINGS] += 1
        elif isinstance(one, Event):
            record_class = classify(one)
            goes = shedder.event(one, record_class)
            assert goes or record_class is not RecordClass.ALARM
            assert goes or one.class_uid not in (OCSF.HEALTH, OCSF.EVENT_LOG_ACTIVITY)
            worth = worth_of(one, record_class)
            offered[worth] = offered.get(worth, 0) + 1
        elif isinstance(one, Mode):
            out += shedder.close(n * S)
            shedder.mode = one
        else:
            out += shedder.close(n * S)
    assert {w: n for w, n in offered.items() if n} == +shedder.offered
    for worth in Worth:
        waits = shedder.waiting + shedder.aggregated if worth is Worth.READINGS else 0
        assert shedder.offered[worth] == shedder.passed[worth] + shedder.shed[worth] + waits
    out += shedder.close(S)
    stands_for = sum(1 if r.spread is None else r.spread.count for r in out)
    assert stands_for + shedder.shed[Worth.READINGS] == offered[Worth.READINGS]
    assert shedder.waiting == 0


def test_the_ladders_own_facts_pass_in_the_last_mode() -> None:
    shedder = shedding(Mode.ESSENTIAL)
    for mode in list(Mode)[1:]:
        fact = told(Step(Mode(mode - 1), mode, "why", "queue", 1), {}, 2)
        assert shedder.event(fact, classify(fact))
