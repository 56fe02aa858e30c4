"""`edgewarden-fleet replace ID --reason TEXT`: another board for the same place.

The site keeps its id and its history; the old board's keys are refused for ever. Without a token
for the new board nothing enrols, so this prints how to make one.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import replaced
from edgewarden_fleet.store.schema import open_store


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("device")
    command.add_argument("--reason", required=True, help="kept beside the old board's history")
    command.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Exit:
    """Move the old board aside."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    with closing(open_store(folder.database)) as db:
        name = replaced.retire(db, arguments.device, arguments.reason, time.time())
    if name is None:
        raise OperatorFault(
            f"no gateway {arguments.device!r} is enrolled",
            code="EW-SET-027",
            next_step="see `edgewarden-fleet gateways`",
        )
    output.say(f"{arguments.device}: the old board is {name} from now on, and refused for ever")
    output.tell(f"its history: `edgewarden-fleet show {name}`")
    output.tell(f"the new board: `edgewarden-fleet token new --device {arguments.device}`")
    return Exit.OK
