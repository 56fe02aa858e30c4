"""The one place where gate sleeps: its descriptors, and who is called when one has something.

What this decides: that between an exec that can be answered in passing (exec/quick.py) and the next
there is as little of gate as can be; whoever was let go is behind it on the same processor. What it
leaves to others: what happens then (daemon/gate.py).

epoll, not poll: poll asks every descriptor each time, on the way into sleep and out of it.

    waiting = Waiting()
    waiting.watch(fd, handler)
    waiting.poll(due_mono - now_mono, 64)     # [(fd, events), ...]
"""

from __future__ import annotations

from select import EPOLLIN, epoll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting:
    """See the module.

    Attributes:
        poll: seconds and how many at most -> what is ready; as epoll's own, with nothing between.
    """

    __slots__ = ("_handlers", "_poll", "poll")

    def __init__(self) -> None:
        self._poll = epoll()
        self.poll: Callable[[float, int], list[tuple[int, int]]] = self._poll.poll
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
