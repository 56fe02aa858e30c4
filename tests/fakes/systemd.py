"""systemd as a table: units with properties, and a list of what it was told to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgewarden.ports import Ended


@dataclass
class FakeSystemd:
    """ports.Systemd.

    Attributes:
        units: unit -> property -> value; one that is missing is not loaded.
        failing: verbs (or "verb unit") that end with 1.
        canary: what a transient unit writes.
        done: everything asked for besides show, in order.
        commands: what it is to run later.
    """

    units: dict[str, dict[str, str]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    canary: str = "{}"
    done: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)

    def show(self, units: Sequence[str], properties: Sequence[str]) -> dict[str, dict[str, str]]:
        return {
            unit: {name: self.units.get(unit, {}).get(name, "") for name in properties}
            for unit in units
        }

    def do(self, verb: str, *units: str) -> Ended:
        said = " ".join((verb, *units))
        self.done.append(said)
        failed = said in self.failing or verb in self.failing
        return Ended(int(failed), "Job failed." if failed else "")

    def restart(self, unit: str) -> bool:
        self.done.append(f"restart {unit}")
        return f"restart {unit}" not in self.failing

    def transient(
        self, properties: Sequence[tuple[str, str]], command: Sequence[str], limit_s: float
    ) -> Ended:
        self.done.append("transient")
        return Ended(0, self.canary)

    def later(self, unit: str, after_s: int, command: Sequence[str]) -> None:
        self.done.append(f"later {unit} {after_s}")
        self.commands.append(list(command))
