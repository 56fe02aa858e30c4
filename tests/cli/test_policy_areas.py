"""What `policy show` and `policy check` say of rules about devices and serial ports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.wire import local
from tests.fakes.agent import running_gate, stats

POLICY = """\
[[device]]
name = "gps"
id = "1546:01a7"
interfaces = ["02/02/01", "0a/00/ff"]
port = "1-1.3"

[[port]]
name = "gps-port"
path = "platform-x-usb-0:1.3:1.0"
device = "gps"
"""


@pytest.fixture
def settings(tmp_path: Path) -> str:
    (tmp_path / "policy.toml").write_text(POLICY)
    path = tmp_path / "edgewarden.toml"
    path.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n'
        f'[exec]\npolicy = "{tmp_path}/policy.toml"\n'
    )
    return str(path)


def answer(request: local.Request) -> local.Answer | local.GateStats | local.AreaStats:
    if request.verb == "area":
        why = "usbguard (pid 7) decides here"
        return local.AreaStats(
            "peripherals", "enforce", False, 0, 2, 1, 3, 0, 1, 0, why_not=why, limits=""
        )
    if request.verb == "mode":
        return local.Answer(True, "", "enforce; refused now: 1-1.4 (Keyboard); kept over a restart")
    return stats()


def test_show_names_rules_mode_and_why_not(
    tmp_path: Path, settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gate(tmp_path / "run", answer):
        assert main(["policy", "show", "--settings", settings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "devices 1 rule(s), ports 1 rule(s)" in lines
    why = "(usbguard (pid 7) decides here)"
    shown = f"usb     mode enforce, not armed, 2 rule(s) in use {why}"
    assert any(shown.startswith(line.rstrip(".")) for line in lines if line.startswith("usb"))
    assert "allow   gps: id 1546:01a7, interfaces 02/02/01 0a/00/ff, port 1-1.3" in lines
    assert "allow   gps-port: platform-x-usb-0:1.3:1.0, gps" in lines


def test_show_as_json(tmp_path: Path, settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    with running_gate(tmp_path / "run", answer):
        assert main(["policy", "show", "--json", "--settings", settings]) == 0
    found = json.loads(capsys.readouterr().out)["peripherals"]
    assert found["device"][0]["interfaces"] == ["02/02/01", "0a/00/ff"]
    assert found["gate"]["armed"] is False


def test_check_counts_them(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    policy = settings.replace("edgewarden.toml", "policy.toml")
    assert main(["policy", "check", policy, "--settings", settings]) == 0
    assert "1 about devices, 1 about serial ports" in capsys.readouterr().out


def test_enforcing_says_what_is_refused_now(
    tmp_path: Path, settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gate(tmp_path / "run", answer) as seen:
        line = ["policy", "enforce", "peripherals", "--confirm", "10m", "--settings", settings]
        assert main(line) == 0
    assert (seen[0].area, seen[0].confirm_s) == ("peripherals", 600)
    assert "refused now: 1-1.4 (Keyboard)" in capsys.readouterr().out


def test_put_back_leaves_a_running_gate_alone(
    tmp_path: Path, settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gate(tmp_path / "run", answer):
        assert main(["policy", "put-back", "--settings", settings]) != 0
    assert "policy observe peripherals" in capsys.readouterr().err


def test_put_back_without_anything_to_undo(
    settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "put-back", "--settings", settings]) == 0
    assert "as it was" in capsys.readouterr().out
