"""`edgewarden sensors probe` as a person meets it, on a pseudo-terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.serial.opening import close_port, open_port
from edgewarden.serial.portlife import Line
from hw.rigs.ptys import PtyPort
from tests.cli.json_page import printed
from tests.probe.test_listening import answers, board, echoes, until_it_answers
from tests.serial.test_nmea import GGA, sealed


def probe(folder: Path, *words: str) -> int:
    settings = folder / "edgewarden.toml"
    if not settings.exists():
        settings.write_text("")
    return main(["sensors", "probe", *words, "--settings", str(settings)])


def test_a_gps_is_named_with_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with board(tmp_path / "p", lambda port: port.send(sealed(GGA))) as port:
        assert probe(tmp_path, str(port.link), "--baud", "9600") == 0
        out = capsys.readouterr().out
        assert probe(tmp_path, str(port.link), "--baud", "9600", "--json") == 0
    assert printed(capsys.readouterr().out) == []
    lines = out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 and line.isascii() for line in lines)
    assert "nmea: " in lines[1]
    assert any(line.startswith("hint: this is a pseudo-terminal") for line in lines)
    assert '  format = "nmea"' in lines


def test_silence_has_its_hint_and_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PtyPort(tmp_path / "p") as port:
        assert probe(tmp_path, str(port.link), "--for", "0.2") == 2
    told = capsys.readouterr()
    assert "hint: nothing was heard: no power, TX and RX swapped" in told.out
    assert "[EW-SER-017]" in told.err


def test_a_modbus_device_answers_only_when_it_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with board(tmp_path / "p", answers) as port:
        assert probe(tmp_path, str(port.link), "--for", "0.3") == 2
        until_it_answers(monkeypatch)
        assert probe(tmp_path, str(port.link), "--modbus", "7", "--baud", "19200", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 'format = "modbus-rtu"' in found["settings"]
    assert "unit = 7" in found["settings"]


def test_an_echo_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until_it_answers(monkeypatch)
    with board(tmp_path / "p", echoes) as port:
        assert probe(tmp_path, str(port.link), "--modbus", "7", "--baud", "9600") == 2
    assert "hint: what we send comes back" in capsys.readouterr().out


def test_a_port_that_the_agent_owns_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PtyPort(tmp_path / "p") as port:
        (tmp_path / "edgewarden.toml").write_text(
            f'[[serial]]\nname = "gps"\nport = "{port.link}"\nformat = "nmea"\n'
        )
        held = open_port(str(port.link), Line())
        try:
            assert probe(tmp_path, str(port.link.resolve()), "--for", "1") == 65
        finally:
            close_port(held)
    told = capsys.readouterr().err
    assert "it is sensor gps [EW-SER-016]" in told
    assert "edgewarden sensors watch gps" in told


@pytest.mark.parametrize("words", [("--modbus", "0"), ("--modbus", "248")])
def test_what_is_no_unit_is_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    assert probe(tmp_path, "/dev/null", *words) == 64


@pytest.mark.parametrize("option", ["--baud", "--for"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "soon", "99999999999"])
def test_a_rate_or_a_time_that_is_none_is_a_matter_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with PtyPort(tmp_path / "p") as port, pytest.raises(SystemExit) as ended:
        probe(tmp_path, str(port.link), option, value)
    assert ended.value.code == 64
    told = capsys.readouterr().err
    assert f"argument {option}: " in told
    assert "[EW-AGT-007]" in told


def test_a_rate_that_the_settings_do_not_know_is_not_tried(tmp_path: Path) -> None:
    """What is found is printed as lines for them."""
    with PtyPort(tmp_path / "p") as port, pytest.raises(SystemExit):
        probe(tmp_path, str(port.link), "--baud", "12345")
