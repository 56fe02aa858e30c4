"""Another board for the same place: the name and the history stay, the keys go."""

from __future__ import annotations

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.store import registry, replaced, views
from tests.fleet.makers import Board, Desk, new_key

AUDIT = RecordClass.AUDIT


@pytest.fixture
def reported(desk: Desk, board: Board) -> list[int]:
    """What the first board has said, and more that only it could."""
    for made in (board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(4))):
        assert desk.record(made).accepted
    desk.connect(board, {AUDIT: 0})
    desk.reference("settings", bytes(32), board.device)
    return desk.stored(board.device, AUDIT)


def test_the_history_stays_under_its_own_name(
    desk: Desk, board: Board, reported: list[int]
) -> None:
    before = views.gateway(desk.db, board.device, desk.now)
    name = replaced.retire(desk.db, board.device, "burnt", desk.now)
    assert name == f"{board.device}~1"
    assert desk.stored(name, AUDIT) == reported
    assert desk.stored(board.device, AUDIT) == []
    after = views.gateway(desk.db, name, desk.now)
    assert before is not None
    assert after is not None
    assert after["chain"] == before["chain"]
    assert after["counts"] == before["counts"]
    assert views.gateway(desk.db, board.device, desk.now) is None, "nobody stands there now"


def test_the_new_board_begins_anew_in_the_same_place(
    desk: Desk, board: Board, reported: list[int]
) -> None:
    replaced.retire(desk.db, board.device, "burnt", desk.now)
    fresh = Board(desk, board.device)
    assert desk.record(fresh.introduce(AUDIT)).outcome == "next"
    assert desk.record(fresh.event(AUDIT)).outcome == "next"
    assert desk.stored(board.device, AUDIT) == [1, 2]
    shown = views.gateway(desk.db, board.device, desk.now)
    assert shown is not None
    assert [(e["device"], e["why"]) for e in shown["earlier"]] == [(f"{board.device}~1", "burnt")]  # type: ignore[attr-defined, union-attr]
    lines = views.gateways(desk.db, desk.now)["gateways"]
    assert isinstance(lines, list)
    assert [line["device"] for line in lines] == [board.device]
    assert replaced.retire(desk.db, board.device, "again", desk.now) == f"{board.device}~2"
    assert len(replaced.earlier(desk.db, board.device)) == 2


def test_the_old_board_is_refused_for_ever(desk: Desk, board: Board, reported: list[int]) -> None:
    late, spoken = board.event(AUDIT), board.introduce(AUDIT)
    replaced.retire(desk.db, board.device, "stolen", desk.now)
    assert desk.record(spoken).outcome == "unregistered"
    Board(desk, board.device)
    assert desk.record(spoken).outcome == "unregistered", "the new board's key is another"
    assert not desk.record(late).accepted
    with pytest.raises(WireRefusal) as refused:
        desk.enrol("gw-elsewhere", board.key)
    assert refused.value.name == "csr_invalid", "nor may its key be anybody else's"
    assert registry.sessions(desk.db) == ({"gw-demo.2": "gw-demo"}, {"gw-demo"})


def test_tokens_made_for_the_old_board_are_void(desk: Desk, board: Board) -> None:
    registry.add_token(desk.db, bytes(32), board.device, desk.now, 3600)
    replaced.retire(desk.db, board.device, "burnt", desk.now)
    with pytest.raises(WireRefusal) as refused:
        registry.check_token(desk.db, bytes(32), board.device, b"", desk.now)
    assert refused.value.name == "token_unknown"


def test_every_table_of_a_device_is_moved_or_named(desk: Desk, board: Board) -> None:
    """A table that somebody adds later is moved, too, unless it is listed here."""
    replaced.retire(desk.db, board.device, "burnt", desk.now)
    left = {
        name
        for (name,) in desk.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if any(c["name"] == "device" for c in desk.db.execute(f"PRAGMA table_info({name})"))
        and desk.db.execute(f"SELECT 1 FROM {name} WHERE device = ?", (board.device,)).fetchone()
    }
    assert left == {"replaced"}


def test_what_belongs_to_the_place_stays(desk: Desk, board: Board, reported: list[int]) -> None:
    sets = "SELECT set_id, data FROM reference_set"
    before = [tuple(row) for row in desk.db.execute(sets)]
    assert before
    replaced.retire(desk.db, board.device, "burnt", desk.now)
    assert [tuple(row) for row in desk.db.execute(sets)] == before


@pytest.mark.parametrize("device", ["nobody", "gw-demo~1"])
def test_nobody_and_a_board_that_is_gone_are_not_replaced(
    desk: Desk, board: Board, device: str
) -> None:
    assert replaced.retire(desk.db, board.device, "burnt", desk.now) == "gw-demo~1"
    assert replaced.retire(desk.db, device, "again", desk.now) is None


def test_a_new_key_is_needed(desk: Desk, board: Board) -> None:
    replaced.retire(desk.db, board.device, "burnt", desk.now)
    with pytest.raises(WireRefusal):
        desk.enrol(board.device, board.key)
    assert desk.enrol(board.device, new_key())
