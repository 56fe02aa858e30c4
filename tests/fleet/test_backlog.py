"""A backlog outlives certificates: what was introduced by one that has ended is believed when the
same key has a newer one, and only then."""

from __future__ import annotations

from edgewarden.wire.record import RecordClass
from edgewarden_fleet.store import registry
from tests.fleet.attacks import introduction
from tests.fleet.makers import Board, Desk

AUDIT = RecordClass.AUDIT
LATER_S = 40 * 86400


def test_forty_days_off_line(desk: Desk, board: Board) -> None:
    """Three starts without a broker, then a renewed certificate and a fourth."""
    backlog = []
    for _ in range(3):
        backlog += [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(5))]
        board.start()
    desk.now += LATER_S
    board.x5chain = desk.enrol(board.device, board.key)
    backlog += [board.introduce(AUDIT), board.event(AUDIT)]
    assert [desk.record(one).outcome for one in backlog] == ["next"] * len(backlog)
    assert desk.gaps(board.device, AUDIT) == []
    assert desk.refused() == {}


def test_without_a_newer_certificate_it_is_refused(desk: Desk, board: Board) -> None:
    old = board.introduce(AUDIT)
    desk.now += LATER_S
    assert desk.record(old).outcome == "cert_expired"


def test_a_revoked_key_has_no_newer_certificate(desk: Desk, board: Board) -> None:
    old = board.introduce(AUDIT)
    desk.now += LATER_S
    desk.enrol(board.device, board.key)
    registry.revoke(desk.db, board.device, "stolen", desk.now)
    assert desk.record(old).outcome == "revoked"


def test_the_certificate_before_is_still_its_own(desk: Desk, board: Board) -> None:
    """An answer to a renewal can be lost: the gateway then goes on with what it has."""
    old = board.x5chain
    desk.enrol(board.device, board.key)
    assert desk.record(introduction(board, old)).accepted
