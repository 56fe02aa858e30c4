"""Durable records on disk: ports.Spool over rotating SQLite segments.

Decides what is kept when space runs out, and how the chain goes on after damage. Leaves to
segment.py how a commit reaches the disk, to lane.py which file a record lies in, and to the
journal the signed gap records.

The rules, in order:

1. A record is durable when put() returns; state()["durable"] is the highest such sequence and
   nothing else.
2. Heads (sequence, hash) outlive their records: every commit of any class carries the marks of all
   classes, the newest segment of a class is never deleted, and heads.py says them once more. The
   latest head that any file knows is believed.
3. The acknowledgement cursor rides in the next commit; only then are accepted segments deleted.
   Late, it costs a duplicate; early, it would cost a record.
   A deletion that fails is tried again, and takes no commit back.
4. Bounds: all classes together stay under cap_bytes, and each finds room up to its own quota
   (quota.py). What goes first is the oldest bulk segment, whole, after its gap record is durable;
   the oldest several, with one gap record, where the cap became smaller than what lies here.
   Nothing goes that would not help. Alarm and audit are never evicted: when only they are left,
   room_for() says no.
5. A disk that others filled: the ballast gives back 2 MB for the log, then rule 4 goes on.

    spool = DiskSpool(Path("/var/lib/edgewarden/spool"), cap_bytes=256 << 20)
    spool.put([Stored(RecordClass.ALARM, 1, data)])
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from edgewarden.errors import HardwareFault, OurFault
from edgewarden.ports import ClassState, Loss, Stored
from edgewarden.record.heads import Heads
from edgewarden.record.lane import Lane
from edgewarden.record.lock import SpoolLock
from edgewarden.record.quota import Quotas
from edgewarden.record.rows import Mark
from edgewarden.record.salvage import predecessor_of
from edgewarden.record.segment import DiskFull, renamed_errors, sync_folder
from edgewarden.wire.record import RecordClass, record_hash

FOLDER = "spool"
BALLAST = "ballast"
BALLAST_BYTES = 2 << 20
"""What checkpoints of full logs (segment.LOG_BYTES, one a class) need on a full disk, with room to
spare for rows behind them."""
FREE_FOR_BALLAST_BYTES = 4 * BALLAST_BYTES
"""The ballast is taken again only when the disk has this much: not at once from whoever freed a
little.
"""

MAX_SEGMENT_BYTES = 8 << 20
"""Measured: larger segments save no writes, smaller ones cost fsyncs."""
MIN_SEGMENT_BYTES = 64 << 10
"""Below, the file's own pages outweigh the records."""
BAD_PART_OF_QUOTA = 2
"""Damaged files leave records half of their class's quota, under whatever cap they were written."""
SEGMENTS_PER_QUOTA = 8
"""An eviction costs at most an eighth of what a class may keep."""


class DiskSpool:
    """Implements ports.Spool. Storage thread only; every method blocks on the disk.

    Args:
        known: class -> (sequence, hash) of what this process made durable here before the disk
            refused: it goes on behind that.

    Raises:
        HardwareFault: the disk refuses; or EW-SPL-011, another spool lies here: what is under a
            filesystem that is not mounted, say.
    """

    def __init__(
        self,
        folder: Path,
        cap_bytes: int,
        quotas: Quotas | None = None,
        known: Mapping[int, tuple[int, bytes]] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._quotas = quotas or Quotas()
        with renamed_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = SpoolLock(folder)
        try:
            self._open()
            self._take_up(known)
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> None:
        self._heads = Heads(self._folder)
        said = self._heads.read()
        try:
            self._lanes = self._open_lanes()
        except DiskFull:
            # Replaying a log needs its index, 32 kB.
            if not self.lend_ballast():
                raise
            self._lanes = self._open_lanes()
        with renamed_errors(self._folder):
            sync_folder(self._folder)
        self._victim: Loss | None = None
        self._goes_bytes: int | None = 0  # of bulk, by the last question for room
        self._acked: dict[int, int] = {}
        self._gone: dict[int, int] = {}
        self._evicted: dict[int, int] = {}
        self._given_up = dict.fromkeys(self._lanes, 0)  # told as evicted, deleted or not
        self._merge_marks({c: Mark(*head) for c, head in said.items()})
        for lane in self._lanes.values():
            lane.closing = self._log_goes
        self._fill_ballast()

    def _log_goes(self, lane: Lane) -> None:
        self._heads.closing(lane.record_class, (lane.head, lane.digest))

    def _open_lanes(self) -> dict[int, Lane]:
        lanes: dict[int, Lane] = {}
        try:
            for c in RecordClass:
                quota = self._quotas.quota_bytes(self._cap_bytes, c)
                bad = quota // BAD_PART_OF_QUOTA
                lanes[int(c)] = Lane(self._folder / c.label, int(c), _segment_bytes(quota), bad)
        except BaseException:
            for lane in lanes.values():
                lane.close()
            raise
        return lanes

    def _merge_marks(self, said: Mapping[int, Mark]) -> None:
        """Believe the latest that any file says of a class (rule 2)."""
        for c, lane in self._lanes.items():
            known = [m for one in self._lanes.values() if (m := one.marks.get(c)) is not None]
            self._acked[c] = max((m.acked for m in known), default=0)
            self._gone[c] = max((m.gone for m in known), default=0)
            self._evicted[c] = max((m.evicted for m in known), default=0)
            known += [said[c]] if c in said else []
            latest = max(known, key=lambda m: m.head, default=Mark())
            if latest.head > lane.head:
                lane.damage.append(
                    Loss(c, lane.head + 1, latest.head, lane.digest, latest.digest, "tail lost")
                )
                lane.continue_from(latest.head, latest.digest)
            lane.told = self._gone[c]
            lane.note_missing(max(self._acked[c], self._gone[c]))
            told = max(self._gone[c], self._acked[c])
            lane.damage[:] = [loss for loss in lane.damage if loss.last > told]
            lane.trim_bad()

    def heads(self) -> dict[int, tuple[int, bytes]]:
        """See ports.Spool."""
        return {c: (lane.head, lane.digest) for c, lane in self._lanes.items()}

    def _take_up(self, known: Mapping[int, tuple[int, bytes]]) -> None:
        for c, (head, digest) in known.items():
            if not _holds(self._lanes[c], head, digest):
                raise HardwareFault(
                    f"{self._folder} is not the spool that was written before",
                    code="EW-SPL-011",
                    next_step="mount the filesystem of the state directory",
                )
        for c, (head, digest) in known.items():
            if self._lanes[c].head <= head + 1:  # else it is behind a damaged file, and further on
                self._lanes[c].resume(head, digest)

    def put(self, records: Sequence[Stored]) -> int:
        """See ports.Spool.

        Raises:
            OurFault: not one class, or not the sequence behind the head.
            DiskFull, HardwareFault: nothing was stored.
        """
        if not records:
            return 0
        lane = self._lanes[records[0].record_class]
        expected = [(lane.record_class, lane.head + 1 + i) for i in range(len(records))]
        if [(r.record_class, r.seq) for r in records] != expected:
            raise OurFault(f"records do not follow {lane.record_class}/{lane.head}")
        size_bytes = self._commit(lane, records)
        self._fill_ballast()
        return size_bytes

    def _commit(self, lane: Lane, records: Sequence[Stored]) -> int:
        """One transaction with everybody's marks, then delete what the marks say was accepted."""
        marks = {c: self._mark(c) for c in self._lanes}
        if records:
            own = marks[lane.record_class]
            marks[lane.record_class] = Mark(
                records[-1].seq, record_hash(records[-1].data), own.acked, own.gone, own.evicted
            )
        size_bytes = lane.append(records, marks)
        logs = {c: one.log for c, one in self._lanes.items() if one.log is not None}
        self._heads.write(self.heads(), logs)
        for c, other in self._lanes.items():
            other.commits += 1
            self._drop(other, marks[c].acked)
            other.trim_bad()
        return size_bytes

    def _drop(self, lane: Lane, upto: int) -> None:
        """Delete what was accepted or given up, behind a commit: that stands, whatever the disk
        says of a deletion, which is tried again with the next."""
        with contextlib.suppress(HardwareFault):
            lane.drop_upto(max(upto, self._given_up[lane.record_class]))

    def _mark(self, c: int) -> Mark:
        lane = self._lanes[c]
        return Mark(lane.head, lane.digest, self._acked[c], self._gone[c], self._evicted[c])

    def peek(self, record_class: int, after_seq: int, count: int, max_bytes: int) -> list[Stored]:
        """See ports.Spool."""
        after = max(after_seq, self._acked[record_class], self._given_up[record_class])
        return self._lanes[record_class].peek(after, count, max_bytes)

    def ack(self, record_class: int, upto_seq: int) -> None:
        """See ports.Spool; does not touch the disk (rule 3)."""
        head = self._lanes[record_class].head
        self._acked[record_class] = max(self._acked[record_class], min(upto_seq, head))

    def room_for(self, record_class: int, size_bytes: int) -> bool:
        """See ports.Spool (rule 4); deletes accepted segments first when it is tight."""
        if self._has_room(record_class, size_bytes):
            return True
        self._drop_acked()
        return self._has_room(record_class, size_bytes)

    def _has_room(self, record_class: int, size_bytes: int) -> bool:
        used = {c: lane.size_bytes() for c, lane in self._lanes.items()}
        stays = {c: lane.stays_bytes() for c, lane in self._lanes.items()}
        asked = self._cap_bytes, used, record_class, size_bytes, stays
        self._goes_bytes = self._quotas.goes_bytes(*asked)
        return self._quotas.short_bytes(*asked) <= 0

    def tight(self) -> bool:
        """See ports.Spool."""
        with renamed_errors(self._folder):
            found = os.statvfs(self._folder)
        return self._quotas.tight(found.f_bavail, found.f_blocks)

    def _drop_acked(self) -> None:
        for c, lane in self._lanes.items():
            first_kept = lane.second_first
            if first_kept is not None and first_kept - 1 <= self._acked[c]:
                self._commit(self._lanes[RecordClass.AUDIT], [])
                return

    def victim(self, reason: str) -> Loss | None:
        """See ports.Spool; ends the newest bulk segment when it is the only one."""
        lane = self._lanes[RecordClass.BULK]
        if self._goes_bytes is None:
            return None
        lane.drop_upto(self._given_up[RecordClass.BULK])
        if lane.second_first is None:
            lane.rotate()
        self._victim = lane.oldest(self._acked[RecordClass.BULK], reason, self._goes_bytes)
        return self._victim

    def put_gap(self, record: Stored, loss: Loss) -> int:
        """See ports.Spool."""
        c = loss.record_class
        evicting = loss == self._victim
        before = self._gone[c], self._evicted[c]
        self._gone[c] = max(self._gone[c], loss.last)
        if evicting:
            self._evicted[c] += loss.last - loss.first + 1
        try:
            size_bytes = self.put([record])
        except BaseException:
            self._gone[c], self._evicted[c] = before
            raise
        lane = self._lanes[c]
        lane.told = self._gone[c]
        lane.damage[:] = [other for other in lane.damage if other != loss]
        lane.trim_bad()
        if evicting:
            self._give_up(lane, loss.last)
        return size_bytes

    def _give_up(self, lane: Lane, upto: int) -> None:
        self._victim = None
        self._given_up[lane.record_class] = upto
        self._drop(lane, upto)

    def evict(self, loss: Loss) -> None:
        """See ports.Spool."""
        if loss != self._victim:
            raise OurFault("evicting what victim() did not name")
        lane = self._lanes[loss.record_class]
        if loss.first <= loss.last:
            lane.damage.append(loss)
        self._evicted[loss.record_class] += loss.last - loss.first + 1
        self._give_up(lane, loss.last)

    def finish(self, record_class: int, upto_seq: int) -> None:
        """See ports.Spool."""
        self._give_up(self._lanes[record_class], upto_seq)

    def losses(self) -> list[Loss]:
        """See ports.Spool."""
        return [loss for lane in self._lanes.values() for loss in lane.damage]

    def lend_ballast(self) -> bool:
        """See ports.Spool; unlinking needs no free block."""
        path = self._folder / BALLAST
        with renamed_errors(path):
            if not path.exists():
                return False
            path.unlink()
            sync_folder(self._folder)
        return True

    @property
    def ballast_lent(self) -> bool:
        """Whether the reserve is given away: the disk is or was full."""
        return not (self._folder / BALLAST).exists()

    def _fill_ballast(self) -> None:
        """Take the reserve when there is plenty of room; doing without it is not a fault."""
        path = self._folder / BALLAST
        with contextlib.suppress(OSError):
            if path.exists():
                return
            found = os.statvfs(self._folder)
            if found.f_bavail * found.f_frsize < FREE_FOR_BALLAST_BYTES:
                return
            building = path.with_suffix(".new")
            fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(fd, 0, BALLAST_BYTES)
            finally:
                os.close(fd)
            building.rename(path)

    def state(self) -> dict[int, ClassState]:
        """See ports.Spool."""
        return {
            c: ClassState(
                next=lane.head + 1,
                durable=lane.head,
                acked=self._acked[c],
                bytes=lane.size_bytes(),
                evicted=self._evicted[c],
            )
            for c, lane in self._lanes.items()
        }

    def close(self) -> None:
        """See ports.Spool; the acknowledgement cursor is kept when the disk allows."""
        with contextlib.suppress(Exception):
            if any(m.acked < self._acked[c] for c, m in self._latest_marks().items()):
                self._commit(self._lanes[RecordClass.AUDIT], [])
        for lane in self._lanes.values():
            lane.close()
        self._lock.close()

    def _latest_marks(self) -> dict[int, Mark]:
        found: dict[int, Mark] = {}
        for lane in self._lanes.values():
            for c, mark in lane.marks.items():
                if c not in found or mark.acked > found[c].acked:
                    found[c] = mark
        return found


def _holds(lane: Lane, head: int, digest: bytes) -> bool:
    """Whether a class ends with this record, or goes on behind it: by the one more that a refused
    commit can have left, or far behind a damaged file."""
    if lane.head <= head:
        return (lane.head, lane.digest) == (head, digest)
    left = lane.peek(head, 1, 1)
    return lane.head > head + 1 or (bool(left) and predecessor_of(left[0]) == digest)


def _segment_bytes(quota_bytes: int) -> int:
    return max(MIN_SEGMENT_BYTES, min(MAX_SEGMENT_BYTES, quota_bytes // SEGMENTS_PER_QUOTA))
