"""Records while the disk takes none: signed, chained, in memory, bounded.

Decides what a record of this chain is and how much of it may wait. Leaves to refuge.py when there
is such a chain, to the uplink sending it.

* The chain belongs to the report key, which ends with this process: sequence 1 introduces it, and
  no later process can sign a number of it again. The chains on the disk are not touched: what they
  may already hold of a commit that was refused does not matter here (ADR 38).
* Its introduction says behind which record of audit it begins: by that a verifier tells a later
  start from an earlier one whose backlog comes after this chain.
* All classes in one chain, in the order in which they were signed: what is sent is contiguous.
* At most MAX_RECORDS and MAX_BYTES wait for the broker; bulk takes no more than half. What finds no
  room stays a fact in the intake, which counts what it must drop.
* A record that was accepted is gone from here. rest() is what was not: it goes to the disk, as it
  was signed, when there is one again.

    chain = MemoryChain("gw-demo", clock, report_key, introduction)
    chain.event(RecordClass.ALARM, event)
    chain.peek(0, 32, 65536); chain.ack(2)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from edgewarden.ports import ClassState, Clock, Instant, Signer, Stored
from edgewarden.record.journal import (
    Introduction,
    fit_event,
    fit_readings,
    introduction_of,
    record_time_of,
    sealed,
)
from edgewarden.wire.burst import Part
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import Event
from edgewarden.wire.record import (
    MEMORY,
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    record_hash,
)

MAX_RECORDS = 256
"""Signed and not accepted: a dozen windows of the uplink."""
MAX_BYTES = 1 << 20
"""As much as the facts of bulk that may wait beside them (intake.MAX_BULK_BYTES)."""
RECORD_BYTES = 96 * 1024
"""Payload of one record: it must fit into a record of the journal, should it go to the disk."""


class MemoryChain:
    """See the module's docstring. Storage thread only; blocks on the keys.

    Attributes:
        behind: the last sequence of audit that was durable when the disk was given up.
    """

    def __init__(self, device: str, clock: Clock, signer: Signer, who: Introduction) -> None:
        self._device = device
        self._clock = clock
        self._signer = signer
        self._who = who
        self._waiting: deque[Stored] = deque()
        self._bytes = 0
        self.head, self.digest = 0, NO_PREDECESSOR
        self.behind = 0

    @property
    def kid(self) -> bytes:
        """Names the key, and so the chain."""
        return self._signer.kid

    def has_room(self, record_class: RecordClass) -> bool:
        """Whether one more record of a class may wait here."""
        share = 2 if record_class is RecordClass.BULK else 1
        return len(self._waiting) < MAX_RECORDS // share and self._bytes < MAX_BYTES // share

    def event(self, record_class: RecordClass, event: Event) -> None:
        """Sign one event."""
        self._write(record_class, Kind.EVENT, fit_event(event))

    def batch(
        self, readings: Sequence[Part], events: Sequence[Event], counts: Mapping[str, int]
    ) -> None:
        """Sign a batch of bulk facts.

        Raises:
            Unstorable: nothing was signed; try with less.
        """
        anchor = self._clock.now()
        body: dict[str, object] = {
            "readings": fit_readings(readings, anchor),
            "events": [fit_event(event) for event in events],
            "counts": dict(counts),
        }
        self._write(RecordClass.BULK, Kind.BATCH, body, anchor)

    def peek(self, after: int, count: int, max_bytes: int) -> list[Stored]:
        """As ports.Spool.peek."""
        found: list[Stored] = []
        for record in self._waiting:
            if record.seq <= after:
                continue
            if found and (len(found) >= count or len(record.data) > max_bytes):
                break
            found.append(record)
            max_bytes -= len(record.data)
        return found

    def ack(self, upto: int) -> None:
        """Forget what was accepted."""
        while self._waiting and self._waiting[0].seq <= upto:
            self._bytes -= len(self._waiting.popleft().data)

    def rest(self) -> list[Stored]:
        """Everything that was not accepted, in order."""
        return list(self._waiting)

    def state(self) -> ClassState:
        """Counters, in the shape of a class's."""
        acked = self._waiting[0].seq - 1 if self._waiting else self.head
        return ClassState(self.head + 1, self.head, acked, self._bytes, 0)

    def _write(
        self,
        record_class: RecordClass,
        kind: str,
        body: Mapping[str, object],
        at: Instant | None = None,
    ) -> None:
        at = at or self._clock.now()
        if not self.head:
            introduction = introduction_of(self._signer, self._who, 0) | {"behind": self.behind}
            self._put(RecordClass.AUDIT, Kind.REPORT_KEY, introduction, at, self._who)
        self._put(record_class, kind, body, at, self._signer)

    def _put(
        self,
        record_class: RecordClass,
        kind: str,
        body: Mapping[str, object],
        at: Instant,
        by: Signer | Introduction,
    ) -> None:
        record = Record(
            device=self._device,
            boot_id=self._clock.boot_id(),
            record_class=record_class,
            seq=self.head + 1,
            prev=self.digest,
            time=record_time_of(at),
            kind=kind,
            body=dict(body),
        )
        data = sealed(record, ContentType.MEMORY, by, RECORD_BYTES)
        self._waiting.append(Stored(MEMORY, record.seq, data))
        self._bytes += len(data)
        self.head, self.digest = record.seq, record_hash(data)
