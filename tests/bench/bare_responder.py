"""The least that an exec permission event can cost: a responder that allows everything at once.

    python -I -S tests/bench/bare_responder.py FILESYSTEM READY-FILE

Judges nothing, reports nothing, has gate's priority. A process of its own that starts nothing; ends
on TERM, with its parent, or after LIFE_S. The kernel allows whatever waits when it ends.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from select import POLLIN, poll

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "agent"))

from edgewarden.kernel.fanotify import FAN_OPEN_EXEC_PERM, open_group
from edgewarden.kernel.process import die_with_parent

LIFE_S = 120
NICE = -15


def main(filesystem: str, ready: str) -> None:
    """Answer until told to stop."""
    die_with_parent(signal.SIGKILL)
    signal.alarm(LIFE_S)
    if os.stat(filesystem).st_dev == os.stat("/").st_dev:
        raise SystemExit(f"{filesystem} is not a filesystem of its own")
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    group = open_group(permission=True)
    group.mark(filesystem, FAN_OPEN_EXEC_PERM)
    Path(ready).touch()  # on another filesystem than the one that is marked
    waiting = poll()
    waiting.register(group.fd, POLLIN)
    while True:
        waiting.poll()
        for event in group.read():
            group.answer(event.fd, allow=True)
            event.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
