"""The newest durable records, in memory: what was just written need not be asked of the disk.

Decides nothing: what is here is durable, and the spool says the same. Without it each commit wakes
the storage thread a second time, for the uplink to read what that thread has just written, and both
threads wait for one another's turn at the interpreter on the way (ADR 44).

One thread adds, another peeks and accepts; each writes what is its own and replaces it whole.

    fresh = Fresh()
    fresh.add(Stored(3, 8, data))          # durable: the storage thread
    fresh.peek(3, 7, 32, 65536)            # [Stored(3, 8, data)]; None: ask the spool
"""

from __future__ import annotations

from edgewarden.ports import Stored

FRESH_BYTES = 64 * 1024
"""Of one class: what the uplink fetches at a time (link/drain.py). The newest stays, however
long."""


class Fresh:
    """See the module."""

    def __init__(self) -> None:
        self._tail: dict[int, tuple[Stored, ...]] = {}
        self._accepted: dict[int, int] = {}

    def add(self, record: Stored) -> None:
        """Keep a record that has just become durable; storage thread."""
        c = record.record_class
        before, floor = self._tail.get(c, ()), self._accepted.get(c, 0)
        if before and before[-1].seq + 1 != record.seq:
            before = ()
        room, kept = FRESH_BYTES - len(record.data), len(before)
        while kept and before[kept - 1].seq > floor and len(before[kept - 1].data) <= room:
            kept -= 1
            room -= len(before[kept].data)
        self._tail[c] = (*before[kept:], record)

    def ack(self, c: int, upto: int) -> None:
        """Everything up to here was accepted; the event loop's thread."""
        self._accepted[c] = max(upto, self._accepted.get(c, 0))

    def peek(self, c: int, after: int, count: int, max_bytes: int) -> list[Stored] | None:
        """As ports.Spool.peek; None where the next record is not here. Any thread."""
        first = max(after, self._accepted.get(c, 0)) + 1
        tail = self._tail.get(c, ())
        if not tail or not tail[0].seq <= first <= tail[-1].seq:
            return None
        found: list[Stored] = []
        for record in tail[first - tail[0].seq :]:
            if found and (len(found) >= count or len(record.data) > max_bytes):
                break
            found.append(record)
            max_bytes -= len(record.data)
        return found
