"""How long this machine stood still lately, told by a process that looks all the time.

Each processor has a thread that sleeps TICK_S and says by how much it came late, where that is more
than LATE_S: a processor that another tenant had, or that had other work. Without it a limit in
seconds is a test of the machine: a second that was stolen in the middle leaves no trace afterwards.

with Stalls() as stalls:
    ...
    stalls.lately_s(60)      # seconds that were lost in the last minute, of the worst processor
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict

TICK_S = 0.02
LATE_S = 0.1
"""Less is what any process waits for on a machine at work."""
MOST_BYTES = 1 << 16


class Stalls:
    """The process, from outside. It ends with its standard input."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._rest = b""
        self._late: list[tuple[int, float, float]] = []
        while (line := self._process.stdout.readline()) != b"looking\n":
            assert line, "it ended"
            self._keep(line)  # its first thread came late before it said so
        os.set_blocking(self._process.stdout.fileno(), False)
        self.pid = self._process.pid

    def __enter__(self) -> Stalls:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _keep(self, line: bytes) -> None:
        cpu, at, late = line.split()
        self._late.append((int(cpu), float(at), float(late)))

    def lately_s(self, within_s: float) -> float:
        """Seconds that a processor was late altogether, of the one that lost most."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read(MOST_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._keep(line)
        since = time.monotonic() - within_s
        self._late = [one for one in self._late if one[1] >= since]
        lost: defaultdict[int, float] = defaultdict(float)
        for cpu, _, late in self._late:
            lost[cpu] += late
        return max(lost.values(), default=0.0)


def look(cpu: int) -> None:
    """One processor, for ever."""
    os.sched_setaffinity(0, {cpu})  # of this thread
    while True:
        due = time.monotonic() + TICK_S
        time.sleep(TICK_S)
        if (late := time.monotonic() - due) > LATE_S:
            os.write(1, b"%d %.3f %.3f\n" % (cpu, time.monotonic(), late))


if __name__ == "__main__":
    for one in os.sched_getaffinity(0):
        threading.Thread(target=look, args=(one,), daemon=True).start()
    os.write(1, b"looking\n")
    sys.stdin.read()
