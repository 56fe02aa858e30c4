"""`policy learn` and gate: taking a baseline lets go of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.cli.policy_system import _watch
from edgewarden.errors import HardwareFault
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


@pytest.mark.parametrize("fails", [False, True])
def test_l5_the_hook_ends_the_excuse_only_when_the_table_knows_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A policy that somebody is in the middle of writing, a full disk: what packages brought is in
    no table, and must not be denied for it at once."""
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')

    def rebaseline(_: str) -> None:
        if fails:
            raise HardwareFault("no room", code="EW-EXEC-013", next_step="free space")

    monkeypatch.setattr("edgewarden.cli.policy_system.rebaseline", rebaseline)
    with running_gate(tmp_path / "run", lambda request: Answer(True, "", "")) as asked:
        code = main(["policy", "rebaseline", "--from-dpkg", "--settings", str(settings)])
    assert (code == 0) is not fails
    assert [(r.verb, r.confirm_s) for r in asked] == ([] if fails else [("packages", 0)])
