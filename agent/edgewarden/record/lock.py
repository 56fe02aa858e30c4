"""One writer for one spool: a lock that the kernel takes away with the process.

Two writers would each believe in a head of their own and give one sequence to two records: on disk
one of them overwrites the other, at the fleet it looks like a clone. So whoever opens the spool for
writing holds flock(2) on ``spool/lock`` until it closes, and a second one is told, before it has
read a byte.

flock and not fcntl locks: those vanish when any descriptor of the file is closed anywhere in the
process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edgewarden.errors import OperatorFault

NAME = "lock"


class SpoolLock:
    """Held from construction to close(), or to the end of the process.

    Raises:
        OperatorFault: EW-SPL-009, somebody else holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise OperatorFault(
                f"another link writes to {folder}",
                code="EW-SPL-009",
                next_step="one link for one state folder: end the other one (`edgewarden status`)",
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)
