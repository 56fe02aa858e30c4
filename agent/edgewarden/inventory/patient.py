"""Questions that may never be answered, asked in a thread that may be left behind.

Reading /proc/PID/cmdline or environ takes the other process's memory map: while a thread of it that
hangs holds that (a FUSE or network filesystem that does not answer), the reader waits as long. This
is how ``ps`` hangs. Pages backed by FUSE held it, too, before Linux 4.17 (CVE-2018-1120; since then
the kernel reads anonymous memory only, and a page that a userfaultfd answers for reads as nothing).
So does asking for a path on a filesystem that does not answer.

Decides that a question not answered within ``patience_s`` is given up together with the thread that
asks it. Threads left behind are few: with MOST_STUCK of them nothing is asked any more until one
comes back. Leaves to others what a silence means.

    patient = Patient(read_cmdline)
    patient.ask(["1", "4711"])      # {"1": b"/sbin/init"}: 4711 does not answer
    patient.stuck                   # {"4711"}
    patient.close()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE_S = 0.25
"""Read in 2 us where all is well; on a machine that swaps, in milliseconds."""
MOST_STUCK = 4
"""So the caller waits a second in all, however many processes are prepared to hold it."""


class _Round(Generic[T]):
    """Names to ask for, by one thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.answers: dict[str, T] = {}
        self.now = ""
        self.given_up = False
        self.done = threading.Event()


class Patient(Generic[T]):
    """One caller's thread; asks ``work(name)`` in another, which must not raise.

    Attributes:
        stuck: names whose question has not come back.
    """

    def __init__(self, work: Callable[[str], T], patience_s: float = PATIENCE_S) -> None:
        self._work = work
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._next: _Round[T] | None = None
        self._idle = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.stuck: set[str] = set()

    @property
    def exhausted(self) -> bool:
        """Whether nothing is asked any more."""
        return len(self.stuck) >= MOST_STUCK

    def ask(self, names: Sequence[str]) -> dict[str, T]:
        """The answers that came in time; who is stuck is not asked again."""
        answers: dict[str, T] = {}
        left = [name for name in names if name not in self.stuck]
        while left and not self.exhausted:
            current = self._hand_over(_Round(left))
            if current.done.wait(self._patience_s):
                return answers | current.answers
            with self._lock:
                if current.done.is_set():
                    return answers | current.answers
                current.given_up = True
                self._idle = False
                answers |= current.answers
                self.stuck.add(current.now)
                left = [n for n in left if n not in answers and n != current.now]
        return answers

    def close(self) -> None:
        """Let the thread go; one that is stuck ends when its question comes back."""
        with self._lock:
            self._closed = True
            self._wake.notify_all()
            thread = self._thread if self._idle else None
        if thread is not None:
            thread.join()

    def _hand_over(self, current: _Round[T]) -> _Round[T]:
        with self._lock:
            self._next = current
            if self._idle:
                self._idle = False
                self._wake.notify()
                return current
            self._thread = threading.Thread(target=self._run, name="patient", daemon=True)
        self._thread.start()
        return current

    def _run(self) -> None:
        with self._lock:
            current, self._next = self._next, None
        while current is not None:
            for name in current.names:
                current.now = name
                answer = self._work(name)
                with self._lock:
                    if self._left_behind(current):
                        return
                    current.answers[name] = answer
            with self._lock:
                if self._left_behind(current):
                    return
                self._idle = True
                current.done.set()
                self._wake.wait_for(lambda: self._next is not None or self._closed)
                current, self._next = self._next, None

    def _left_behind(self, current: _Round[T]) -> bool:
        """Whether this thread came back too late: another one goes on in its place."""
        if current.given_up:
            self.stuck.discard(current.now)
        return current.given_up
