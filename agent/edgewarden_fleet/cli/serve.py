"""`edgewarden-fleet serve DIR`: runs until SIGTERM; one JSON line on stdout when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.serve import serve


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("dir", type=Path, nargs="?", default=Path("."), help="the fleet folder")
    command.add_argument("--verbose", action="store_true", help="also log every accepted message")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Exit:
    """Serve; the broker is started by somebody else and may come and go."""
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def ready(body: dict[str, object]) -> None:
        print(json.dumps(body), flush=True)
        output.tell(f"enrolment {body['enroll']}  console {body['console']}")

    asyncio.run(serve(arguments.dir, ready))
    return Exit.OK
