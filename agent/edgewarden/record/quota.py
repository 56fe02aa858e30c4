"""Who may take how much of the spool: pure arithmetic over bytes.

Decides how much the spool may hold, and whether so many more bytes of a class stay within the
bounds. Leaves to spool.py how many there are, to probe/disk.py how large the filesystem is, and to
the journal what is given up for room.

* The cap is the smaller one of [spool] cap_bytes and cap_percent of the filesystem: 256 MB are
  nothing to a card of 16 GB and a quarter of a partition of 1 GB.
* Every class has a quota, and finds room up to it whatever the others did: nobody may take what
  alarm or audit have not used of theirs. A flood of audit records leaves the alarms their room,
  and the other way round.
* Beyond its quota, alarm or audit may go on in what bulk holds, whose oldest goes for it: a
  reading is worth less than an alarm. Bulk may not, so bulk ends at its quota.
* All together end at the cap, whatever the quotas. Only a spool that held more when its cap became
  smaller can be above it: bulk goes for that; what alarm and audit hold stays, and the other one of
  them finds its quota all the same, whatever cannot go (an empty file of bulk's, damaged ones).
* Where all of bulk would not make enough room, a record is refused and bulk keeps its quota.
* A filesystem with less than free_percent left takes no more bulk: others need the rest, and so
  do the alarms.

    cap = cap_of(256 << 20, 10, 1 << 30).size_bytes
    Quotas(alarm_percent=10, audit_percent=20).fits(cap, used, RecordClass.BULK, 65_536)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgewarden.plain import dataclass
from edgewarden.record.log import LOG_STEP_BYTES
from edgewarden.wire.record import RecordClass

AROUND_EVICTION_BYTES = LOG_STEP_BYTES + (4 << 10)
"""What giving up all of bulk takes itself: its gap record, and the file that bulk goes on in."""
MIN_CAP_BYTES = 4 << 20
"""As the least cap_bytes (settings/schema.py): eight segments a class and what lies around them."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that the spool may hold.

    Attributes:
        setting: the key of [spool] that says so, which a person raises for more.
    """

    size_bytes: int
    setting: str


def cap_of(cap_bytes: int, cap_percent: int, filesystem_bytes: int | None) -> Cap:
    """The cap on a filesystem of this size; None: nobody says how large it is."""
    if filesystem_bytes is not None:
        share = max(MIN_CAP_BYTES, filesystem_bytes * cap_percent // 100)
        if share < cap_bytes:
            return Cap(share, "cap_percent")
    return Cap(cap_bytes, "cap_bytes")


@dataclass(frozen=True, slots=True)
class Quotas:
    """Shares of the cap in percent; bulk has what the other two leave.

    Attributes:
        free_percent: of the filesystem that bulk leaves alone; 0 lets it take all.
    """

    alarm_percent: int = 10
    audit_percent: int = 20
    free_percent: int = 5

    def quota_bytes(self, cap_bytes: int, record_class: int) -> int:
        """What a class surely finds room for."""
        own = {RecordClass.ALARM: self.alarm_percent, RecordClass.AUDIT: self.audit_percent}
        percent = own.get(RecordClass(record_class), 100 - sum(own.values()))
        return cap_bytes * percent // 100

    def fits(
        self, cap_bytes: int, used: Mapping[int, int], record_class: int, size_bytes: int
    ) -> bool:
        """Whether size_bytes more of a class keep to the cap and to what the others may keep."""
        return self.short_bytes(cap_bytes, used, record_class, size_bytes) <= 0

    def short_bytes(
        self,
        cap_bytes: int,
        used: Mapping[int, int],
        record_class: int,
        size_bytes: int,
        stays: Mapping[int, int] = MappingProxyType({}),
    ) -> int:
        """What has to go before size_bytes more of a class fit; they do where it is not above 0.

        Args:
            stays: of what a class holds, what no eviction and no acknowledgement gives back.
        """
        total = self._total_bytes(cap_bytes, used, record_class, size_bytes)
        bulk = RecordClass.BULK
        rest = total - used[bulk] - (size_bytes if record_class == bulk else 0)
        above = rest + stays.get(bulk, 0) > cap_bytes  # all bulk given up
        own = self._is_own(cap_bytes, used, record_class, size_bytes, stays)
        return 0 if above and own else total - cap_bytes

    def goes_bytes(
        self,
        cap_bytes: int,
        used: Mapping[int, int],
        record_class: int,
        size_bytes: int,
        stays: Mapping[int, int],
    ) -> int | None:
        """How much of bulk's oldest is given up for size_bytes more of a class, as short_bytes;
        None: nothing.

        Where not even all of it would do, the record is refused; what bulk holds beyond its quota
        goes all the same, which is what the cap says of it.
        """
        bulk = RecordClass.BULK
        short = self.short_bytes(cap_bytes, used, record_class, size_bytes, stays)
        held = used[bulk] - stays.get(bulk, 0)
        own = self._is_own(cap_bytes, used, record_class, size_bytes, stays)
        if short <= max(0, held - AROUND_EVICTION_BYTES) or own:
            return max(0, short)
        beyond = held - self.quota_bytes(cap_bytes, bulk)
        return beyond if beyond > 0 else None

    def _is_own(
        self,
        cap_bytes: int,
        used: Mapping[int, int],
        record_class: int,
        size_bytes: int,
        stays: Mapping[int, int],
    ) -> bool:
        """Whether it is alarm or audit, within its quota: bulk's going always ends with room."""
        records_bytes = used[record_class] + size_bytes - stays.get(record_class, 0)
        quota_bytes = self.quota_bytes(cap_bytes, record_class)
        return record_class != RecordClass.BULK and records_bytes <= quota_bytes

    def _total_bytes(
        self, cap_bytes: int, used: Mapping[int, int], record_class: int, size_bytes: int
    ) -> int:
        """Of all classes with so many bytes more of one, and the quotas of the others kept free."""
        wanted = {**used, record_class: used[record_class] + size_bytes}
        kept = {c for c in (RecordClass.ALARM, RecordClass.AUDIT) if c != record_class}
        return sum(
            max(held, self.quota_bytes(cap_bytes, c)) if c in kept else held
            for c, held in wanted.items()
        )

    def tight(self, free_blocks: int, all_blocks: int) -> bool:
        """Whether a filesystem with so many blocks left takes no more bulk."""
        return free_blocks * 100 < all_blocks * self.free_percent
