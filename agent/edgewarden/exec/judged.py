"""What the responder knows of one exec event, and what it counts of all.

Decides nothing; exec/responder.py fills both in.
"""

from __future__ import annotations

from edgewarden.kernel.lease import ReadLease
from edgewarden.wire.local import UNKNOWN_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgewarden.exec.digest import Hashing, Known
    from edgewarden.kernel.fanotify import ExecEvent


class Counters:
    """What the responder has done since its start."""

    __slots__ = (
        "allowed", "cached", "denied", "hashed", "killed", "learned", "unanswered", "undecidable",
        "unreported", "would_deny",
    )  # fmt: skip

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.would_deny = 0
        self.killed = 0
        """After their start."""
        self.learned = 0
        self.undecidable = 0
        self.hashed = 0
        self.cached = 0
        self.unreported = 0
        self.unanswered = 0
        """Answers nobody waited for any more: the process had been killed."""


class Judged:
    """An event from its arrival to its report."""

    __slots__ = (
        "asker", "boot_ns", "decision", "digest", "event", "fault", "hashing", "inode", "known",
        "lease", "mode", "owner", "reason", "rule", "size_bytes", "uid",
    )  # fmt: skip

    def __init__(self, event: ExecEvent, mode: str, boot_ns: int) -> None:
        self.event = event
        self.mode = mode
        self.size_bytes = 0
        self.hashing: Hashing | None = None
        self.uid = UNKNOWN_UID
        self.asker = UNKNOWN_UID
        self.lease = ReadLease(event.fd)
        self.reason = "undecidable"
        self.digest = b""
        self.rule: str | None = None
        self.decision = "allow"
        self.fault = ""
        self.boot_ns = boot_ns
        self.inode: tuple[int, int] | None = None
        self.known: Known | None = None
        self.owner = False

    @property
    def left_bytes(self) -> int:
        """What is still to be hashed."""
        return self.size_bytes - (0 if self.hashing is None else self.hashing.at)
