"""`edgewarden-fleet quarantine list` and `lift ID --why TEXT`.

A quarantine says that two states of one gateway exist: a copied card, a restored backup. At grades
without a key that exists once (G0, G0+, G1) the fleet cannot tell which of them is the true one; a
person can. Lifting takes the state that the gateway shows next as the true one: the other copy must
be gone by then. Start its link anew: its first records say where each chain goes on, and what the
other copy had signed beyond is set aside (store/continuity.py).
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
from edgewarden_fleet.store import continuity
from edgewarden_fleet.store.schema import open_store
from edgewarden_fleet.store.views import iso


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = command.add_subparsers(dest="verb", metavar="list|lift", required=True)
    listed = verbs.add_parser("list", help="every gateway in quarantine, and why")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=show)
    lifted = verbs.add_parser("lift", help="believe a gateway again")
    lifted.add_argument("device")
    lifted.add_argument("--why", required=True, help="kept beside it: how the true one was found")
    lifted.set_defaults(run=lift)
    for verb in (listed, lifted):
        verb.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")


def show(arguments: argparse.Namespace) -> Exit:
    """List the open ones."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    with closing(open_store(folder.database, read_only=True)) as db:
        held = continuity.all_quarantined(db)
    if arguments.json:
        lines = [
            {"device": q.device, "kind": q.kind, "why": q.why, "since_utc": iso(q.since_utc_s)}
            for q in held
        ]
        output.say_json({"schema": "edgewarden-fleet.quarantine/1", "quarantined": lines})
        return Exit.OK
    rows = [(q.device, q.kind, iso(q.since_utc_s) or "", q.why) for q in held]
    output.table(("device", "kind", "since", "why"), rows)
    return Exit.OK


def lift(arguments: argparse.Namespace) -> Exit:
    """End one."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    with closing(open_store(folder.database)) as db:
        if not continuity.lift_quarantine(db, arguments.device, arguments.why, time.time()):
            raise OperatorFault(
                f"{arguments.device!r} is not in quarantine",
                code="EW-ATT-031",
                next_step="see `edgewarden-fleet quarantine list`",
            )
    output.say(f"{arguments.device}: the state it shows next is taken as its true one")
    output.tell("on it: `systemctl restart edgewarden-link`; its chains go on from there")
    output.tell("a copy of it that still runs will bring the quarantine back, at its next report")
    return Exit.OK
