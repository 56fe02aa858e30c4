"""A spool in memory, held to the same contract suite as the one on disk.

``crash()`` forgets what a power cut would: the acknowledgements since the last commit. ``refuse``
makes the next writes fail the way a disk does.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from edgewarden.errors import HardwareFault, OurFault
from edgewarden.ports import ClassState, Loss, Stored
from edgewarden.record.segment import DiskFull
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass, record_hash

SEGMENT_RECORDS = 4
"""Records in one pretended segment."""


class _Disk:
    """What survives a power cut."""

    def __init__(self) -> None:
        self.records: dict[int, list[Stored]] = {int(c): [] for c in RecordClass}
        self.heads = {int(c): (0, NO_PREDECESSOR) for c in RecordClass}
        self.acked = {int(c): 0 for c in RecordClass}
        self.evicted = {int(c): 0 for c in RecordClass}
        self.unexplained: list[Loss] = []


class MemorySpool:
    """ports.Spool without a disk.

    Args:
        cap_bytes: of all records together.
    """

    def __init__(self, cap_bytes: int = 1 << 20) -> None:
        self.cap_bytes = cap_bytes
        self.refuse: HardwareFault | None = None
        self.has_ballast = True
        self.nearly_full = False
        self.closed = False
        self._disk = _Disk()
        self._acked = dict(self._disk.acked)
        self._victim: Loss | None = None

    def crash(self) -> None:
        """Power off and on again."""
        self._disk = deepcopy(self._disk)
        self._acked = dict(self._disk.acked)
        self._victim = None

    def heads(self) -> dict[int, tuple[int, bytes]]:
        return dict(self._disk.heads)

    def put(self, records: Sequence[Stored]) -> int:
        if not records:
            return 0
        c = records[0].record_class
        head = self._disk.heads[c][0]
        if [(r.record_class, r.seq) for r in records] != [
            (c, head + 1 + i) for i in range(len(records))
        ]:
            raise OurFault("records do not follow the head")
        if self.refuse is not None:
            raise self.refuse
        self._disk.records[c].extend(records)
        self._disk.heads[c] = records[-1].seq, record_hash(records[-1].data)
        self._disk.acked = dict(self._acked)
        for c, upto in self._acked.items():
            self._disk.records[c] = [r for r in self._disk.records[c] if r.seq > upto]
        return sum(len(one.data) for one in records)

    def peek(self, record_class: int, after_seq: int, count: int, max_bytes: int) -> list[Stored]:
        found: list[Stored] = []
        after = max(after_seq, self._acked[record_class])
        for r in self._disk.records[record_class]:
            if r.seq > after and (
                not found or sum(len(f.data) for f in found) + len(r.data) <= max_bytes
            ):
                found.append(r)
                if len(found) == count:
                    break
        return found

    def ack(self, record_class: int, upto_seq: int) -> None:
        head = self._disk.heads[record_class][0]
        self._acked[record_class] = max(self._acked[record_class], min(upto_seq, head))

    def room_for(self, record_class: int, size_bytes: int) -> bool:
        return sum(s.bytes for s in self.state().values()) + size_bytes <= self.cap_bytes

    def tight(self) -> bool:
        return self.nearly_full

    def victim(self, reason: str) -> Loss | None:
        bulk = self._disk.records[RecordClass.BULK][:SEGMENT_RECORDS]
        waiting = [r for r in bulk if r.seq > self._acked[RecordClass.BULK]]
        self._victim = None
        if waiting:
            earlier = [r for r in bulk if r.seq == waiting[0].seq - 1]
            self._victim = Loss(
                int(RecordClass.BULK),
                waiting[0].seq,
                bulk[-1].seq,
                record_hash(earlier[0].data) if earlier else NO_PREDECESSOR,
                record_hash(bulk[-1].data),
                reason,
            )
        return self._victim

    def put_gap(self, record: Stored, loss: Loss) -> int:
        size_bytes = self.put([record])
        if loss == self._victim:
            self._forget(loss)
        self._disk.unexplained = [other for other in self._disk.unexplained if other != loss]
        return size_bytes

    def evict(self, loss: Loss) -> None:
        if loss != self._victim:
            raise OurFault("evicting what victim() did not name")
        self._forget(loss)
        self._disk.unexplained.append(loss)

    def _forget(self, loss: Loss) -> None:
        self._victim = None
        kept = [r for r in self._disk.records[loss.record_class] if r.seq > loss.last]
        self._disk.records[loss.record_class] = kept
        self._disk.evicted[loss.record_class] += loss.last - loss.first + 1

    def finish(self, record_class: int, upto_seq: int) -> None:
        kept = [r for r in self._disk.records[record_class] if r.seq > upto_seq]
        self._disk.records[record_class] = kept

    def losses(self) -> list[Loss]:
        return list(self._disk.unexplained)

    def lend_ballast(self) -> bool:
        lent, self.has_ballast = self.has_ballast, False
        if lent and isinstance(self.refuse, DiskFull):
            self.refuse = None
        return lent

    def state(self) -> dict[int, ClassState]:
        return {
            c: ClassState(
                next=head + 1,
                durable=head,
                acked=self._acked[c],
                bytes=sum(len(r.data) for r in self._disk.records[c]),
                evicted=self._disk.evicted[c],
            )
            for c, (head, _) in self._disk.heads.items()
        }

    def close(self) -> None:
        self._disk.acked = dict(self._acked)
        self.closed = True
