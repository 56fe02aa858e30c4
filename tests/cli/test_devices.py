"""`edgewarden devices`: the list, and an operator's words in a file that is whole or as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.cli.status import screen
from edgewarden.wire.control import Request
from edgewarden.wire.devices import MAX_WORDS, WORDS_NAME, Verb, parse_words
from tests.cli.json_page import printed
from tests.fakes.agent import running_link

LISTENER = {
    "state": "listening", "address": "192.168.7.1 port 8883", "sessions": 1,
    "refused": {"source_rate": 3}, "failed": {"handshake_timeout": 2}, "code": "", "why": "",
    "next": "",
}  # fmt: skip
PRESS = {
    "tier": "affirming", "why": "", "state": "here", "key_sha256": "ab" * 32, "lineage": 1,
    "place": "192.168.7.20", "protocol": "mqtt", "seen_s": 3.2, "sessions": 4, "readings": 120,
    "refused": {"rate": 2},
}  # fmt: skip
HELD = {
    **PRESS, "tier": "contraindicated", "state": "quarantined", "seen_s": None,
    "why": "in quarantine: it is at 192.168.7.20 and at 192.168.7.99",
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "edgewarden.toml"
    file.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')
    return file


def run(settings: Path, *words: str, listener: object = None, devices: object = None) -> int:
    def handle(request: Request) -> dict[str, object]:
        body: dict[str, object] = {"schema": request.command.schema, "device": "gw-demo"}
        return {**body, "listener": listener or LISTENER, "devices": devices or {}}

    with running_link(settings.with_name("run"), handle):
        return main(["devices", *words, "--settings", str(settings)])


def test_the_list(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings, devices={"press-1": PRESS}) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "listener listening on 192.168.7.1 port 8883, 1 session(s)",
        "name                     grade           state           seen_s   readings",
        "press-1                  affirming       here                 3        120",
        "  key abababababababab (number 1), from 192.168.7.20",
        "  refused: rate 2",
        "refused: source_rate 3",
        "failed: handshake_timeout 2",
    ]
    assert shown.err == ""


def test_a_device_in_quarantine_is_degraded_and_says_what_to_do(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, devices={"press-1": HELD}) == 1
    told = capsys.readouterr().err
    assert "EW-DEV-002" in told
    assert "device press-1 in quarantine" in told


def test_a_listener_that_cannot_run_is_failing_by_name(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = {**LISTENER, "state": "refused", "code": "EW-DEV-006", "why": "no signature"}
    assert run(settings, listener=listener) == 1
    assert "EW-DEV-006" in capsys.readouterr().err


def test_as_json(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings, "--json", devices={"press-1": PRESS, "press-2": HELD}) == 1
    out = capsys.readouterr().out
    assert printed(out) == []
    assert json.loads(out)["devices"]["press-1"] == PRESS


def test_words_are_added_and_each_has_an_id_of_its_own(settings: Path) -> None:
    path = settings.with_name("state") / WORDS_NAME
    for verb in ("reset", "lift", "lift"):
        words = ["devices", verb, "press-1", "--why", "board replaced"]
        assert main([*words, "--settings", str(settings)]) == 0
    found = parse_words(path.read_bytes())
    assert [w.verb for w in found] == [Verb.RESET, Verb.LIFT, Verb.LIFT]
    assert len({w.id for w in found}) == 3
    assert {(w.device, w.why) for w in found} == {("press-1", "board replaced")}
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_oldest_words_give_way(settings: Path) -> None:
    words = ["devices", "lift", "press-1", "--why", "x", "--settings", str(settings)]
    for _ in range(MAX_WORDS + 2):
        assert main(words) == 0
    assert len(parse_words((settings.with_name("state") / WORDS_NAME).read_bytes())) == MAX_WORDS


def test_a_damaged_file_is_written_anew(settings: Path) -> None:
    path = settings.with_name("state") / WORDS_NAME
    path.write_bytes(b"x")
    assert main(["devices", "lift", "a", "--why", "x", "--settings", str(settings)]) == 0
    assert len(parse_words(path.read_bytes())) == 1


@pytest.mark.parametrize(
    "words", [["reset", "Press 1", "--why", "x"], ["lift", "a", "--why", "x" * 201],
              ["lift", "a", "--why", "x\ny"]]
)  # fmt: skip
def test_what_is_no_word_is_not_written(
    settings: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", *words, "--settings", str(settings)]) != 0
    assert "EW-DEV-011" in capsys.readouterr().err
    assert not (settings.with_name("state") / WORDS_NAME).exists()


def test_a_word_needs_a_reason(settings: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["devices", "reset", "press-1", "--settings", str(settings)])
    assert ended.value.code == 64


def test_the_screen_of_status_has_them_in_a_row_that_was_there() -> None:
    answer = json.loads((Path(__file__).parent / "answers" / "ok.json").read_text())
    plain = screen(answer)
    assert screen(
        {**answer, "devices": {"listener": {**LISTENER, "state": "off"}, "devices": {}}}
    ) == (plain)
    behind = {"listener": LISTENER, "devices": {"press-1": PRESS, "press-2": HELD}}
    rows = screen({**answer, "devices": behind})
    assert "sensors      2 device(s) behind, 1 here, 1 in quarantine" in rows
    assert len(rows) == len(plain)
    rows = screen({**answer, "sensors": {}, "devices": behind})
    assert any("no serial port; 2 device(s) behind" in row for row in rows)
