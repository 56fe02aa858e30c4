"""What is left of a damaged segment: its good rows in a new file, and what is missing, for the
ledger.

Decides which rows count and what is said of the rest. Leaves to lane.py when, to rows.py what a
good row is.

* Every row that is what was written is kept, in order, in a file of the same name.
* What lies between two of them is one loss, with the hashes that its neighbours name; a neighbour
  that nobody knows is UNKNOWN.
* Nothing is carved out of pages that SQLite cannot read: a row without its number is no record.

    sieve = Sieve(1, first=10, before=digest)
    for row in sieve.good(damaged.each_row(1, 9, 100)): ...
    sieve.losses                      # between the rows
    sieve.rest(99, after=digest)      # behind the last one; or after=sieve.digest_at(99)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgewarden.errors import EdgewardenError
from edgewarden.ports import Loss, Stored
from edgewarden.record.rows import SegmentDamaged
from edgewarden.record.segment import Segment
from edgewarden.wire.cose import ContentType, open_envelope
from edgewarden.wire.record import decode_record, record_hash

DAMAGED = "segment damaged"
UNKNOWN = bytes(32)
"""A predecessor's hash that nobody kept."""


@contextlib.contextmanager
def newest_of(label: str) -> Iterator[None]:
    """Damage of the newest file of a class, for people: what, and who mends it."""
    try:
        yield
    except SegmentDamaged as fault:
        why = fault.text.rpartition(": ")[2]
        raise SegmentDamaged(
            f"the newest segment of {label} is damaged: {why}",
            next_step="keep a copy of the folder; link sets it aside when it starts, and saves "
            "what is good",
        ) from fault


class Sieve:
    """One damaged segment, read once.

    Attributes:
        kept: how many rows were good.
        losses: what was missing before the last of them.
    """

    def __init__(self, record_class: int, first: int, before: bytes) -> None:
        self.kept = 0
        self.losses: list[Loss] = []
        self._first = first
        self._class = record_class
        self._next = first
        self._before = before

    def good(self, rows: Iterable[Stored | int]) -> Iterator[Stored]:
        """The rows that count; numbers stand for those that do not."""
        for row in _while_they_last(rows):
            if not isinstance(row, Stored) or row.seq < self._next:
                continue
            if row.seq > self._next:
                self.losses.append(self._loss(row.seq - 1, predecessor_of(row)))
            self._next, self._before = row.seq + 1, record_hash(row.data)
            self.kept += 1
            yield row

    def rewrite(self, damaged: Path, path: Path, last: int) -> None:
        """Put what counts of a damaged file, up to ``last``, into a new segment without marks.

        Raises:
            HardwareFault: nothing of it can be read, or there is no room.
        """
        with contextlib.closing(Segment.open_sealed(damaged)) as old:
            rows = old.each_row(self._class, self._first - 1, last + 1)
            Segment.create(path, {}, self.good(rows)).close()

    def rest(self, last: int, after: bytes) -> list[Loss]:
        """What is missing from there up to ``last``."""
        return [self._loss(last, after)] if self._next <= last else []

    def digest_at(self, last: int) -> bytes:
        """The hash by which the chain goes on behind ``last``, where nobody knows the true one."""
        if self._next > last:
            return self._before
        return restart_digest(self._class, self._next, last)

    def _loss(self, last: int, after: bytes) -> Loss:
        return Loss(self._class, self._next, last, self._before, after, DAMAGED)


def _while_they_last(rows: Iterable[Stored | int]) -> Iterator[Stored | int]:
    with contextlib.suppress(SegmentDamaged):
        yield from rows


def predecessor_of(row: Stored) -> bytes:
    """The hash that a record names as its predecessor's."""
    try:
        return decode_record(open_envelope(row.data, ContentType.RECORD).payload).prev
    except EdgewardenError:
        return UNKNOWN


def holes(
    record_class: int, first: int, last: int, after: bytes, known: Iterable[Loss]
) -> Iterator[Loss]:
    """What is missing from ``first`` to ``last`` and part of no known loss.

    Args:
        after: the hash that the record behind ``last`` names.
    """
    for loss in sorted(known, key=lambda loss: loss.first):
        if first <= loss.last and loss.first <= last:
            if first < loss.first:
                yield Loss(record_class, first, loss.first - 1, UNKNOWN, loss.before, DAMAGED)
            first = loss.last + 1
    if first <= last:
        yield Loss(record_class, first, last, UNKNOWN, after, DAMAGED)


def restart_digest(record_class: int, first: int, last: int) -> bytes:
    """The predecessor hash of the first record behind a damaged newest segment.

    The true one is lost with the file; this one is fixed by what the gap record says, so that the
    chain goes on in exactly one way (docs/wire-format.md).
    """
    text = f"edgewarden lost segment {record_class} {first} {last}"
    return hashlib.sha256(text.encode()).digest()
