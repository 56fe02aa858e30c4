"""Law 1 as an import-linter contract: "a row imports only what its last column names".

The rows are the table of agent/README.md and stand in pyproject.toml. import-linter's own contract
types need every module to exist and would take one contract a row; this one reads the table as it
is written:

* a room that exists must have a row, and a row's room need not exist yet;
* ``kernel.openssl`` in a row allows that module, not its room; ``*`` allows everything;
* errors, codes, dataclasses (plain) and the package's version are free to all;
* nothing imports edgewarden_fleet; the table itself has no cycle.

Example row: ``trust: wire ports kernel.openssl``.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
from importlinter import Contract, ContractCheck, fields, output

GATEWAY, FLEET = "edgewarden", "edgewarden_fleet"
FREE = frozenset({"errors", "codes", "plain", ""})
"""Imported by every room: the tree of errors, the catalogue of codes, the package's version."""


class RoomsContract(Contract):
    """See the module's docstring.

    Options:
        rows: ``ROOM: WHAT IT MAY IMPORT`` each.
        doors: single imports allowed besides, ``IMPORTER -> IMPORTED``, reviewed one by one.
    """

    type_name = "rooms"

    rows = fields.ListField(subfield=fields.StringField())
    doors = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        table = parse_rows(self.rows)
        doors = {tuple(part.strip() for part in door.split("->")) for door in self.doors}
        found = table_faults(table) + [
            fault
            for module in sorted(graph.modules)
            if module.split(".")[0] in (GATEWAY, FLEET)
            for fault in self._module_faults(graph, table, doors, module)
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def _module_faults(
        self,
        graph: grimp.ImportGraph,
        table: dict[str, frozenset[str]],
        doors: set[tuple[str, ...]],
        module: str,
    ) -> list[str]:
        room = room_of(module)
        if room not in table and room not in FREE:
            return [f"{module}: its room has no row in the table"]
        may = table.get(room, frozenset())
        return [
            f"{module} -> {imported} (l.{_line(graph, module, imported)})"
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if not allowed(room, may, imported) and (module, imported) not in doors
        ]

    def render_broken_contract(self, check: ContractCheck) -> None:
        for fault in check.metadata["found"]:
            output.print_error(f"- {fault}", bold=False)


def parse_rows(rows: list[str]) -> dict[str, frozenset[str]]:
    """The table: room -> what it may import."""
    table = {}
    for row in rows:
        room, _, may = row.partition(":")
        table[room.strip()] = frozenset(may.split())
    return table


def table_faults(table: dict[str, frozenset[str]]) -> list[str]:
    """A cycle between rooms can only come from the table, since every import follows it."""
    rooms = {
        room: {name.split(".")[0] for name in may} for room, may in table.items() if "*" not in may
    }
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        return [f"the table has a cycle: {' -> '.join(error.args[1])}"]
    return []


def room_of(module: str) -> str:
    """``edgewarden.wire.cbor`` -> ``wire``; ``edgewarden_fleet.*`` is one room, seen from here."""
    if module.split(".")[0] == FLEET:
        return FLEET
    return [*module.split("."), ""][1]


def allowed(room: str, may: frozenset[str], imported: str) -> bool:
    """Whether a module of this room may import that module."""
    top = imported.split(".")[0]
    if top not in (GATEWAY, FLEET):
        return True  # somebody else's package: other laws speak of those
    if room_of(imported) == room:
        return True
    if top == FLEET:
        return False
    return (
        room_of(imported) in may | FREE or "*" in may or imported.removeprefix(f"{GATEWAY}.") in may
    )


def _line(graph: grimp.ImportGraph, importer: str, imported: str) -> int:
    details = graph.get_import_details(importer=importer, imported=imported)
    return int(details[0]["line_number"]) if details else 0
