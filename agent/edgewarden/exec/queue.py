"""Whose program is hashed next, when more than one waits.

What this decides, for each slice of hashing, in order:

1. Every OLDEST_EVERY-th slice goes to who waits longest: nobody waits for ever.
2. Else the users take turns: what one user starts does not come before what another does.
3. Of one user, the program with the least left to read: a small one does not wait for large ones.

and when more wait than PENDING_AT_MOST: the user with the most of them loses the one with the most
left. What that means for the one is for others to say (exec/responder.py: it is denied).

    queue.add(one); queue.next() is one; queue.remove(one)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, Protocol, TypeVar

    class Waiting(Protocol):
        """What takes its turn."""

        asker: int
        """Its user; stays as it is."""

        @property
        def left_bytes(self) -> int:
            """What is still to be read."""

    One = TypeVar("One", bound=Waiting)
else:

    class Generic:
        """Tell type checkers only: importing typing would cost 2 MB."""

        def __class_getitem__(cls, _):
            return cls

    One = None

PENDING_AT_MOST = 192
"""Two descriptors each. With what is held (128), waits for its report (64) and was just read (64)
that is 896 of the 1024 that a process may have at the least."""
OLDEST_EVERY = 4


class Queue(Generic[One]):
    """See the module."""

    __slots__ = ("_served", "_turn", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[One] = []
        self._served: dict[int, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: One) -> None:
        """One more that waits; a user who is new here comes after those who are not."""
        self._waiting.append(one)
        self._served.setdefault(one.asker, self._turn)

    def next(self) -> One:
        """Whose turn it is; there must be one. It stays in the queue."""
        self._turn += 1
        if self._turn % OLDEST_EVERY == 0:
            chosen = self._waiting[0]
        else:
            chosen = min(self._waiting, key=lambda one: (self._served[one.asker], one.left_bytes))
        self._served[chosen.asker] = self._turn
        return chosen

    def remove(self, one: One) -> None:
        """It has its verdict."""
        self._waiting.remove(one)
        if all(other.asker != one.asker for other in self._waiting):
            del self._served[one.asker]

    def surplus(self) -> One | None:
        """Who must leave; None while there is room."""
        if len(self._waiting) <= PENDING_AT_MOST:
            return None
        count: dict[int, int] = {}
        for one in self._waiting:
            count[one.asker] = count.get(one.asker, 0) + 1
        return max(self._waiting, key=lambda one: (count[one.asker], one.left_bytes))

    def take_all(self) -> list[One]:
        """Everybody, in the order they came; the queue is empty then."""
        taken, self._waiting = self._waiting, []
        self._served.clear()
        return taken
