"""What holds for every command: help, width, weight; and the screens at their fullest."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgewarden import errors
from edgewarden.cli import console
from edgewarden.cli.console import HEIGHT, WIDTH, Exit, amount, clip, exit_for, safe
from edgewarden.cli.main import NOUNS, main, parser
from edgewarden.cli.status import screen

ROOT = Path(__file__).parents[2]
ANSWER = json.loads((Path(__file__).parent / "answers" / "ok.json").read_text())


def commands() -> list[list[str]]:
    """Every noun, and every verb of every noun."""
    found = []
    for noun in NOUNS:
        (nouns,) = (a for a in parser(noun)._actions if isinstance(a, argparse._SubParsersAction))
        verbs = [
            list(a.choices)
            for a in nouns.choices[noun]._actions
            if isinstance(a, argparse._SubParsersAction)
        ]
        found += [[noun]] + [[noun, verb] for verb in (verbs[0] if verbs else [])]
    return found


@pytest.mark.parametrize("words", [[], *commands()], ids=" ".join)
def test_every_command_has_help_that_fits(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    printed = capsys.readouterr()
    assert ended.value.code == 0
    assert printed.out.startswith("usage: edgewarden")
    assert printed.err == ""
    assert all(len(line) <= WIDTH for line in printed.out.splitlines())
    assert printed.out.isascii()


def test_the_commands_of_this_release() -> None:
    assert {" ".join(words) for words in commands()} == {
        "run", "gate", "guard", "link", "enroll", "status", "doctor", "sensors",
        "sensors watch", "sensors probe", "findings",
        "devices", "devices reset", "devices lift", "devices retire",
        "explain", "identity", "identity show", "identity selftest", "identity renew",
        "policy", "policy show", "policy check", "policy learn", "policy observe",
        "confine", "confine show", "confine apply", "confine confirm", "confine verify",
        "confine revert",
        "policy enforce", "policy confirm", "policy compile", "policy diff", "policy would-block",
        "policy rebaseline", "policy put-back",
        "config", "config show", "config check", "config reference", "spool", "spool stat",
        "spool verify", "spool export",
    }  # fmt: skip


def test_every_command_that_reads_speaks_json() -> None:
    reads = ["status", "doctor", "sensors", "findings", "explain"]
    reads += [
        "confine show",
        "confine verify",
        "identity show",
        "policy show",
        "policy check",
        "config show",
        "config check",
    ]
    reads += ["policy learn", "policy diff", "policy would-block"]
    for command in [*reads, "spool stat", "spool verify"]:
        noun, *verb = command.split()
        rest = ["x"] if verb == ["check"] else []
        assert parser(noun).parse_args([noun, *verb, "--json", *rest]).json, command


def loaded_by(*words: str) -> set[str]:
    """Modules in a fresh interpreter after a command."""
    code = (
        "import sys; from edgewarden.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return set(done.stderr.split("\n"))


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["explain", "EW-SET-001"]])
def test_light_commands_stay_light(words: list[str]) -> None:
    heavy = {"ssl", "sqlite3", "asyncio", "ctypes", "cryptography", "paho", "serial", "psutil"}
    assert not heavy & {name.split(".")[0] for name in loaded_by(*words)}


def test_the_version_costs_no_command_line() -> None:
    assert not {"argparse", "dataclasses", "json", "enum"} & loaded_by("--version")
    assert "argparse" in loaded_by("--help")


def test_a_table_of_exit_codes() -> None:
    denied = errors.HardwareFault("no")
    denied.__cause__ = PermissionError()
    assert [exit_for(fault) for fault in (
        errors.OurFault("x"), errors.WireRefusal("x"), errors.PeerUnavailable("x"),
        errors.TrustFault("x"), errors.OperatorFault("x"), errors.HardwareFault("x"), denied,
        errors.PeerUnavailable("x", code="EW-AGT-002"),
        errors.OperatorFault("x", code="EW-AGT-005"),
        errors.HardwareFault("x", code="EW-ID-006"),
    )] == [2, 65, 69, 2, 65, 2, 77, 3, 77, 73]  # fmt: skip
    assert {int(code) for code in Exit} == {0, 1, 2, 3, 64, 65, 69, 73, 77}


def test_a_status_with_everything_still_fits_the_screen() -> None:
    sensor = {"state": "silent", "readings": 10**12, "bad_frames": 10**9, "silent_s": 10.0**6}
    reason = {"code": "EW-EXEC-001", "text": "w" * 500, "next": "n" * 500}
    body = {
        **ANSWER,
        "device": "g" * 63,
        "sensors": {f"{i}" + "s" * 62: sensor for i in range(16)},
        "reasons": [reason] * 9,
    }
    rows = screen(body)
    assert len(rows) <= HEIGHT
    assert all(len(clip(row)) <= WIDTH for row in rows)
    assert "13 more: `edgewarden sensors`" in "\n".join(rows)
    assert "7 more: `edgewarden doctor`" in "\n".join(rows)
    assert "EW-EXEC-001" in "\n".join(clip(row) for row in rows)


def test_what_is_printed_cannot_steer_a_terminal() -> None:
    assert safe("a\x1b[2J\r\n\x00b") == "a\\x1b[2J\\r\\n\\x00b"
    assert safe("gr\u00fc\u00df") == "gr\\xfc\\xdf"
    assert clip("x" * 100) == "x" * 77 + "..."
    assert len(clip("\x1b" * 40)) == WIDTH
    assert [amount(n) for n in (0, 1023, 1024, 1 << 20, 5 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB",
    ]  # fmt: skip


def test_a_reader_that_went_away_is_no_fault() -> None:
    script = f"{sys.executable} -m edgewarden config reference | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_the_console_keeps_data_and_messages_apart(capsys: pytest.CaptureFixture[str]) -> None:
    told = console.Console(sys.stdout, sys.stderr)
    told.line("data \x1b[2J")
    told.fault("bad", "EW-SET-001", "mend")
    printed = capsys.readouterr()
    assert printed.out == "data \\x1b[2J\n"
    assert printed.err == "edgewarden: bad [EW-SET-001]\n  next: mend\n"


def test_the_policy_one_shot_has_no_event_loop() -> None:
    """It stands in front of gate at every start."""
    loaded = loaded_by("policy", "compile", "--settings", "/nowhere/edgewarden.toml")
    assert "edgewarden.daemon.policy" in loaded
    assert not {"asyncio", "ssl", "sqlite3", "ctypes"} & loaded


BECOMES = """
import os, sys
def execv(path, line):
    print(line[1:], "argparse" in sys.modules, sep="\\n")
    raise SystemExit
os.execv = execv
from edgewarden.cli.entry import main
main()
"""


@pytest.mark.parametrize(
    ("words", "settings", "ordinary"),
    [
        (["link"], "/etc/edgewarden/edgewarden.toml", False),
        (["link", "--settings", "/x.toml"], "/x.toml", False),
        (["link", "--settings=/x.toml"], "/x.toml", True),
    ],
)
def test_link_as_it_is_started_costs_no_command_line(
    words: list[str], settings: str, ordinary: bool
) -> None:
    """Both ways lead to the same interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", BECOMES, *words],
        env={"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    line, parsed = done.stdout.splitlines()
    assert ast.literal_eval(line) == [
        "-P", "-c",
        f"import sys; sys.path.insert(0, {str(ROOT / 'agent')!r}); from edgewarden.daemon.lean"
        " import main; sys.exit(main(sys.argv[1]))",
        settings,
    ]  # fmt: skip
    assert parsed == str(ordinary)


@pytest.mark.parametrize("words", [["link", "--settings"], ["link", "--settings", "--json"]])
def test_another_line_of_link_is_the_command_lines(words: list[str]) -> None:
    assert "argparse" in loaded_by(*words)
