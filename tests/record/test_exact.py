"""The ledger of losses is exact: what was produced is delivered, once, or told as lost, once; while
steps of the disk fail as they like, and the power goes.

A step is a commit (refused before, or its fsync after), a file made, sealed, removed, renamed, a
folder synced. What failed is tried again with the same fact, as link does; what found no room is
dropped, and counted there. ``--runs 1000`` is the full count: 500 lives.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.record import bad as bad_module
from edgewarden.record import lane as lane_module
from edgewarden.record import segment as segment_module
from edgewarden.record import spool as spool_module
from edgewarden.record.journal import Introduction, Journal, SpoolFull
from edgewarden.record.quota import MIN_CAP_BYTES, Quotas
from edgewarden.record.segment import Segment
from edgewarden.record.spool import MIN_SEGMENT_BYTES, DiskSpool
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.record import Kind, RecordClass, decode_record
from tests.fakes.clock import FakeClock
from tests.noise import noise

ALARM, AUDIT, BULK = RecordClass
KEY = FileSigner.generate()
WHO = Introduction(KEY, (b"leaf",), "test")
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)
SIZES = {ALARM: 300, AUDIT: 3000, BULK: 30_000}


class Disk:
    """Lets steps through until one is to fail."""

    def __init__(self) -> None:
        self.fails_in: int | None = None
        self.error = errno.EIO
        self.lasts = 1

    def step(self) -> None:
        if self.fails_in is None:
            return
        self.fails_in -= 1
        if self.fails_in < 0:
            self.lasts -= 1
            if self.lasts <= 0:
                self.fails_in = None
            raise OSError(self.error, os.strerror(self.error))

    def before(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*values: object, **named: object) -> object:
            self.step()
            return work(*values, **named)

        return done

    def committing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def done(segment: Segment, *values: object) -> object:
            with segment_module.renamed_errors(segment.path):
                self.step()
                answer = work(segment, *values)
                self.step()
            return answer

        return done

    def sealing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def done(segment: Segment) -> object:
            with segment_module.renamed_errors(segment.path):
                self.step()
            return work(segment)

        return done


@pytest.fixture(scope="module")
def disk() -> Any:
    one = Disk()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool_module, "MAX_SEGMENT_BYTES", MIN_SEGMENT_BYTES)
        for module in (lane_module, segment_module, bad_module):
            for name in ("remove_files", "sync_folder"):
                patched.setattr(module, name, one.before(getattr(module, name)))
        patched.setattr(Segment, "commit", one.committing(Segment.commit))
        patched.setattr(Segment, "seal", one.sealing(Segment.seal))
        yield one


class World:
    """A journal on a disk, who uses it as link does, and what each of its facts became."""

    def __init__(self, disk: Disk, seed: int) -> None:
        self.disk = disk
        self.chance = random.Random(seed)
        self.base = Path(tempfile.mkdtemp(prefix="ew-exact-"))
        self.lives = 0
        self.n = 0
        self.kept: dict[tuple[int, int], int] = {}  # where a fact was promised to be
        self.unsure: set[int] = set()  # in memory when the power went
        self.dropped: set[int] = set()
        self.delivered: dict[tuple[int, int], bytes] = {}
        self.forgotten: set[tuple[int, int]] = set()  # delivered; the power went before that stood
        self.seen_gaps: set[tuple[int, int]] = set()
        self.told: list[tuple[int, int]] = []
        self.pending: list[tuple[RecordClass, int]] = []
        self.start()

    @property
    def folder(self) -> Path:
        return self.base / str(self.lives)

    def start(self) -> None:
        while True:
            try:
                self.spool = DiskSpool(self.folder, MIN_CAP_BYTES, Quotas(free_percent=0))
                break
            except HardwareFault:
                continue
        self.journal = Journal(self.spool, "gw", FakeClock(), FileSigner.generate())
        self.introduced = False
        acked = {c: one.acked for c, one in self.spool.state().items()}
        self.forgotten |= {(c, seq) for c, seq in self.delivered if seq > acked[c]}

    def round(self) -> bool:
        """As the keeper does; False where the disk refused."""
        try:
            if not self.introduced:
                self.journal.introduce(WHO)
                self.introduced = True
            self.journal.explain_losses()
            while self.pending:
                c, n = self.pending[0]
                event = Event(OCSF.HEALTH, 1, Severity.LOW, 1, {"n": n, "t": noise(SIZES[c], n)})
                try:
                    self.kept[c, self.journal.event(c, event)] = n
                except SpoolFull:
                    self.dropped.add(n)
                self.pending.pop(0)
            self.journal.explain_losses()
        except HardwareFault:
            return False
        return True

    def produce(self, c: RecordClass) -> None:
        for _ in range(self.chance.randint(1, 12)):
            self.n += 1
            self.pending.append((c, self.n))
        self.round()

    def alarm(self) -> None:
        self.produce(ALARM)

    def audit(self) -> None:
        self.produce(AUDIT)

    def bulk(self) -> None:
        for _ in range(4):
            self.produce(BULK)

    def deliver(self) -> None:
        c = self.chance.choice(list(RecordClass))
        self.take(c, self.chance.randint(1, 40))
        self.round()

    def take(self, c: RecordClass, count: int) -> bool:
        after = self.spool.state()[c].acked
        try:
            found = self.spool.peek(c, after, count, 1 << 20)
        except HardwareFault:
            return True
        for one in found:
            assert self.delivered.setdefault((c, one.seq), one.data) == one.data
            record = decode_record(cose.open_envelope(one.data, ContentType.RECORD).payload)
            if record.kind == Kind.GAP and (one.record_class, one.seq) not in self.seen_gaps:
                self.seen_gaps.add((one.record_class, one.seq))
                first, last = int(str(record.body["first"])), int(str(record.body["last"]))
                number = int(str(record.body["class"]))
                self.told += [(number, seq) for seq in range(first, last + 1)]
        if found:
            self.spool.ack(c, found[-1].seq)
        return bool(found)

    def fault(self) -> None:
        self.disk.fails_in = self.chance.randint(0, 30)
        self.disk.error = self.chance.choice(ERRORS)
        self.disk.lasts = self.chance.choice([1, 1, 2, 5])

    def cut(self) -> None:
        before = self.folder
        self.lives += 1
        shutil.copytree(before, self.folder)
        fails, self.disk.fails_in = self.disk.fails_in, None
        self.spool.close()
        self.disk.fails_in = fails
        shutil.rmtree(before)
        self.unsure |= {n for _, n in self.pending}
        self.pending.clear()
        self.start()

    def restart(self) -> None:
        self.spool.close()
        self.unsure |= {n for _, n in self.pending}
        self.pending.clear()
        self.start()

    def end(self, what: str) -> None:
        self.disk.fails_in = None
        for _ in range(2):
            assert self.round()
            for c in (BULK, ALARM, AUDIT):
                while self.take(c, 50):
                    assert self.round()
            self.restart()
        assert self.round()
        for c in RecordClass:
            while self.take(c, 50):
                pass
        heads = self.spool.heads()
        twice = [one for one, count in Counter(self.told).items() if count > 1]
        assert not twice, f"{what}: told twice: {twice[:9]}"
        both = sorted(set(self.told) & set(self.delivered) - self.forgotten)
        assert not both, f"{what}: told as lost, and delivered: {both[:9]}"
        for c in RecordClass:
            gone = [
                seq
                for seq in range(1, heads[c][0] + 1)
                if (c, seq) not in self.delivered and (int(c), seq) not in set(self.told)
            ]
            assert not gone, f"{what}: {c.label} lost silently: {gone[:9]}"
        came = Counter[int]()
        for data in self.delivered.values():
            record = decode_record(cose.open_envelope(data, ContentType.RECORD).payload)
            if record.kind == Kind.EVENT:
                came[int(str(record.body["detail"]["n"]))] += 1  # type: ignore[index,call-overload]
        assert max(came.values(), default=0) <= 1, f"{what}: stored twice"
        lost = {n for place, n in self.kept.items() if (int(place[0]), place[1]) in set(self.told)}
        for n in set(range(1, self.n + 1)) - self.unsure - self.dropped:
            assert came[n] == 1 or n in lost, f"{what}: fact {n}"


STEPS = ["alarm", "audit", "bulk", "bulk", "deliver", "fault", "fault", "cut", "restart"]


def test_what_was_produced_is_delivered_or_told_and_nothing_twice(disk: Disk, runs: int) -> None:
    for seed in range(max(1, runs // 2)):
        chance = random.Random(seed)
        steps = [chance.choice(STEPS) for _ in range(chance.randint(5, 50))]
        disk.fails_in = None
        world = World(disk, seed)
        try:
            for step in steps:
                getattr(world, step)()
            world.end(f"seed {seed}")
        finally:
            world.spool.close()
            shutil.rmtree(world.base)
