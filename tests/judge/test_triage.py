"""Triage: classes, first alarms told, equal ones counted, a flood of subjects never hidden."""

from __future__ import annotations

import pytest

from edgewarden.judge.triage import MAX_SUBJECTS, REPEAT_S, Triage, classify
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
    triage = Triage()
    total = MAX_SUBJECTS + 50
    told = sum(len(triage.admit(event(file={"path": f"/x/{i}"}))) for i in range(total))
    assert told == total
    assert triage.overflow == 50


def test_forgotten_after_the_period_and_told_again() -> None:
    triage = Triage()
    triage.admit(event(file={"path": "/x"}))
    assert triage.due(int((REPEAT_S + 1) * 1e9)) == []
    assert len(triage.admit(event(at_s=REPEAT_S + 2, file={"path": "/x"}))) == 1
