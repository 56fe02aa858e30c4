"""The spool against a model of eleven lines, with the power cut wherever hypothesis likes.

A cut is a copy of the folder as it is, without closing anything, opened again: what SIGKILL leaves.
tests/system/test_powercut.py does the same with what the block layer has.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgewarden.ports import Stored
from edgewarden.record.spool import DiskSpool
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass, record_hash
from tests.record.records import made

CLASSES = st.sampled_from([int(c) for c in RecordClass])
CAP = 3 << 20


class SpoolMachine(RuleBasedStateMachine):
    """puts, acks, peeks, evictions and cuts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="ew-model-"))
        self.lives = 0
        self.spool = DiskSpool(self.base / "0", CAP)
        self.stored: dict[int, list[Stored]] = {int(c): [] for c in RecordClass}
        self.acked = {int(c): 0 for c in RecordClass}
        self.gone: set[int] = set()  # bulk only

    @rule(record_class=CLASSES, count=st.integers(1, 5), size=st.sampled_from([100, 9000, 60_000]))
    def put(self, record_class: int, count: int, size: int) -> None:
        for _ in range(count):
            record = made(self.spool, record_class, size)
            self.spool.put([record])
            self.stored[record_class].append(record)

    @rule(record_class=CLASSES, share=st.floats(0, 1))
    def ack(self, record_class: int, share: float) -> None:
        upto = round(share * len(self.stored[record_class]))
        self.spool.ack(record_class, upto)
        self.acked[record_class] = max(self.acked[record_class], upto)

    @rule()
    def evict(self) -> None:
        loss = self.spool.victim("model")
        if loss is None:
            return
        gap = made(self.spool, int(RecordClass.AUDIT))
        self.spool.put_gap(gap, loss)
        self.stored[int(RecordClass.AUDIT)].append(gap)
        assert loss.after == record_hash(self.stored[int(RecordClass.BULK)][loss.last - 1].data)
        self.gone |= set(range(loss.first, loss.last + 1))

    @rule(clean=st.booleans())
    def cut_and_start_again(self, clean: bool) -> None:
        if clean:
            self.spool.close()
        self.lives += 1
        after = self.base / str(self.lives)
        shutil.copytree(self.base / str(self.lives - 1), after)
        if not clean:
            self.spool.close()
        shutil.rmtree(self.base / str(self.lives - 1))
        self.spool = DiskSpool(after, CAP)
        assert self.spool.losses() == []
        for c, state in self.spool.state().items():
            assert state.acked <= self.acked[c], "never more accepted than the broker said"
            assert not clean or state.acked == self.acked[c]
            self.acked[c] = state.acked

    @invariant()
    def everything_durable_is_there_byte_for_byte(self) -> None:
        for c, records in self.stored.items():
            head = (len(records), record_hash(records[-1].data)) if records else (0, NO_PREDECESSOR)
            assert self.spool.heads()[c] == head
            gone = self.gone if c == RecordClass.BULK else set()
            waiting = [r for r in records[self.acked[c] :] if r.seq not in gone]
            assert self.spool.peek(c, 0, 10_000, 1 << 30) == waiting

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.base)


TestSpoolModel = SpoolMachine.TestCase
TestSpoolModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
