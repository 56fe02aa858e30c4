"""A spool on a disk whose health a test decides, at each commit anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgewarden.ports import Stored
from edgewarden.record.lane import Lane
from edgewarden.record.refuge import Known
from edgewarden.record.segment import DiskRefuses
from edgewarden.record.spool import DiskSpool
from edgewarden.wire.record import record_hash

TAKES, REFUSES, TORN = "takes", "refuses", "torn"
"""The disk: as it should; nothing reaches it; what is committed reaches the log, and is refused."""


class IllSpool(DiskSpool):
    """A spool on a disk whose health is a list of one, shared with the model."""

    def __init__(self, folder: Path, known: Known, disk: list[str]) -> None:
        self._ill = disk
        if disk[0] != TAKES:
            raise DiskRefuses("it is ill")
        super().__init__(folder, 64 << 20, None, known)

    def _commit(self, lane: Lane, records: Sequence[Stored]) -> None:
        if self._ill[0] == TAKES:
            return super()._commit(lane, records)
        if self._ill[0] == TORN and records:
            marks = {c: self._mark(c) for c in self._lanes}
            own, last = marks[lane.record_class], records[-1]
            marks[lane.record_class] = replace(own, head=last.seq, digest=record_hash(last.data))
            lane._open_active().commit(records, marks)
            lane._close_active()
            lane._goes_on = False
        raise DiskRefuses("it is ill")
