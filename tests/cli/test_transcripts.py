"""The commands as a person meets them: transcripts/*.txt, each a command, its files and what it
prints.

    # why this transcript exists
    expect: EXIT
    link: ANSWER.json | verdict=... ; sensors...      (a running link; omit for none)
    gate: FIELD=VALUE ...                              (a running gate; omit for none)
    $ edgewarden COMMAND LINE          (@ stands for the test's own folder)
    == file NAME                       (any number)
    == stdout
    == stderr

``*`` in an expected line stands for anything. Output must match line by line: nothing more, nothing
less.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.wire import local
from edgewarden.wire.control import Command, Request
from tests.fakes.agent import running_gate, running_link, stats

HERE = Path(__file__).parent
TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))

SETTINGS = """\
[device]
id = "gw-demo"
[paths]
state = "@/state"
run = "@/run"
[exec]
policy = "@/policy.toml"
"""


@dataclass
class Transcript:
    head: dict[str, str] = field(default_factory=dict)
    command: str = ""
    parts: dict[str, list[str]] = field(default_factory=dict)


def read(path: Path) -> Transcript:
    found = Transcript()
    part: list[str] | None = None
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            part = found.parts.setdefault(line[3:], [])
        elif part is not None:
            part.append(line)
        elif line.startswith("$ edgewarden"):
            found.command = line.removeprefix("$ edgewarden")
        elif not line.startswith("#") and line:
            name, _, value = line.partition(": ")
            found.head[name] = value
    return found


def link_handler(name: str, changes: dict[str, object]):  # type: ignore[no-untyped-def]
    body = {**json.loads((HERE / "answers" / name).read_text()), **changes}

    def handle(request: Request) -> dict[str, object]:
        if request.command is Command.STATUS:
            return {"schema": "edgewarden.status/1", **body}
        if request.command is Command.WATCH:
            return {"schema": request.command.schema, "device": body["device"], **body["watch"]}
        extra = {"device": body["device"], request.command.value: body[request.command.value]}
        if request.command is Command.OBSERVED:
            extra["others"] = body.get("others", 0)
        return {"schema": request.command.schema, **extra}

    return handle


def matches(expected: list[str], printed: str) -> None:
    lines = printed.splitlines()
    for wanted, got in zip(expected, lines, strict=False):
        form = ".*".join(re.escape(piece) for piece in wanted.split("*"))
        assert re.fullmatch(form, got), f"wanted {wanted!r}, got {got!r}"
    assert len(lines) == len(expected), printed


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda p: p.stem)
def test_transcript(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = read(path)
    (tmp_path / "edgewarden.toml").write_text(SETTINGS.replace("@", str(tmp_path)))
    for name, rows in told.parts.items():
        if name.startswith("file "):
            file = tmp_path / name.removeprefix("file ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(rows).replace("@", str(tmp_path)) + "\n")
    with contextlib.ExitStack() as stack:
        if "link" in told.head:
            name, _, changes = told.head["link"].partition(" ")
            handler = link_handler(name, json.loads(changes or "{}"))
            stack.enter_context(running_link(tmp_path / "run", handler))
        if "gate" in told.head:
            answer = gate_answer(told.head["gate"])
            stack.enter_context(running_gate(tmp_path / "run", lambda request: answer))
        words = shlex.split(told.command.replace("@", str(tmp_path)))
        try:
            code = main(words)
        except SystemExit as ended:  # argparse: help and usage
            code = int(ended.code or 0)
    printed = capsys.readouterr()
    out, err = (text.replace(str(tmp_path), "@") for text in (printed.out, printed.err))
    assert code == int(told.head["expect"]), out + err
    matches(told.parts.get("stdout", []), out)
    matches(told.parts.get("stderr", []), err)
    for line in (out + err).splitlines():
        assert line.isascii()
        assert line.isprintable()


def gate_answer(words: str) -> local.Answer | local.GateStats:
    """``mode=observe tier=T3`` or ``refuse NAME TEXT`` or ``ok``."""
    if words == "ok":
        return local.Answer(True, "", "")
    if words.startswith("refuse "):
        _, name, text = words.split(" ", 2)
        return local.Answer(False, name, text)
    fields: dict[str, object] = {}
    for pair in words.split():
        name, _, value = pair.partition("=")
        fields[name] = int(value) if value.isdigit() else value
    return stats(**fields)


def test_there_is_a_transcript_for_every_exit_code() -> None:
    codes = {int(read(path).head["expect"]) for path in TRANSCRIPTS}
    assert codes >= {0, 1, 2, 3, 64, 65, 69, 73, 77}


def test_every_failure_in_a_transcript_has_a_code_and_a_next_step() -> None:
    for path in TRANSCRIPTS:
        told = read(path)
        if int(told.head["expect"]) < 3:
            continue
        text = "\n".join(told.parts.get("stderr", []) + told.parts.get("stdout", []))
        assert re.search(r"\[EW-[A-Z]+-\d{3}\]|\"code\": \"EW-", text), path.name
        assert "next" in text, path.name
