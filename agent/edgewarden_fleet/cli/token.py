"""`edgewarden-fleet token new --device ID`: one line to carry to the gateway."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path

from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.desk.tokens import new_token
from edgewarden_fleet.store.schema import open_store

DEFAULT_TTL_S = 3600


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = command.add_subparsers(dest="verb", metavar="new", required=True)
    new = verbs.add_parser("new", help="make a single-use token for one device")
    new.add_argument("--device", required=True, help="device id: [a-z0-9][a-z0-9-]*")
    new.add_argument("--ttl", type=int, default=DEFAULT_TTL_S, metavar="SECONDS")
    new.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    new.add_argument("--json", action="store_true")
    new.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Exit:
    """Make one token; it is printed once and kept nowhere."""
    folder = FleetFolder(arguments.dir.absolute())
    settings = folder.settings()
    now = time.time()
    with closing(open_store(folder.database)) as db:
        token = new_token(db, folder.root(), arguments.device, now, arguments.ttl)
    url = f"https://{settings.enroll.host}:{settings.enroll.port}"
    if arguments.json:
        output.say_json(
            {
                "schema": "edgewarden-fleet.token/1",
                "device": arguments.device,
                "token": str(token),
                "url": url,
                "expires_utc_s": int(now + arguments.ttl),
            }
        )
        return Exit.OK
    output.say(str(token))
    output.tell(f"on the gateway: edgewarden enroll --ca {url} --token-file FILE")
    return Exit.OK
