"""How long a segment's log is, and that it seldom grows; what stands in it is SQLite's.

A commit that makes a file longer costs ext4's journal six blocks, one that does not three
(ADR 49). So the log is made longer a step ahead, by noughts: behind its last commit SQLite reads no
frame, since the salt of these is wrong (https://sqlite.org/fileformat2.html#walformat). They are
not synced here: the next commit does that, and without them the log is as good.

    size_bytes = lengthen(log, size_bytes)          # behind each commit
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOG_BYTES = 256 << 10
"""Of pages in the log before SQLite copies them into the file. Longer, it grows for hours."""
LOG_STEP_BYTES = 32 << 10


def lengthen(log: Path, known_bytes: int) -> int:
    """Add a step where a commit has made the log longer than it was; a full disk takes none.

    Args:
        known_bytes: what this returned before, nought at first.

    Returns: how long it is.
    """
    with contextlib.suppress(OSError):
        size_bytes = log.stat().st_size
        if known_bytes < size_bytes < LOG_BYTES:
            fd = os.open(log, os.O_WRONLY | os.O_CLOEXEC)
            try:
                size_bytes += os.pwrite(fd, bytes(LOG_STEP_BYTES), size_bytes)
            finally:
                os.close(fd)
        return size_bytes
    return known_bytes
