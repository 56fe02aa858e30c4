"""Which numbers of processes there are, listed only where one can have come or gone since.

Each process and thread that begins takes the next number of its namespace, and each that is reaped
is one thread less; both stand in /proc/loadavg (fs/proc/loadavg.c). Where neither moved, a list of
/proc says what the last one said. Decides that, and nothing about who came or went. A list of 150
takes 33 us where everything is warm, these two numbers 1.5.

Rules, in order:

1. Without numbers that are the kernel's own (a sandbox's file says 0; a container's is another
   filesystem's) they may always have moved.
2. Each LIST_WITHIN_S they count as moved, whatever they say: a process with the right to choose its
   number (clone3, set_tid), which no counter shows, begins in the place of one that ends.

    births = Births("/proc")
    births.present()      # {1, 2, 4711}
    births.present()      # None, where nothing happened
"""

from __future__ import annotations

import os

LIST_WITHIN_S = 10.0
"""Each fifth look with the default sweep; each look with one as long as that."""
_BYTES = 128


class Births:
    """One thread. Holds a descriptor from the first question on.

    Args:
        proc: where procfs hangs.
        sweep_s: seconds between two questions.
    """

    def __init__(self, proc: str, sweep_s: float = 2.0) -> None:
        self._proc = proc
        self._each = max(1, int(LIST_WITHIN_S / sweep_s))
        self._fd: int | None = None
        self._last: tuple[bytes, bytes] | None = None
        self._skipped = 0
        self._names: list[str] = []
        self._present: set[int] = set()

    def present(self, *, whatever: bool = False) -> set[int] | None:
        """The numbers there are; None where they are those of the last call.

        Args:
            whatever: list in any case.

        Raises:
            OSError: there is no procfs.
        """
        # The kernel's numbers first: what happens while the list is made shows the next time.
        before, self._last = self._last, self._numbers()
        self._skipped += 1
        same = self._last is not None and self._last == before
        if same and not whatever and self._skipped < self._each:
            return None
        self._skipped = 0
        # listdir: names alone, where scandir makes an object of each. A thread, or a short life,
        # moves the numbers and not the names.
        if (names := os.listdir(self._proc)) != self._names:
            self._names = names
            self._present = {int(name) for name in names if name.isdecimal()}
        return self._present

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _numbers(self) -> tuple[bytes, bytes] | None:
        """(threads of the machine, the last number given), None where they are not to be had."""
        try:
            if self._fd is None:
                path = f"{self._proc}/loadavg"
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(self._fd).st_dev != os.stat(self._proc).st_dev:
                    self.close()
                    return None
            words = os.pread(self._fd, _BYTES, 0).split()
        except OSError:
            return None
        threads = words[3].partition(b"/")[2] if len(words) == 5 else b""
        return None if threads in (b"", b"0") or words[4] == b"0" else (threads, words[4])
