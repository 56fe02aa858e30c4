"""Evidence of an outage: kept in the audit chain, judged when it comes, with its age; and lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgewarden.wire.evidence import Tier
from edgewarden.wire.quoted import unasked_nonce
from edgewarden.wire.record import Kind, RecordClass, RecordTime
from edgewarden_fleet.store import late
from edgewarden_fleet.store.late import Late
from edgewarden_fleet.verify.late import age_s
from tests.fleet.makers import CODE, NOW, Board, Desk, Made
from tests.fleet.test_attest import ALARM, AUDIT, appraised, nonce, shown


@pytest.fixture
def away(desk: Desk, board: Board) -> Board:
    """A board whose audit chain has begun."""
    desk.record(board.introduce(AUDIT))
    desk.reference("code", CODE)
    return board


def carrying(board: Board, message: bytes, record_class: RecordClass = AUDIT) -> Made:
    return board.sign(board.build(record_class, Kind.EVIDENCE, {"evidence": message}))


def made(board: Board, **changes: object) -> bytes:
    """What the attester makes while nobody asks."""
    return board.evidence(unasked_nonce(board.heads[AUDIT][1]), **changes)


def judged(desk: Desk) -> list[Late]:
    return late.newest(desk.db, "gw-demo", 100)


def findings(desk: Desk) -> list[str]:
    return [
        row[0] for row in desk.db.execute("SELECT text FROM finding WHERE kind LIKE 'bad_late%'")
    ]


def test_an_outage_is_told_afterwards(desk: Desk, away: Board) -> None:
    kept = []
    for _ in range(5):
        kept += [away.event(AUDIT), carrying(away, made(away))]
    desk.now += 7200
    for record in kept:
        assert desk.record(record).accepted
    rows = judged(desk)
    assert [row.overall for row in rows] == ["warning"] * 5
    assert [row.age_s for row in rows] == [7200.0] * 5
    assert [row.made_utc_s for row in rows] == [NOW] * 5
    assert findings(desk) == []


def test_it_never_takes_the_place_of_a_verdict(desk: Desk, away: Board) -> None:
    record = carrying(away, made(away))
    result = appraised(desk, away, nonce(desk))
    assert result.overall is Tier.AFFIRMING
    desk.record(record)
    told = shown(desk)["attestation"]
    assert isinstance(told, dict)
    assert told["result"] == "affirming"
    assert [one["result"] for one in told["late"]] == ["warning"]


def test_what_changed_during_an_outage_is_contraindicated(desk: Desk, away: Board) -> None:
    desk.record(carrying(away, made(away, measurements={"code": bytes(32)})))
    assert [row.overall for row in judged(desk)] == ["contraindicated"]


def test_an_age_that_nothing_vouches_for_is_not_stated(desk: Desk, away: Board) -> None:
    record = away.build(AUDIT, Kind.EVIDENCE, {"evidence": made(away)})
    unsure = replace(record, time=replace(record.time, uncertainty_ms=None, state="unsynced"))
    desk.record(away.sign(unsure))
    assert [row.age_s for row in judged(desk)] == [None]


def test_a_tpm_vouches_for_the_past_too(desk: Desk) -> None:
    """Its counters are behind those of the fresh evidence that came first: no rollback."""
    board = Board(desk, tpm=True)
    desk.record(board.introduce(AUDIT))
    desk.reference("code", CODE)
    record = carrying(board, made(board))
    assert board.tpm is not None
    board.tpm.boot()
    past, board.boot_id = board.boot_id, b"n" * 16
    assert appraised(desk, board, nonce(desk)).facets["hardware"] is Tier.AFFIRMING
    board.boot_id = past
    desk.record(record)
    assert [row.overall for row in judged(desk)] == ["warning"]


def of_its_choice(desk: Desk, board: Board) -> Made:
    return carrying(board, board.evidence(bytes(32)))


def made_before(desk: Desk, board: Board) -> Made:
    """Evidence of a good hour, put into the chain later on."""
    good = made(board)
    desk.record(carrying(board, good))
    for _ in range(70):
        desk.record(board.event(AUDIT))
    return carrying(board, good)


def of_another_boot(desk: Desk, board: Board) -> Made:
    return carrying(board, made(board, boot_id=b"o" * 16))


def of_another_board(desk: Desk, board: Board) -> Made:
    other = Board(desk, "gw-other")
    other.heads = dict(board.heads)
    return carrying(board, made(other))


def signed_by_nobody(desk: Desk, board: Board) -> Made:
    message = made(board)
    return carrying(board, message[:-1] + bytes([message[-1] ^ 1]))


def not_evidence(desk: Desk, board: Board) -> Made:
    return carrying(board, b"")


def not_bytes(desk: Desk, board: Board) -> Made:
    return board.sign(board.build(AUDIT, Kind.EVIDENCE, {"evidence": "x"}))


def claims_of_another_device(desk: Desk, board: Board) -> Made:
    return carrying(board, made(board, device="gw-other"))


def in_another_class(desk: Desk, board: Board) -> Made:
    desk.record(board.introduce(ALARM))
    return carrying(board, made(board), ALARM)


LIES: dict[str, list[Callable[[Desk, Board], Made]]] = {
    "late_nonce": [of_its_choice],
    "late_anchor": [made_before],
    "late_boot": [of_another_boot],
    "wrong_topic": [of_another_board, claims_of_another_device],
    "bad_signature": [signed_by_nobody],
    "truncated": [not_evidence],
    "bad_evidence": [not_bytes, in_another_class],
}
CASES = [(name, lie) for name, lies in LIES.items() for lie in lies]


@pytest.mark.parametrize(("name", "lie"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_a_lie_about_the_past_is_a_finding(
    desk: Desk, away: Board, name: str, lie: Callable[[Desk, Board], Made]
) -> None:
    record = lie(desk, away)
    before = len(judged(desk))
    assert desk.record(record).accepted
    (text,) = findings(desk)
    assert f": {name}" in text
    assert len(judged(desk)) == before


@pytest.mark.parametrize(
    ("uncertainty_ms", "state", "age"),
    [(5, "synced", 10.0), (None, "synced", None), (5, "unsynced", None)],
)
def test_a_clock_that_nothing_vouches_for_tells_no_age(
    uncertainty_ms: int | None, state: str, age: float | None
) -> None:
    made = RecordTime(1, int((NOW - 10) * 1e9), uncertainty_ms, state)
    assert age_s(made, NOW) == (age if age is None else pytest.approx(age))
