"""Who is managed on this machine, for the policy one-shot: units' control groups, users' others.

What this decides, in order: a unit's other name is the unit's own; a unit that is never managed is
refused under every name; a unit that this machine does not know is managed where systemd would put
it, and a note says so, because nothing else would. A path from the root is taken as it is.

    places = Places(UnitFiles()); places.place("mysql.service"); places.notes()
"""

from __future__ import annotations

import pwd
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden.peers.places import control_group, unit_path
from edgewarden.peers.users import Subordinate
from edgewarden.probe.units import UnitFiles
from edgewarden.settings.peers import unit_fault

MOST_SUBUIDS = 4096


class Places:
    """See the module; one for each compiling."""

    def __init__(self, files: UnitFiles) -> None:
        self._files = files
        self._places: dict[str, str] = {}
        self._notes: dict[str, str] = {}

    def place(self, unit: str) -> str:
        """The control group of a unit, without a leading slash.

        Raises:
            OperatorFault: EW-NET-030, it is another name of a unit that is never managed.
        """
        if unit not in self._places:
            self._places[unit] = unit_path(unit) if unit.startswith("/") else self._look(unit)
        return self._places[unit]

    def notes(self) -> tuple[str, ...]:
        """What is odd, in words."""
        return tuple(self._notes.values())

    def _look(self, unit: str) -> str:
        found = self._files.of(unit)
        path = control_group(found.name, found.slice)
        if found.name != unit:
            if fault := unit_fault(found.name):
                raise OperatorFault(
                    f"{unit} is another name of {found.name}: {fault}",
                    code="EW-NET-030",
                    next_step="correct the policy file and compile it again",
                )
            self._notes[unit] = f"{unit} is another name of {found.name}; managed as /{path}"
        elif not found.known and unit.endswith(".service"):
            self._notes[unit] = f"{unit}: no such unit here; managed if it appears as /{path}"
        return path


def subordinates(path: Path) -> list[Subordinate]:
    """What subuid(5) says: who may run programs under which other numbers; none without it."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    found: list[Subordinate] = []
    for line in lines[:MOST_SUBUIDS]:
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if not (first.isdecimal() and count.strip().isdecimal()):
            continue
        try:
            number = int(owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            continue
        found.append((number, int(first), int(count)))
    return found
