"""Records of a clock that nobody had set, and the anchor that came later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.wire.facts import OCSF, Reading, Severity, readings_to_senml
from edgewarden.wire.record import Kind, RecordClass, RecordTime
from edgewarden.wire.timing import ANCHOR_CODE
from edgewarden_fleet.store import views
from tests.fleet.makers import NOW, Board, Desk, Made

ALARM, AUDIT = RecordClass.ALARM, RecordClass.AUDIT
S = 10**9
BEFORE_S = 600
"""How long before the anchor the alarm was."""
UNSET = RecordTime(100 * S, 60 * S, None, "unsynced")
LATER_NS = (100 + BEFORE_S) * S
KIND = "EW-TEST-1"


def record(board: Board, c: RecordClass, time: RecordTime, **body: object) -> Made:
    whole = {"activity_id": 1, "seen_mono_ns": time.boot_ns, **body}
    return board.sign(replace(board.build(c, Kind.EVENT, whole), time=time))


def alarm(board: Board, time: RecordTime) -> Made:
    return record(
        board, ALARM, time, class_uid=int(OCSF.DETECTION_FINDING), severity_id=int(Severity.HIGH),
        detail={"title": "a thing of the early minutes"}, code=KIND,
    )  # fmt: skip


def anchor(board: Board, utc_ns: object) -> Made:
    return record(
        board, AUDIT, RecordTime(LATER_NS, int(NOW * S), 40, "signed"), class_uid=int(OCSF.HEALTH),
        severity_id=1, code=ANCHOR_CODE,
        detail={"utc_ns": utc_ns, "uncertainty_ms": 40, "source": "signed"},
    )  # fmt: skip


def seen(desk: Desk) -> object:
    whole = views.gateway(desk.db, "gw-demo", desk.now)
    assert whole is not None
    findings = whole["findings"]
    assert isinstance(findings, list)
    return next(f["seen_utc"] for f in findings if f["kind"] == KIND)


@pytest.fixture
def ready(desk: Desk, board: Board) -> Board:
    desk.record(board.introduce(ALARM))
    desk.record(board.introduce(AUDIT))
    return board


def test_an_anchor_places_what_was_before_it(desk: Desk, ready: Board) -> None:
    assert desk.record(alarm(ready, UNSET)).accepted
    assert seen(desk) == "1970-01-01T00:01:00Z"
    assert desk.record(anchor(ready, int(NOW * S))).accepted
    assert seen(desk) == views.iso(NOW - BEFORE_S)
    kept = desk.db.execute("SELECT wall_ns FROM record WHERE class = 1 AND seq = 2").fetchone()
    assert kept[0] == 60 * S  # nothing that was signed is changed


def test_a_time_that_was_vouched_for_is_not_moved(desk: Desk, ready: Board) -> None:
    vouched = replace(UNSET, wall_ns=int((NOW - 9) * S), uncertainty_ms=20, state="ntp")
    desk.record(alarm(ready, vouched))
    desk.record(anchor(ready, int(NOW * S)))
    assert seen(desk) == views.iso(NOW - 9)


def test_an_anchor_of_another_boot_says_nothing(desk: Desk, ready: Board) -> None:
    desk.record(alarm(ready, UNSET))
    desk.record(anchor(ready, int(NOW * S)))
    desk.db.execute("UPDATE anchor SET boot_id = ?", (bytes(16),))
    assert seen(desk) == "1970-01-01T00:01:00Z"


@pytest.mark.parametrize("utc_ns", [-1, 2**63, "now", True, None, 1.5])
def test_an_anchor_that_is_none_is_not_kept(desk: Desk, ready: Board, utc_ns: object) -> None:
    assert desk.record(anchor(ready, utc_ns)).accepted
    assert desk.db.execute("SELECT count(*) FROM anchor").fetchone()[0] == 0


def test_a_clock_that_was_ahead_is_placed_as_well(desk: Desk, ready: Board) -> None:
    desk.record(alarm(ready, replace(UNSET, wall_ns=int((NOW + 3e8) * S))))
    desk.record(anchor(ready, int(NOW * S)))
    assert seen(desk) == views.iso(NOW - BEFORE_S)


def test_a_clock_years_ahead_does_not_stand_in_front_of_what_comes_after(
    desk: Desk, ready: Board
) -> None:
    desk.record(ready.introduce(RecordClass.BULK))
    for value, wall in ((1.0, NOW + 3e8), (2.0, NOW + 1)):
        made = ready.build(RecordClass.BULK, Kind.BATCH, {
            "readings": readings_to_senml([Reading("env", "t", "Cel", value, 100 * S)], 100 * S),
            "events": [], "counts": {},
        })  # fmt: skip
        time = RecordTime(100 * S, int(wall * S), None, "unsynced")
        desk.now += 1
        assert desk.record(ready.sign(replace(made, time=time))).accepted
    whole = views.gateway(desk.db, "gw-demo", desk.now)
    assert whole is not None
    assert whole["sensors"]["env"]["channels"]["t"]["value"] == "2"  # type: ignore[index]
