"""The one place where gate sleeps: its descriptors, and who is called when one has something.

What this decides: that between an exec that can be answered in passing (exec/quick.py) and the next
there is as little of gate as can be; whoever was let go is behind it on the same processor. What it
leaves to others: what happens then (daemon/gate.py).

epoll, not poll: poll asks every descriptor each time, on the way into sleep and out of it.

    waiting = Waiting(time.monotonic)
    waiting.watch(fd, handler)
    waiting.until(due_mono, execs_fd, answer)     # [(fd, events), ...]
"""

from __future__ import annotations

from select import EPOLLIN, epoll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READY_AT_ONCE = 64
"""Descriptors of one round; there are seldom more than ten."""


class Waiting:
    """See the module. Args: ``mono_s``, CLOCK_MONOTONIC in seconds."""

    __slots__ = ("_handlers", "_mono_s", "_poll")

    def __init__(self, mono_s: Callable[[], float]) -> None:
        self._mono_s = mono_s
        self._poll = epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, handler: Callable[[int], None], events: int = EPOLLIN) -> None:
        """Have ``handler(events)`` called; once more for a descriptor changes what was said."""
        try:
            self._poll.register(fd, events)
        except FileExistsError:
            self._poll.modify(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Call nobody any more; twice is harmless."""
        if self._handlers.pop(fd, None) is not None:
            try:
                self._poll.unregister(fd)
            except OSError:  # closed already: the kernel has forgotten it
                return

    def call(self, fd: int, events: int) -> None:
        """Call the handler; an earlier one of the same round may have ended it."""
        handler = self._handlers.get(fd)
        if handler is not None:
            handler(events)

    def now(self) -> list[tuple[int, int]]:
        """What is ready already."""
        return self._poll.poll(0, READY_AT_ONCE)

    def until(
        self, due_mono: float, execs: int, in_passing: Callable[[], float | None]
    ) -> list[tuple[int, int]]:
        """What is ready, at ``due_mono`` at the latest.

        Args:
            due_mono: when somebody has something to do anyway.
            execs: the descriptor of exec events, -1 for none.
            in_passing: answers what waits there; None: that is for the long way, else when there is
                something to do because of it.
        """
        now_mono = self._mono_s()
        while now_mono < due_mono:
            ready = self._poll.poll(due_mono - now_mono, READY_AT_ONCE)
            if len(ready) != 1 or ready[0][0] != execs:
                return ready
            also_due_mono = in_passing()
            if also_due_mono is None:
                return ready
            if also_due_mono < due_mono:
                due_mono = also_due_mono
            now_mono = self._mono_s()
        return []
