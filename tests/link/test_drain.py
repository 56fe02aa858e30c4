"""What goes next from spool to session: alarms before everything, also those not fetched yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from edgewarden.errors import HardwareFault
from edgewarden.link.drain import FETCH_COUNT, Drainer
from edgewarden.link.session import Terms
from edgewarden.link.window import BULK_TURN, NO_MATCHING_SUBSCRIBERS, Lane
from edgewarden.ports import ClassState, Stored
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock
from tests.waiting import until

ALARM, AUDIT, BULK = RecordClass
NAMES = {"alarm": ALARM, "audit": AUDIT, "bulk": BULK}


class Kept:
    """ports.Drain over lists."""

    def __init__(self, **counts: int) -> None:
        self.heads = {c: counts.get(c.label, 0) for c in RecordClass}
        self.acked = dict.fromkeys(RecordClass, 0)
        self.refuses: set[RecordClass] = set()
        self.peeks = 0

    def state(self) -> dict[int, ClassState]:
        return {
            int(c): ClassState(head + 1, head, self.acked[c], 0, 0)
            for c, head in self.heads.items()
        }

    async def peek(
        self, record_class: int, after_seq: int, count: int, max_bytes: int
    ) -> list[Stored]:
        self.peeks += 1
        await asyncio.sleep(0)
        if RecordClass(record_class) in self.refuses:
            raise HardwareFault("the disk does not read")
        last = min(self.heads[RecordClass(record_class)], after_seq + count)
        return [Stored(record_class, seq, b"x" * 20) for seq in range(after_seq + 1, last + 1)]

    def ack(self, record_class: int, upto_seq: int) -> None:
        self.acked[RecordClass(record_class)] = upto_seq

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        raise NotImplementedError

    def watch(self, changed: Callable[[], None]) -> None:
        raise NotImplementedError


class Taking:
    """A session whose broker takes everything at once, or answers as ``reason`` says."""

    def __init__(self, answer: Callable[[int, int], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.came: list[RecordClass] = []
        self.reason: Callable[[RecordClass], int] = lambda _: 0
        self._answer = answer

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        record_class = NAMES[topic.rpartition("/")[2]]
        self.came.append(record_class)
        mid = len(self.came)
        asyncio.get_running_loop().call_soon(self._answer, mid, self.reason(record_class))
        return mid


async def drain(
    kept: Kept,
    until_true: Callable[[Taking], bool],
    answer: Callable[[RecordClass], int] = lambda _: 0,
) -> list[RecordClass]:
    """Let a session run until something holds; the classes in the order they were sent."""
    drainer = Drainer(
        kept, FakeClock(), {c: Lane(c) for c in RecordClass}, ("main", "gw"),
        window=20, park_s=60, backlog_bytes_s=0,
        on_refused=lambda *_: None, on_aside=lambda *_: None, counters=Counter(),
    )  # fmt: skip
    session = Taking(drainer.acked)
    session.reason = answer
    task = asyncio.create_task(drainer.run(session, Terms(20, None)))  # type: ignore[arg-type]
    try:
        await until(lambda: until_true(session))
    finally:
        session.ended.set_result(None)
        await task
    return session.came


def test_alarms_all_go_before_anything_else_however_many() -> None:
    alarms = 3 * FETCH_COUNT + 5
    kept = Kept(alarm=alarms, audit=50, bulk=50)
    came = asyncio.run(drain(kept, lambda s: len(s.came) == alarms + 100))
    assert came[:alarms] == [ALARM] * alarms
    rest = Counter(came[alarms:])
    assert rest == {AUDIT: 50, BULK: 50}
    assert came[alarms : alarms + 2 * BULK_TURN].count(BULK) == 2, "bulk has its turn"
    assert kept.acked == {ALARM: alarms, AUDIT: 50, BULK: 50}


def test_alarms_that_nobody_takes_hold_up_nobody() -> None:
    kept = Kept(alarm=FETCH_COUNT + 5, bulk=40)
    answer = {ALARM: NO_MATCHING_SUBSCRIBERS, BULK: 0}
    came = asyncio.run(drain(kept, lambda _: kept.acked[BULK] == 40, answer.__getitem__))
    assert came[0] is ALARM
    assert kept.acked[ALARM] == 0


def test_alarms_that_cannot_be_read_hold_up_nothing_that_was() -> None:
    kept = Kept(bulk=FETCH_COUNT)

    def answer(_: RecordClass) -> int:
        kept.refuses.add(ALARM)
        kept.heads[ALARM] = 5
        return 0

    came = asyncio.run(drain(kept, lambda _: kept.acked[BULK] == FETCH_COUNT, answer))
    assert came == [BULK] * FETCH_COUNT
    assert kept.peeks < 2 * FETCH_COUNT, "it does not ask the disk again and again"
