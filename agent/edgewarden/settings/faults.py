"""Faults in files that a person wrote, all of them at once.

A fault knows where it is (file and line), what it is about (the key's path), its EW code, what is
wrong, and the nearest right spelling where there is one. ``SettingsFaults`` carries every fault of
one reading: a person mends a file once, not once per fault.

    edgewarden.toml:7: uplink.port: "88x83" is not a whole number; example: port = 8883 [EW-SET-004]
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.errors import OperatorFault
from edgewarden.plain import dataclass

UNREADABLE = "EW-SET-011"
NOT_TOML = "EW-SET-002"
UNKNOWN_KEY = "EW-SET-003"
WRONG_TYPE = "EW-SET-004"
OUT_OF_RANGE = "EW-SET-005"
NOT_A_CHOICE = "EW-SET-006"
MISSING = "EW-SET-007"
BAD_FORM = "EW-SET-008"
DUPLICATE = "EW-SET-009"
CONTRADICTION = "EW-SET-010"
ENFORCE_HERE = "EW-SET-012"
NOT_THERE = "EW-SET-014"

MAX_SHOWN = 200
"""Faults listed in one report. A 64 KiB file of nonsense holds sixteen thousand: nobody reads
those, and the suggestion search costs time for each."""


CREATE = {
    "config": "create the file (see `edgewarden config reference`), or give --settings FILE",
    "policy": "create the file (empty: nothing is allowed), or mend the path, [exec] policy",
}
"""There are no lines to mend in a file that is not there."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault.

    Attributes:
        file: name of the file as it was given to the reader.
        line: 1-based; 0 when the fault is about the file as a whole.
        path: ``uplink.port``, ``serial[0].baud``, or "" when no key is concerned.
        text: what is wrong, one line.
        code: EW-SET-NNN.
        suggestion: what was probably meant, or "".
    """

    file: str
    line: int
    path: str
    text: str
    code: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        subject = f" {self.path}:" if self.path else ""
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{where}:{subject} {self.text}{hint} [{self.code}]"


class SettingsFaults(OperatorFault):
    """Every fault of one reading, in the order of the files.

    Attributes:
        faults: at least one.

    Args:
        noun: the command that checks such a file: config or policy.
    """

    def __init__(self, faults: Sequence[Fault], noun: str = "config") -> None:
        self.faults = tuple(faults)
        many = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        step = f"mend the lines named, then run `edgewarden {noun} check FILE`"
        if self.faults[0].code == NOT_THERE:
            step = CREATE.get(noun, step)
        super().__init__(
            f"{many}: {self.faults[0]}",
            code=self.faults[0].code,
            next_step=step,
            faults=len(self.faults),
        )
