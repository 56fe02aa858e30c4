"""Triage: classes, first alarms told, equal ones counted, a flood of subjects never hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.judge.describe import times
from edgewarden.judge.triage import MAX_SUBJECTS, REPEAT_S, RESERVED, Triage, classify
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass


def event(
    uid: OCSF = OCSF.PROCESS_ACTIVITY,
    severity: Severity = Severity.HIGH,
    at_s: float = 0,
    **detail: Plain,
) -> Event:
    return Event(uid, 1, severity, int(at_s * 1e9), detail, "EW-EXEC-002")


@pytest.mark.parametrize(
    ("uid", "severity", "expected"),
    [
        (OCSF.DETECTION_FINDING, Severity.INFORMATIONAL, RecordClass.ALARM),
        (OCSF.PROCESS_ACTIVITY, Severity.HIGH, RecordClass.ALARM),
        (OCSF.PROCESS_ACTIVITY, Severity.INFORMATIONAL, RecordClass.BULK),
        (OCSF.CONFIG_STATE, Severity.INFORMATIONAL, RecordClass.AUDIT),
        (OCSF.HEALTH, Severity.LOW, RecordClass.AUDIT),
        (OCSF.HEALTH, Severity.CRITICAL, RecordClass.ALARM),
        (OCSF.PERIPHERAL_ACTIVITY, Severity.LOW, RecordClass.AUDIT),
        (OCSF.NETWORK_ACTIVITY, Severity.LOW, RecordClass.BULK),
    ],
)
def test_class(uid: OCSF, severity: Severity, expected: RecordClass) -> None:
    assert classify(event(uid, severity)) is expected


def test_storm_is_one_alarm_and_an_exact_count() -> None:
    triage = Triage()
    told = [
        t for i in range(500) for t in triage.admit(event(at_s=i / 100, file={"path": "/x/evil"}))
    ]
    assert len(told) == 1
    assert triage.due(int(30e9)) == []
    [(count, record_class)] = triage.due(int((REPEAT_S + 1) * 1e9))
    assert record_class is RecordClass.ALARM
    assert count.detail["repeated"] == 499
    assert triage.due(int(1e15)) == []


def test_other_digest_is_another_alarm() -> None:
    triage = Triage()
    assert len(triage.admit(event(file={"path": "/x", "sha256": b"1"}))) == 1
    assert len(triage.admit(event(file={"path": "/x", "sha256": b"2"}))) == 1


def test_flood_of_subjects_hides_none() -> None:
    """What finds no room is a count in a record; another kind of alarm still finds room."""
    triage = Triage()
    total = MAX_SUBJECTS + 50
    told = [t for i in range(total) for t in triage.admit(event(file={"path": f"/x/{i}"}))]
    assert len(told) == MAX_SUBJECTS - RESERVED
    other = Event(OCSF.DETECTION_FINDING, 1, Severity.LOW, 0, {"title": "t"}, "EW-EXEC-004")
    assert triage.admit(other) == [(other, RecordClass.ALARM)]
    assert triage.due(int((REPEAT_S - 1) * 1e9)) == []
    [(count, record_class)] = triage.due(int(REPEAT_S * 1e9))
    assert (record_class, count.code) == (RecordClass.ALARM, "EW-AGT-010")
    assert count.detail["by_code"] == {"EW-EXEC-002": total - len(told)}
    assert len(told) + times(count) == total == len(told) + triage.overflow


def test_a_count_of_gates_is_added_as_a_count() -> None:
    triage = Triage()
    triage.admit(event(file={"path": "/x"}))
    assert triage.admit(event(file={"path": "/x"}, repeated=41)) == []
    triage.admit(event(file={"path": "/x"}))
    [(count, _)] = triage.due(int(1e15))
    assert count.detail["repeated"] == 42


def test_before_the_end_every_count_is_told() -> None:
    triage = Triage()
    for _ in range(3):
        triage.admit(event(at_s=5, file={"path": "/x"}))
    [(count, _)] = triage.due(int(6e9), all_now=True)
    assert count.detail["repeated"] == 2


def test_allowed_starts_are_counted_in_bulk_and_never_crowd_an_alarm() -> None:
    triage = Triage()
    start = event(severity=Severity.INFORMATIONAL, action="allowed", file={"path": "/bin/date"})
    assert triage.admit(start) == [(start, RecordClass.BULK)]
    assert [triage.admit(start) for _ in range(99)] == [[]] * 99
    for i in range(2 * MAX_SUBJECTS):
        other = event(severity=Severity.INFORMATIONAL, action="allowed", file={"path": f"/{i}"})
        assert len(triage.admit(other)) == 1
    assert len(triage.admit(event(file={"path": "/x"}))) == 1
    counts = [c for c in triage.due(int(1e15)) if "repeated" in c[0].detail]
    assert [(times(e), c) for e, c in counts] == [(99, RecordClass.BULK)]


OFFERED = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 50), st.booleans()), max_size=200)


@given(OFFERED)
def test_what_is_told_adds_up_to_what_happened(offered: list[tuple[int, int, bool]]) -> None:
    triage = Triage()
    for i in range(MAX_SUBJECTS - RESERVED - 20):  # so that room runs out in some examples
        triage.admit(event(file={"path": f"/before/{i}"}))
    told, at_s = [], 0.0
    for path, count, later in offered:
        at_s += 7.0 if later else 0.0
        repeated: dict[str, Plain] = {"repeated": count} if count > 1 else {}
        told += triage.admit(event(at_s=at_s, file={"path": f"/{path}"}, **repeated))
        told += triage.due(int(at_s * 1e9)) if later else []
    told += triage.due(int(1e15))
    assert sum(times(e) for e, _ in told) == sum(count for _, count, _ in offered)


def test_forgotten_after_the_period_and_told_again() -> None:
    triage = Triage()
    triage.admit(event(file={"path": "/x"}))
    assert triage.due(int((REPEAT_S + 1) * 1e9)) == []
    assert len(triage.admit(event(at_s=REPEAT_S + 2, file={"path": "/x"}))) == 1
