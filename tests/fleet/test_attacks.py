"""Everything that must be refused is refused, by its own name, counted, and leaves nothing
behind."""

from __future__ import annotations

import pytest

from tests.fleet.attacks import CASES, Attack, prepare
from tests.fleet.makers import Desk

UNTOUCHED = ("record", "report_key", "result", "exec_verdict", "reading")


@pytest.mark.parametrize(("name", "attack"), CASES, ids=[a.__name__ for _, a in CASES])
def test_refused_by_name(desk: Desk, name: str, attack: Attack) -> None:
    board = prepare(desk)
    refused_before = sum(desk.refused().values()) + sum(desk.refused("").values())
    verdict = attack(desk, board)
    assert (verdict.accepted, verdict.outcome) == (False, name)
    counted = desk.refused() if name not in ("bad_topic", "wrong_tenant") else desk.refused("")
    counted = counted if name in counted else desk.refused("")
    assert counted[name] == 1
    refused_after = sum(desk.refused().values()) + sum(desk.refused("").values())
    assert refused_after == refused_before + 1


def test_the_honest_board_is_accepted(desk: Desk) -> None:
    """The other half of every line above: without the attack, the same board passes."""
    board = prepare(desk)
    assert desk.record(board.event()).accepted
    assert desk.connect(board, {})
    data = board.evidence(desk.challenge(board.device).nonce)
    assert desk.take(board.topic("e", "evidence"), data).accepted
    assert desk.refused() == {}
