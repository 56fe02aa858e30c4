"""What gate saw and would not have allowed, for `policy would-block` and `policy learn`: one line
for each (decision, content, path, rule, user), with an exact count, in memory only.

The durable account is the spool and then the fleet; this list answers the person at the board while
link runs. At most MAX_LINES; what finds no room is counted, never dropped in silence.
"""

from __future__ import annotations

from edgewarden.wire.local import ExecVerdict

MAX_LINES = 1000
"""About 400 bytes each; an answer of 200 KiB (wire/control.py allows 1 MiB)."""
TOLD = ("learned", "would_deny", "deny")
"""Decisions that are of interest; what is allowed is not."""


class Observed:
    """Counts verdicts; every method on the loop's thread.

    Attributes:
        others: verdicts that found no line.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, bytes, str, str, int], int] = {}
        self.others = 0

    def see(self, verdict: ExecVerdict, count: int = 1, *, others: bool = False) -> None:
        """Count a verdict.

        Args:
            others: ``verdict`` is only the first of these (gate's ledger was full).
        """
        if verdict.decision not in TOLD:
            return
        key = (
            verdict.decision,
            verdict.reason,
            verdict.sha256,
            verdict.path_text(),
            verdict.rule,
            verdict.uid,
        )
        if others or (key not in self._lines and len(self._lines) >= MAX_LINES):
            self.others += count
            return
        self._lines[key] = self._lines.get(key, 0) + count

    def listed(self) -> list[dict[str, object]]:
        """The lines, most frequent first (surface: edgewarden.observed/1)."""
        ordered = sorted(self._lines.items(), key=lambda item: (-item[1], item[0]))
        return [
            {
                "decision": decision,
                "reason": reason,
                "sha256": sha256.hex(),
                "path": path,
                "rule": rule,
                "uid": uid,
                "count": count,
            }
            for (decision, reason, sha256, path, rule, uid), count in ordered
        ]
