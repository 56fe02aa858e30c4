"""`edgewarden findings`: what the agent noticed since link started, last seen first."""

from __future__ import annotations

import argparse
from typing import Any

from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.services import lenient_settings, settings_option
from edgewarden.probe.control import ask_link
from edgewarden.wire.control import Command
from edgewarden.wire.facts import Severity


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """No verb: a list."""
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.findings/1)")
    settings_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the list; having findings is no failure of this command."""
    settings = lenient_settings(args, console).settings
    body: dict[str, Any] = ask_link(settings.paths.run, Command.FINDINGS)
    if args.json:
        console.json("edgewarden.findings/1", {k: v for k, v in body.items() if k != "schema"})
        return Exit.OK
    if not body["findings"]:
        console.line("no findings since link started")
    for f in body["findings"]:
        times = "" if f["count"] == 1 else f" x{f['count']}"
        when, code = f["last_utc"] or "-", f["code"] or "-"
        console.line(f"{when:<20} {severity(f['severity']):<8} {code:<12} {f['id']}{times}")
        console.line(clip(f"  {f['text']}"))
    return Exit.OK


def severity(number: int) -> str:
    """OCSF's word for a severity_id."""
    return Severity(number).name.lower() if number in list(Severity) else str(number)
