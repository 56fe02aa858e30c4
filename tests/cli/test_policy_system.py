"""`policy learn` and gate: taking a baseline lets go of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.cli.policy_system import _watch
from edgewarden.wire.local import Answer, GateStats, Request
from tests.fakes.agent import running_gate, stats


@pytest.mark.parametrize(
    ("mode", "asked", "said"),
    [
        ("enforce", ["status"], "stays in mode enforce, with the new table"),
        ("observe", ["status", "mode"], "is in mode learn"),
    ],
)
def test_a_gate_that_enforces_goes_on(
    tmp_path: Path, mode: str, asked: list[str], said: str
) -> None:
    def answer(request: Request) -> Answer | GateStats:
        return stats(mode=mode) if request.verb == "status" else Answer(True, "", "")

    with running_gate(tmp_path, answer) as seen:
        assert _watch(str(tmp_path)) == said
    assert [request.verb for request in seen] == asked


def test_a_gate_that_is_not_there_or_refuses_is_told(tmp_path: Path) -> None:
    assert _watch(str(tmp_path)) == "is not running"
    with running_gate(tmp_path, lambda request: Answer(False, "busy", "not now")):
        assert _watch(str(tmp_path)) == "refused: not now"
