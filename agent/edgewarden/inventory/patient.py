"""Questions that may never be answered, asked in a thread that may be left behind.

Reading /proc/PID/cmdline or environ takes the other process's memory map: while a thread of it that
hangs holds that (a FUSE or network filesystem that does not answer), the reader waits as long. This
is how ``ps`` hangs. Pages backed by FUSE held it, too, before Linux 4.17 (CVE-2018-1120; since then
the kernel reads anonymous memory only, and a page that a userfaultfd answers for reads as nothing).
So does asking for a path on a filesystem that does not answer.

Rules, in order:

1. A question not answered within ``patience_s`` is given up together with the thread that asks it.
   The time counts for each question: however many are asked, who answers at once is answered.
2. ``ask`` as a whole waits for WAITS times ``patience_s`` and no longer; what was not asked by then
   has no answer.
3. Nobody uses that up for all: a question belongs to an owner, and an owner that has two left open,
   or has taken half of the time, is not asked further. Who is not to be held off by others is an
   owner of its own.
4. Threads left behind are few: with MOST_STUCK of them nothing is asked any more until one comes
   back.

Leaves to others what a silence means.

    patient = Patient(read_cmdline)
    patient.ask(["1", "4711"])      # {"1": b"/sbin/init"}: 4711 does not answer
    patient.stuck                   # {"4711": "4711"}
    patient.close()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE_S = 0.25
"""Read in 2 us where all is well; on a machine that swaps, in milliseconds."""
WAITS = 4
"""So the caller waits a second in all, however many processes are prepared to hold it."""
MOST_STUCK = 8
MOST_OF_ONE = 2
TICKS = 5
"""Times in ``patience_s`` that the caller looks who is being asked."""


class _Round(Generic[T]):
    """Names to ask for, by one thread; ``number`` counts them as they are asked."""

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.answers: dict[str, T] = {}
        self.now = ""
        self.number = 0
        self.barred: set[str] = set()
        self.given_up = False
        self.done = threading.Event()


class Patient(Generic[T]):
    """One caller's thread; asks ``work(name)`` in another, which must not raise.

    Attributes:
        stuck: names whose question has not come back -> their owner.
        waited_s: for answers, in all; the caller may set it back.
    """

    def __init__(self, work: Callable[[str], T], patience_s: float = PATIENCE_S) -> None:
        self._work = work
        self._tick_s = patience_s / TICKS
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._next: _Round[T] | None = None
        self._idle = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.stuck: dict[str, str] = {}
        self.waited_s = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is asked any more."""
        return len(self.stuck) >= MOST_STUCK

    def ask(self, names: Sequence[str], whose: Callable[[str], str] = str) -> dict[str, T]:
        """The answers that came in time; who is stuck is not asked again.

        Args:
            names: asked for in this order.
            whose: name -> owner; each is its own by default.
        """
        answers: dict[str, T] = {}
        ticks, spent = WAITS * TICKS, dict[str, int]()
        left = {name: whose(name) for name in names if name not in self.stuck}
        while ticks > 0 and not self.exhausted:
            left = {n: owner for n, owner in left.items() if self._may_ask(owner, spent)}
            if not left:
                break
            current = self._hand_over(_Round(left))
            ticks = self._wait(current, ticks, spent)
            with self._lock:
                answers |= current.answers
                if current.done.is_set():
                    break
                current.given_up = True
                self._idle = False
                self.stuck[current.now] = left.get(current.now, "")
                left = {n: o for n, o in left.items() if n not in answers and n != current.now}
        return answers

    def close(self) -> None:
        """Let the thread go; one that is stuck ends when its question comes back."""
        with self._lock:
            self._closed = True
            self._wake.notify_all()
            thread = self._thread if self._idle else None
        if thread is not None:
            thread.join()

    def _may_ask(self, owner: str, spent: dict[str, int]) -> bool:
        open_ = sum(one == owner for one in self.stuck.values())
        return open_ < MOST_OF_ONE and spent.get(owner, 0) <= WAITS * TICKS // 2

    def _wait(self, current: _Round[T], ticks: int, spent: dict[str, int]) -> int:
        """Until all is answered, one question takes too long, or the time is over; returns what is
        left of it."""
        number = same = 0
        while ticks > 0 and not current.done.wait(self._tick_s):
            ticks -= 1
            self.waited_s += self._tick_s
            same = same + 1 if current.number == number else 0
            number = current.number
            owner = current.owners.get(current.now, "")
            spent[owner] = spent.get(owner, 0) + 1
            if not self._may_ask(owner, spent):
                current.barred.add(owner)
            if same >= TICKS:
                break
        return ticks

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
            for name, owner in current.owners.items():
                if owner in current.barred:
                    continue
                with self._lock:
                    if self._left_behind(current):
                        return
                    current.now = name
                    current.number += 1
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
            self.stuck.pop(current.now, None)
        return current.given_up
