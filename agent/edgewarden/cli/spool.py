"""`edgewarden spool stat|verify --state DIR`: durable records, read from disk, also with the agent
dead."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgewarden.cli.console import Console, Exit, amount, clip
from edgewarden.cli.services import settings_option
from edgewarden.errors import OperatorFault
from edgewarden.probe.disk import Disk
from edgewarden.settings.files import read_settings

_FIELDS = ("next", "durable", "acked", "bytes", "evicted")


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """stat and verify."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    stat = verbs.add_parser("stat", help="counters per class")
    verify = verbs.add_parser("verify", help="check every stored record: chain, sequence, bytes")
    for verb, name, run in ((stat, "spool", _stat), (verify, "spool-verify", _verify)):
        verb.add_argument("--state", metavar="DIR", help="state folder (default: the settings')")
        verb.add_argument("--json", action="store_true", help=f"print JSON (edgewarden.{name}/1)")
        settings_option(verb)
        verb.set_defaults(run=run)


def _state(args: argparse.Namespace) -> Path:
    """The state folder; with --state no settings are read: a copied folder needs none."""
    state = Path(args.state or read_settings(args.settings, Disk()).paths.state)
    if not (state / "spool").is_dir():
        raise OperatorFault(
            f"{state} holds no spool",
            code="EW-SPL-005",
            next_step="give the state folder with --state DIR, or start link once",
        )
    return state


def _stat(args: argparse.Namespace, console: Console) -> int:
    state = _state(args)
    from edgewarden.record import reader

    classes = {
        name: {field: int(getattr(counters, field)) for field in _FIELDS}
        for name, counters in reader.stat(state).items()
    }
    if args.json:
        console.json("edgewarden.spool/1", {"classes": classes})
        return Exit.OK
    console.line(f"{'class':<8}" + "".join(f"{field:>12}" for field in _FIELDS))
    for name, c in classes.items():
        numbers = "".join(f"{c[field]:>12}" for field in ("next", "durable", "acked"))
        console.line(f"{name:<8}{numbers}{amount(c['bytes']):>12}{c['evicted']:>12}")
    return Exit.OK


def _verify(args: argparse.Namespace, console: Console) -> int:
    state = _state(args)
    from edgewarden.record import reader

    report = reader.verify(state)
    if args.json:
        body = {"problems": list(report.problems), "records": dict(report.records)}
        console.json("edgewarden.spool-verify/1", {"ok": not report.problems, **body})
    else:
        for name, count in report.records.items():
            console.line(f"{name}: {count} record(s) checked")
        for problem in report.problems:
            console.line(clip(f"problem: {problem}"))
    if not report.problems:
        return Exit.OK
    text = f"{len(report.problems)} problem(s) in the spool"
    console.fault(text, "EW-SPL-002", "keep a copy of the folder for the operator")
    return Exit.FAILING
