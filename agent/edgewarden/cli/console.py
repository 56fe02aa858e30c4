"""What a command prints, and which exit code its fault becomes.

Data goes to stdout, messages to stderr. Everything printed is ASCII without control characters (a
process may have put an escape sequence into its own name) and never coloured, so that NO_COLOR, a
serial console and a pipe all see the same. A failure is one line that says what is wrong and
carries a code, and one line that says what to do next.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import TextIO

from edgewarden.errors import (
    EdgewardenError,
    HardwareFault,
    OperatorFault,
    OurFault,
    PeerFault,
    TrustFault,
    WireRefusal,
)
from edgewarden.plain import dataclass

WIDTH = 80
HEIGHT = 24
"""A serial console, as far as status and doctor have to fit."""


class Exit(IntEnum):
    """Exit codes (surface.md); from 64 on those of <sysexits.h>."""

    OK = 0
    DEGRADED = 1
    FAILING = 2
    NOT_RUNNING = 3
    USAGE = 64
    BAD_INPUT = 65
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    PERMISSION = 77


_BY_CODE = {
    "EW-AGT-002": Exit.NOT_RUNNING,
    "EW-AGT-003": Exit.NOT_RUNNING,
    "EW-AGT-005": Exit.PERMISSION,
    "EW-AGT-006": Exit.FAILING,
    "EW-AGT-007": Exit.USAGE,
    "EW-AGT-008": Exit.CANNOT_CREATE,
    "EW-ID-006": Exit.CANNOT_CREATE,
    "EW-ID-007": Exit.CANNOT_CREATE,
    "EW-ID-008": Exit.USAGE,
    "EW-HOST-006": Exit.CANNOT_CREATE,
}
"""Codes whose exit says more than their class of fault."""

_BY_CLASS: tuple[tuple[type[EdgewardenError], Exit], ...] = (
    (WireRefusal, Exit.BAD_INPUT),
    (PeerFault, Exit.UNAVAILABLE),
    (TrustFault, Exit.FAILING),
    (OperatorFault, Exit.BAD_INPUT),
    (HardwareFault, Exit.FAILING),
    (OurFault, Exit.FAILING),
)


def exit_for(fault: EdgewardenError) -> Exit:
    """The exit code of a fault; a refusal of the kernel for lack of rights is always 77."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, PermissionError):
            return Exit.PERMISSION
        cause = cause.__cause__
    if fault.code in _BY_CODE:
        return _BY_CODE[fault.code]
    return next((code for kind, code in _BY_CLASS if isinstance(fault, kind)), Exit.FAILING)


@dataclass(frozen=True, slots=True)
class Console:
    """The two streams of one command."""

    out: TextIO
    err: TextIO

    def line(self, text: str = "") -> None:
        """One line of data."""
        print(safe(text), file=self.out)

    def json(self, schema: str, body: dict[str, object]) -> None:
        """One JSON object with its versioned schema, on one line."""
        print(json.dumps({"schema": schema, **body}, allow_nan=False), file=self.out)

    def note(self, text: str) -> None:
        """One line of message."""
        print(safe(text), file=self.err)

    def fault(self, text: str, code: str, next_step: str) -> None:
        """A failure: what is wrong with its code, and the next step."""
        self.note(f"edgewarden: {text} [{code}]")
        self.note(f"  next: {next_step}")


def safe(text: str) -> str:
    """Printable ASCII; anything else as an escape a person can read."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def clip(text: str, width: int = WIDTH) -> str:
    """At most ``width`` characters, with ``...`` where something was cut."""
    clean = safe(text)
    return clean if len(clean) <= width else clean[: width - 3] + "..."


def amount(count: int) -> str:
    """Bytes for people: 1536 -> 1.5 KiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
