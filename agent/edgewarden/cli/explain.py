"""`edgewarden explain CODE`: the offline manual entry of a code; without a code, the list of
all."""

from __future__ import annotations

import argparse
import textwrap

from edgewarden import codes
from edgewarden.cli.console import WIDTH, Console, Exit
from edgewarden.errors import OperatorFault


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """One code, however it is typed."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="for example EW-NET-004")
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.explain/1)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the entry, or every code with its title."""
    if args.code is None:
        entries = list(codes.catalogue().values())
    else:
        found = codes.explain(args.code)
        if found is None:
            raise _unknown(args.code)
        entries = [found]
    if args.json:
        console.json("edgewarden.explain/1", {"codes": [_as_json(entry) for entry in entries]})
    elif args.code is None:
        for entry in entries:
            console.line(f"{entry.code:<12} {entry.title}")
    else:
        _print(entries[0], console)
    return Exit.OK


def _print(entry: codes.Entry, console: Console) -> None:
    area = codes.AREAS[entry.code.split("-")[1]]
    console.line(f"{entry.code}: {entry.title} ({area})")
    console.line()
    _wrap(entry.meaning, "", console)
    console.line()
    console.line("likely causes")
    for cause in entry.causes:
        _wrap(cause, "  - ", console)
    console.line()
    _wrap(entry.next_step, "next: ", console)


def _wrap(text: str, lead: str, console: Console) -> None:
    indent = " " * len(lead)
    for row in textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=indent):
        console.line(row)


def _as_json(entry: codes.Entry) -> dict[str, object]:
    return {
        "code": entry.code,
        "title": entry.title,
        "meaning": entry.meaning,
        "causes": list(entry.causes),
        "next": entry.next_step,
    }


def _unknown(typed: str) -> OperatorFault:
    close = codes.nearest(typed)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return OperatorFault(
        f"no such code: {typed[:40]}{hint}",
        code="EW-AGT-009",
        next_step="see the list: `edgewarden explain`",
    )
