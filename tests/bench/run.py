"""The bench: run every area, print the table, write the JSON.

    bash tests/bench/run.sh [--json FILE] [--markdown FILE] [--only ID-PREFIX]

Areas run one after another, never at once. An area that fails keeps the figures it had; its other
rows are there with the reason. Ends with 0 when it came to its end: whether a figure is good enough
is said by ``met``, row by row.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import proc
from tests.bench.place import Place
from tests.bench.rows import SCHEMA, Figure, Spec, markdown, rows, table

AREAS = (
    "footprint",
    "gate",
    "strict",
    "tiers",
    "policy",
    "watch",
    "network",
    "data",
    "wear",
    "targets",
    "ports",
    "endtoend",
    "mqtt",
    "backlog",
    "readings",
    "fleet",
    "identity",
    "attest",
)
"""Files beside this one, each with SPECS and measure(place)."""


def area_rows(name: str, only: str) -> list[dict[str, object]]:
    """The rows of one area whose id begins with ``only``."""
    module = importlib.import_module(f"tests.bench.{name}")
    specs: Sequence[Spec] = [s for s in module.SPECS if s.id.startswith(only)]
    if not specs:
        return []
    print(f"bench: {name} ...", file=sys.stderr, flush=True)
    began, figures, reason = time.monotonic(), [], "its area gave no such figure"
    try:
        with Place() as place:
            for figure in module.measure(place):
                figures.append(figure)
    except Exception as fault:  # whatever it is, it is told in the rows it cost
        reason = f"{type(fault).__name__}: {fault}".replace("\n", " ")[:600]
    spent_s = time.monotonic() - began
    print(f"bench: {name} took {spent_s:.0f} s", file=sys.stderr, flush=True)
    return rows(specs, _known(figures, specs), reason)


def _known(figures: list[Figure], specs: Sequence[Spec]) -> list[Figure]:
    known = {s.id for s in specs}
    return [f for f in figures if f.id in known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--markdown", metavar="FILE", help="and for docs/performance.md there")
    parser.add_argument("--only", metavar="ID-PREFIX", default="", help="e.g. gate. or data.commit")
    args = parser.parse_args(arguments)
    machine = proc.machine() | {"date_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")}
    body: list[dict[str, object]] = []
    for name in AREAS:
        body += area_rows(name, args.only)
    if not body:
        print(f"run.sh: no row begins with {args.only!r}", file=sys.stderr)
        return 64
    machine["load_1min_after"] = round(os.getloadavg()[0], 2)
    where = ", ".join(f"{k} {v}" for k, v in machine.items())
    print(where)
    print(table(body))
    if args.markdown:
        Path(args.markdown).write_text(f"{where}\n\n{markdown(body)}\n")
    if args.json:
        result = {"schema": SCHEMA, "machine": machine, "rows": body}
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
