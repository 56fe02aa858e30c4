"""What one look at USB (look.py) goes by and finds, and what it knows of a device from the last.

work = Look("enforce", True, False, table, {"2-1": "boot_disk"}); work.denied += 1
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgewarden.judge.peripherals import Verdict
    from edgewarden.judge.peripherals_table import PeripheralTable
    from edgewarden.wire.peripherals import DeviceFacts, PeripheralVerdict


class Known:
    """A device as it was judged last; ``pin``: what it carried then."""

    __slots__ = ("facts", "inode", "pin", "verdict")

    def __init__(self, facts: DeviceFacts, inode: int, verdict: Verdict, pin: str) -> None:
        self.facts = facts
        self.inode = inode
        self.verdict = verdict
        self.pin = pin


class Look:
    """What one look goes by, and what it has found so far; ``first``: enforce begins with it;
    ``closes``: buses wait for verdicts, or some of them do."""

    __slots__ = (
        "allowed", "armed", "closes", "denied", "first", "mode", "pinned", "repeated", "table",
        "verdicts", "would_deny",
    )  # fmt: skip

    def __init__(
        self, mode: str, armed: bool, first: bool, table: PeripheralTable, pinned: dict[str, str]
    ) -> None:
        self.mode = mode
        self.armed = self.closes = armed
        self.first = first
        self.table = table
        self.pinned = pinned
        self.verdicts: list[PeripheralVerdict] = []
        self.allowed = self.denied = self.would_deny = self.repeated = 0
