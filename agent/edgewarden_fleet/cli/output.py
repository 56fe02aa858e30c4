"""What the operator's commands print, and which exit code a fault becomes (surface.md).

Data on stdout, messages on stderr. A failure is one line with its code and one with the next step;
text from outside loses what a terminal would obey.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import IntEnum

from edgewarden.errors import (
    EdgewardenError,
    HardwareFault,
    OperatorFault,
    PeerUnavailable,
    TrustFault,
    WireRefusal,
)


class Exit(IntEnum):
    """Exit codes (surface.md)."""

    OK = 0
    DEGRADED = 1
    FAILING = 2
    USAGE = 64
    BAD_INPUT = 65
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    PERMISSION = 77


_BY_CODE = {"EW-SET-022": Exit.CANNOT_CREATE, "EW-SET-025": Exit.CANNOT_CREATE}
_BY_CLASS: tuple[tuple[type[EdgewardenError], Exit], ...] = (
    (WireRefusal, Exit.BAD_INPUT),
    (PeerUnavailable, Exit.UNAVAILABLE),
    (OperatorFault, Exit.BAD_INPUT),
    (TrustFault, Exit.BAD_INPUT),
    (HardwareFault, Exit.FAILING),
)


def exit_for(fault: EdgewardenError) -> Exit:
    """The exit code of a fault."""
    if fault.code in _BY_CODE:
        return _BY_CODE[fault.code]
    return next((code for kind, code in _BY_CLASS if isinstance(fault, kind)), Exit.FAILING)


def say(text: str) -> None:
    """One line of data."""
    print(_plain(text))


def say_json(body: object) -> None:
    """One JSON value as data."""
    print(json.dumps(body, indent=1))


def tell(text: str) -> None:
    """One line of message."""
    print(_plain(text), file=sys.stderr)


def tell_fault(fault: EdgewardenError) -> None:
    """What is wrong, its code, what to do."""
    tell(f"edgewarden-fleet: {fault.text} [{fault.code}]")
    if fault.next_step:
        tell(f"  next: {fault.next_step}")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their longest cell."""
    cells = [[_plain(str(c)) for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
