"""When a port is read: at each wake-up, or, while it is busy, together with the others at a pace.

A line of 115,200 baud in full use wakes its reader for every few bytes, and what a wake-up costs is
the same for sixteen bytes as for a thousand. So a port that brings much without a pause is taken
off the loop's watch and read every GATHER_S, all such ports in one round. What it costs is that its
bytes are seen, and stamped, up to GATHER_S later: they came several at a time before, too.

Decides when a port is busy. Leaves to others reading (serialport.py), what bytes mean, and which
ports may be read so: not those where the time of each value is judged (daemon/sensors.py).

Rules, in order:

1. A port is busy when BUSY_BYTES came in SPAN_LEAST_S to SPAN_MOST_S, by wake-ups. Slower, and each
   value keeps its own time: a burst of sentences once a second is not busy. Faster, and a round
   would find more than one read takes.
2. It stays so until a round finds fewer than QUIET_BYTES or more than FULL_BYTES.
3. A port that answers questions (Modbus) is never read at a pace: the answer's time is judged.
4. A round asks ports of which nothing is known, and a terminal without bytes answers as one that
   hung up does (VMIN 0: b""). So only a wake-up tells the end of one; a round that finds nothing
   lets the port go back to wake-ups.
5. A read that raises does not keep the others of its round from theirs.

    busy = Busy()
    [busy.woken(1024, now_s=at / 10) for at in range(4)] == [False, False, True, False]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GATHER_S = 0.1
"""Between two rounds: a hundredth of the default commit; at 20 kB a second half of what the kernel
keeps of a port (N_TTY_BUF_SIZE, 4,096), before its own queue behind that."""
BUSY_BYTES = 2560
SPAN_LEAST_S, SPAN_MOST_S = 0.125, 0.5
"""From 5 to 20 kB a second: 57,600 to 200,000 baud in full use."""
QUIET_BYTES, FULL_BYTES = 256, 3072
"""Half of what the slowest busy port brings between two rounds; more than the fastest does."""

GONE = -1
Read = Callable[[int, bool], int]
"""Reads a descriptor once, woken or not (rule 4); returns how many bytes there were, or GONE: never
to be read again."""


class Busy:
    """Of one port; pure."""

    def __init__(self) -> None:
        self._bytes = 0
        self._since_s = float("-inf")

    def woken(self, size: int, now_s: float) -> bool:
        """Take what a wake-up brought; whether the port is busy from here on."""
        self._bytes += size
        if self._bytes < BUSY_BYTES:
            return False
        span_s, self._bytes, self._since_s = now_s - self._since_s, 0, now_s
        return SPAN_LEAST_S <= span_s <= SPAN_MOST_S

    @staticmethod
    def lasts(size: int) -> bool:
        """Whether a port of which a round found so much is still busy."""
        return QUIET_BYTES <= size <= FULL_BYTES


class Pace:
    """The busy ports of one loop; every method on its thread. Without any there is no timer."""

    def __init__(self) -> None:
        self._ports: dict[int, Callable[[int], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def join(self, fd: int, read: Callable[[int], None]) -> None:
        """Call ``read(fd)`` in every round."""
        self._ports[fd] = read
        if self._timer is None:
            self._wait()

    def leave(self, fd: int) -> None:
        """No more; nothing for one that is not here."""
        self._ports.pop(fd, None)

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._timer = loop.call_at(now_s - now_s % GATHER_S + GATHER_S, self._round)

    def _round(self) -> None:
        self._timer = None
        if not self._ports:
            return
        self._wait()
        for fd, read in tuple(self._ports.items()):
            try:
                read(fd)
            except Exception as fault:
                word = {"message": f"reading descriptor {fd}", "exception": fault}
                asyncio.get_running_loop().call_exception_handler(word)


class Readable:
    """One open descriptor, and how its reader comes to read it.

    Args:
        fd: non-blocking.
        read: reads it once.
        pace: None for a port that is read at each wake-up only.
    """

    def __init__(self, fd: int, read: Read, pace: Pace | None) -> None:
        self._fd, self._read, self._pace = fd, read, pace
        self._busy = Busy()
        asyncio.get_running_loop().add_reader(fd, self._woken, fd)

    def close(self) -> None:
        """Read it no more; may be called twice."""
        asyncio.get_running_loop().remove_reader(self._fd)
        if self._pace is not None:
            self._pace.leave(self._fd)

    def _woken(self, fd: int) -> None:
        size = self._read(fd, True)
        if size < 0:
            self.close()
        elif self._pace is not None:
            loop = asyncio.get_running_loop()
            if self._busy.woken(size, loop.time()):
                loop.remove_reader(fd)
                self._pace.join(fd, self._paced)

    def _paced(self, fd: int) -> None:
        size = self._read(fd, False)
        if size < 0:
            self.close()
        elif self._pace is not None and not self._busy.lasts(size):
            self._pace.leave(fd)
            asyncio.get_running_loop().add_reader(fd, self._woken, fd)
