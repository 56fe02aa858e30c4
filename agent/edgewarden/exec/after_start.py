"""Tier T0: end a program that runs already and is not allowed. It detects and responds.

What this decides: that the signal meets the process that was seen. The kernel's pidfd came with the
event; where none did (proc connector), the number is believed only while it runs the very file that
was judged. Nothing is prevented: of short programs about half have ended before (measured: 43 to
78 % of 200 payloads ran to their end).

What it leaves to others: who asked for it (gate/arming.py), verdicts (responder.py).

    if end(event, program_of): ...      # it got SIGKILL
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault
from edgewarden.kernel.process import open_pidfd, signal_pidfd
from edgewarden.kernel.signals import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.fanotify import ExecEvent


def end(event: ExecEvent, program_of: Callable[[int], tuple[int, int] | None]) -> bool:
    """SIGKILL by pidfd; False when the process had ended, or is no longer the one that was seen."""
    if event.pidfd >= 0:
        return signal_pidfd(event.pidfd, SIGKILL)
    if event.pid <= 1 or not event.is_alive():
        return False
    try:
        pidfd = open_pidfd(event.pid)
    except HardwareFault:
        return False
    try:
        status = os.fstat(event.fd)
        if program_of(event.pid) != (status.st_dev, status.st_ino):
            return False
        return signal_pidfd(pidfd, SIGKILL)
    finally:
        os.close(pidfd)
