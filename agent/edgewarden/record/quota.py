"""Who may take how much of the spool: pure arithmetic over bytes.

Decides whether so many more bytes of a class stay within the bounds. Leaves to spool.py how many
there are, and to the journal what is given up for room.

* Every class has a quota, and finds room up to it whatever the others did: nobody may take what
  alarm or audit have not used of theirs. A flood of audit records leaves the alarms their room,
  and the other way round.
* Beyond its quota, alarm or audit may go on in what bulk holds, whose oldest goes for it: a
  reading is worth less than an alarm. Bulk may not, so bulk ends at its quota.
* All together end at the cap, whatever the quotas.
* A filesystem with less than free_percent left takes no more bulk: others need the rest, and so
  do the alarms.

    Quotas(alarm_percent=10, audit_percent=20).fits(256 << 20, used, RecordClass.BULK, 65_536)
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.plain import dataclass
from edgewarden.wire.record import RecordClass


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
        wanted = {**used, record_class: used[record_class] + size_bytes}
        kept = {c for c in (RecordClass.ALARM, RecordClass.AUDIT) if c != record_class}
        total = sum(
            max(held, self.quota_bytes(cap_bytes, c)) if c in kept else held
            for c, held in wanted.items()
        )
        return total <= cap_bytes

    def tight(self, free_blocks: int, all_blocks: int) -> bool:
        """Whether a filesystem with so many blocks left takes no more bulk."""
        return free_blocks * 100 < all_blocks * self.free_percent
