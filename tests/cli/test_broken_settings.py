"""Broken settings take no tool away: who needs only [paths] reads what is still there, and says
so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.wire.control import Command, Request
from edgewarden.wire.local import Answer
from tests.fakes.agent import running_gate, running_link

ANSWER = json.loads((Path(__file__).parent / "answers" / "ok.json").read_text())
TOLD = "no such section"


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Settings with three faults, of which [paths] is none."""
    path = tmp_path / "edgewarden.toml"
    path.write_text(
        f'[hosst]\nperiod_s = 5\n[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n'
        f'[exec]\npolicy = "{tmp_path}/policy.toml"\nmoed = "learn"\n[uplnk]\n'
    )
    (tmp_path / "policy.toml").write_text("")
    return str(path)


def link(request: Request) -> dict[str, object]:
    if request.command is Command.STATUS:
        return {"schema": "edgewarden.status/1", **ANSWER}
    extra = {"device": "gw-demo", "findings": []}
    if request.command is Command.SENSORS:
        extra = {"device": "gw-demo", "sensors": ANSWER["sensors"]}
    return {"schema": request.command.schema, **extra}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["status"], 1, "new settings are not used"),
        (["findings"], 0, "no findings"),
        (["sensors"], 1, ""),
        (["policy", "observe"], 0, "gate is in mode observe"),
        (["policy", "show"], 0, "0 rule(s)"),
        (["doctor", "agent"], 0, "ok         link"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_running_agent_is_reached(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, says: str,
) -> None:  # fmt: skip
    with (
        running_link(tmp_path / "run", link),
        running_gate(tmp_path / "run", lambda request: Answer(True, "", "")) as asked,
    ):
        assert main([*words, "--settings", broken]) == code
    printed = capsys.readouterr()
    assert says in printed.out
    if words[0] != "doctor":  # whose own rung it is
        first, step = printed.err.splitlines()[:2]
        assert TOLD in first
        assert "(and 2 more)" in first
        assert f"`edgewarden config check {broken}`" in step
    wanted = {"observe": ["mode"], "show": ["status", "area", "area"]}
    assert [r.verb for r in asked] == wanted.get(words[-1], [])


def test_doctor_names_the_settings_and_climbs_on(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_link(tmp_path / "run", link):
        assert main(["doctor", "--json", "--settings", broken]) == 2
    rungs = {r["name"]: r["state"] for r in json.loads(capsys.readouterr().out)["rungs"]}
    assert rungs["settings"] == "failing"
    assert rungs["link"] == rungs["sensors"] == "ok"
    assert rungs["identity"] == "failing", "there is none, and that was looked at"


def test_a_status_says_in_json_what_it_says_by_its_exit_code(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_link(tmp_path / "run", link):
        assert main(["status", "--json", "--settings", broken]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["verdict"] == "degraded"
    assert [reason["code"] for reason in body["reasons"]] == ["EW-SET-013"]


def test_what_does_not_answer_is_still_named_by_its_own_code(
    broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "observe", "--settings", broken]) == 3
    assert main(["status", "--settings", broken]) == 3
    assert main(["spool", "stat", "--settings", broken]) == 65
    assert main(["identity", "show", "--settings", broken]) == 2
    told = capsys.readouterr().err
    assert "[EW-AGT-003]" in told
    assert "[EW-SPL-005]" in told
    assert "[EW-ID-004]" in told


def test_the_one_shot_compiles_nothing_and_says_what_stays(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "compile", "--settings", broken]) == 65
    assert "gate keeps its last table" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_first_start_with_broken_settings_is_refused(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` goes on only where something ran before; here it would supervise nothing."""
    assert main(["run", "--settings", broken]) == 65
    assert TOLD in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
