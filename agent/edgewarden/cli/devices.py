"""`edgewarden devices`: who is behind this gateway, what each is worth, and an operator's word.

`reset NAME` lets the next key in under a name, `lift NAME` ends a quarantine, `retire NAME` frees
the place of a device that does not come back and refuses its key. Each writes a word to
STATE/devices.words, which only root can; link carries it out once, within two seconds or when it
next runs, and tells the fleet.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.services import (
    lenient_settings,
    settings_option,
    system_clock,
    system_randomness,
)
from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.judge.doctor import State, judge_devices
from edgewarden.probe.control import ask_link
from edgewarden.wire.control import Command
from edgewarden.wire.devices import (
    ID_BYTES,
    MAX_WHY_CHARS,
    MAX_WORDS_BYTES,
    WORDS_NAME,
    Verb,
    Word,
    encode_words,
    parse_words,
)
from edgewarden.wire.record import is_identifier

_SHOWN_KEY = 16


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """A list, or one of three words."""
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.devices/1)")
    settings_option(parser)
    parser.set_defaults(run=run)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb, text in (
        (Verb.RESET, "let the next key in under this name; ends a quarantine too"),
        (Verb.LIFT, "end a device's quarantine; its key stays"),
        (Verb.RETIRE, "forget a device and refuse its key from now on; frees its place"),
    ):
        child = verbs.add_parser(verb.value, help=text, description=f"{text}.", allow_abbrev=False)
        child.add_argument("name", metavar="NAME", help="the device")
        child.add_argument("--why", required=True, help="what the fleet is told")
        settings_option(child)
        child.set_defaults(run=say)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the list; degraded when a device, or the listener, needs somebody."""
    found = lenient_settings(args, console)
    body: dict[str, Any] = ask_link(found.settings.paths.run, Command.DEVICES)
    rungs = [r for r in judge_devices(body) if r.state in (State.DEGRADED, State.FAILING)]
    code = Exit.DEGRADED if rungs or found.faults else Exit.OK
    if args.json:
        console.json("edgewarden.devices/1", {k: v for k, v in body.items() if k != "schema"})
        return code
    listener = body["listener"]
    where = f" on {listener['address']}" if listener["address"] else ""
    console.line(f"listener {listener['state']}{where}, {listener['sessions']} session(s)")
    if body["devices"]:
        console.line(f"{'name':<24} {'grade':<15} {'state':<11} {'seen_s':>10} {'readings':>10}")
    for name, one in sorted(body["devices"].items()):
        seen = "-" if one["seen_s"] is None else f"{one['seen_s']:.0f}"
        counts = f"{seen:>10} {one['readings']:>10}"
        console.line(clip(f"{name:<24} {one['tier']:<15} {one['state']:<11} {counts}"))
        place = f", from {one['place']}" if one["place"] else ""
        key = one["key_sha256"][:_SHOWN_KEY] or "none"
        console.line(clip(f"  key {key} (number {one['lineage']}){place}"))
        if one["why"]:
            console.line(clip(f"  {one['why']}"))
        if one["refused"]:
            console.line(clip(f"  refused: {_counts(one['refused'])}"))
    for title, counts in (("refused", listener.get("refused")), ("failed", listener.get("failed"))):
        if counts:
            console.line(clip(f"{title}: {_counts(counts)}"))
    for rung in rungs:
        console.fault(rung.text, rung.code, rung.next_step)
    return code


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda e: -e[1]))


def say(args: argparse.Namespace, console: Console) -> int:
    """Write an operator's word."""
    settings = lenient_settings(args, console).settings
    if not is_identifier(args.name) or len(args.why) > MAX_WHY_CHARS or not args.why.isprintable():
        raise _no(f"{args.name[:64]!r} is no device's name, or the reason is too long")
    path = Path(settings.paths.state, WORDS_NAME)
    now_s = max(0, system_clock().now().wall_ns // 10**9)
    word = Word(
        system_randomness().token_bytes(ID_BYTES), Verb(args.verb), args.name, args.why, now_s
    )
    try:
        _write(path, [*_read(path), word])
    except PermissionError:
        raise
    except OSError as fault:
        raise _no(f"{path} cannot be written: {fault.strerror}") from fault
    console.line(f"{args.verb} of {args.name}: link carries it out within two seconds")
    return Exit.OK


def _read(path: Path) -> list[Word]:
    """The words so far; a file that cannot be read is written anew."""
    try:
        with path.open("rb") as file:
            return parse_words(file.read(MAX_WORDS_BYTES + 1))
    except (FileNotFoundError, WireRefusal):
        return []


def _write(path: Path, words: list[Word]) -> None:
    """One file or the other, whole; everybody may read it, only its owner's folder writes it."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(encode_words(words))
        file.flush()
        os.fsync(fd)
    fresh.rename(path)


def _no(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-DEV-011", next_step="see `edgewarden devices` for the names; use sudo"
    )
