"""`edgewarden-fleet revoke ID`: the registry's flag; the verifier refuses the device from now on.

`edgewarden-fleet serve` follows the registry: the device leaves the broker's list, which ends its
session (ingest/admission.py). While serve is down its session stays; what it sends waits in the
broker and is refused as ``revoked``.
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
from edgewarden_fleet.store import registry
from edgewarden_fleet.store.schema import open_store


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("device")
    command.add_argument("--reason", default="", help="kept beside the flag")
    command.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Exit:
    """Set the flag."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    with closing(open_store(folder.database)) as db:
        if not registry.revoke(db, arguments.device, arguments.reason[:200], time.time()):
            raise OperatorFault(
                f"no gateway {arguments.device!r} is enrolled",
                code="EW-SET-027",
                next_step="see `edgewarden-fleet gateways`",
            )
    output.say(f"{arguments.device} is revoked: the verifier refuses what it sends")
    output.tell("`edgewarden-fleet serve` ends its broker session within seconds of this")
    return Exit.OK
