"""Which contents were started, as far as gate told: one digest for evidence.

The set, not the order: what a gateway does every day gives the same digest every day. gate may drop
allowed starts under load (it counts them), so the digest is of what link was told; evidence of
another set is a reason to ask, never proof of its absence.

    digest = SHA-256 over the SHA-256 of each distinct content, ascending
"""

from __future__ import annotations

import hashlib

from edgewarden.wire.local import ExecVerdict

MAX_PROGRAMS = 4096
"""Distinct contents kept, 200 bytes each; a Debian gateway starts a few hundred."""
NOT_STARTED = ("deny", "killed")


class Programs:
    """Remembers contents that were let start; every method on the loop's thread."""

    def __init__(self) -> None:
        self._contents: set[bytes] = set()
        self._over = False

    def see(self, verdict: ExecVerdict) -> None:
        """Count a verdict in."""
        if verdict.decision in NOT_STARTED or not verdict.sha256:
            return
        if len(self._contents) >= MAX_PROGRAMS and verdict.sha256 not in self._contents:
            self._over = True
            return
        self._contents.add(verdict.sha256)

    def digest(self) -> bytes:
        """SHA-256 of the set; b"" when nothing was told or more than fits."""
        if not self._contents or self._over:
            return b""
        return hashlib.sha256(b"".join(sorted(self._contents))).digest()
