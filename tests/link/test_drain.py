"""What goes next from spool to session: alarms before everything, also those not fetched yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.link.drain import FETCH_COUNT, UNANSWERED_S, Drainer
from edgewarden.link.session import Terms
from edgewarden.link.window import (
    BULK_TURN,
    NO_MATCHING_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    PARK_AFTER,
    PAYLOAD_FORMAT_INVALID,
    UNANSWERED,
    Flight,
    Lane,
)
from edgewarden.ports import ClassState, Stored
from edgewarden.wire.acknowledgement import Acknowledgement, InMemory, Run, Upto
from edgewarden.wire.record import MEMORY, RecordClass, record_hash
from tests.fakes.clock import FakeClock
from tests.waiting import until

ALARM, AUDIT, BULK = RecordClass
NAMES = {"alarm": ALARM, "audit": AUDIT, "bulk": BULK, "memory": MEMORY}


class Kept:
    """ports.Drain over lists."""

    def __init__(self, **counts: int) -> None:
        self.heads = {n: counts[name] for name, n in NAMES.items() if name in counts}
        self.heads = dict.fromkeys(RecordClass, 0) | self.heads
        self.acked = dict.fromkeys(self.heads, 0)
        self.refuses: set[int] = set()
        self.peeks = 0
        self.asked: Counter[int] = Counter()

    def state(self) -> dict[int, ClassState]:
        return {
            int(c): ClassState(head + 1, head, self.acked[c], 0, 0)
            for c, head in self.heads.items()
        }

    async def peek(
        self, record_class: int, after_seq: int, count: int, max_bytes: int
    ) -> list[Stored]:
        self.peeks += 1
        self.asked[record_class] += 1
        await asyncio.sleep(0)
        if record_class in self.refuses:
            raise HardwareFault("the disk does not read")
        last = min(self.heads[record_class], after_seq + count)
        return [Stored(record_class, seq, b"x" * 20) for seq in range(after_seq + 1, last + 1)]

    def ack(self, record_class: int, upto_seq: int) -> None:
        self.acked[record_class] = upto_seq

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        raise NotImplementedError

    def watch(self, changed: Callable[[], None]) -> None:
        raise NotImplementedError


class Taking:
    """A session whose broker takes everything at once, or answers as ``reason`` says."""

    def __init__(self, answer: Callable[[int, int], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.why = ""
        self.deaf: set[int] = set()
        self.came: list[int] = []
        self.reason: Callable[[int], int] = lambda _: 0
        self._answer = answer

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        record_class = NAMES[topic.rpartition("/")[2]]
        self.came.append(record_class)
        mid = len(self.came)
        if mid not in self.deaf:
            asyncio.get_running_loop().call_soon(self._answer, mid, self.reason(record_class))
        return mid

    def abort(self, why: str) -> None:
        self.why = why
        if not self.ended.done():
            self.ended.set_result(None)


async def everybody_has_had_a_turn() -> None:
    """What is ready has happened, however slow the machine is."""
    for _ in range(200):
        await asyncio.sleep(0)


async def drain(
    kept: Kept,
    until_true: Callable[[Taking], bool],
    answer: Callable[[int], int] = lambda _: 0,
) -> list[int]:
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

    def answer(_: int) -> int:
        kept.refuses.add(ALARM)
        kept.heads[ALARM] = 5
        return 0

    came = asyncio.run(drain(kept, lambda _: kept.acked[BULK] == FETCH_COUNT, answer))
    assert came == [BULK] * FETCH_COUNT
    assert kept.peeks < 2 * FETCH_COUNT, "it does not ask the disk again and again"


def test_a_class_that_cannot_be_read_holds_up_no_other_and_is_not_asked_for_each_time() -> None:
    kept = Kept(alarm=3, audit=4, bulk=4 * FETCH_COUNT)
    kept.refuses.add(ALARM)

    def done(_: Taking) -> bool:
        return all(kept.acked[c] == kept.heads[c] for c in (AUDIT, BULK))

    came = asyncio.run(drain(kept, done))
    assert set(came) == {AUDIT, BULK}
    assert kept.asked[ALARM] == 1, "the clock stands still: it is not time yet"


def test_in_memory_too_only_the_verifiers_word_lets_go() -> None:
    """The broker acknowledges everything; the word names a run of the chain and a class."""
    asyncio.run(_only_the_word())


async def _only_the_word() -> None:
    kept = Kept(memory=5, alarm=3)
    drainer = Drainer(
        kept, FakeClock(), {n: Lane(n) for n in NAMES.values()}, ("main", "gw"),
        window=20, park_s=60, backlog_bytes_s=0, verified_within_s=60,
        on_refused=lambda *_: None, on_aside=lambda *_: None, counters=(counters := Counter()),
    )  # fmt: skip
    session = Taking(drainer.acked)
    task = asyncio.create_task(drainer.run(session, Terms(20, None)))  # type: ignore[arg-type]
    try:
        await until(lambda: counters["pubacks"] == 8)
        assert kept.acked == dict.fromkeys(NAMES.values(), 0), "a PUBACK let go of records"
        digest = record_hash(b"x" * 20)
        stored = InMemory(bytes(8), (Run(1, 4, digest),))
        drainer.acknowledged(Acknowledgement("main", "gw", {ALARM: Upto(2, digest, 2)}, stored))
        assert (kept.acked[MEMORY], kept.acked[ALARM]) == (4, 2)
    finally:
        session.ended.set_result(None)
        await task


def test_an_acknowledgement_that_never_comes_ends_the_session_and_then_parks_the_class() -> None:
    """The session stands, pings are answered, everything else is acknowledged: it waited on."""
    asyncio.run(_one_never_comes())


async def _one_never_comes() -> None:
    kept, clock, told = Kept(alarm=3, audit=40), FakeClock(), []
    lanes, counters = {c: Lane(c) for c in RecordClass}, Counter[str]()
    for round_ in range(1, PARK_AFTER + 1):
        drainer = Drainer(
            kept, clock, lanes, ("main", "gw"), window=20, park_s=60, backlog_bytes_s=0,
            on_refused=lambda lane, reason: told.append((lane.record_class, reason)),
            on_aside=lambda *_: None, counters=counters,
        )  # fmt: skip
        session = Taking(drainer.acked)
        session.deaf = {2 if round_ == 1 else 1}  # the second alarm, each time
        task = asyncio.create_task(drainer.run(session, Terms(20, None)))  # type: ignore[arg-type]
        await until(lambda session=session: kept.acked[AUDIT] == 40 and session.came)
        clock.advance(UNANSWERED_S - 1)
        drainer.changed()
        await everybody_has_had_a_turn()
        assert not session.ended.done()
        clock.advance(2)
        drainer.changed()
        await task
        assert "did not acknowledge" in session.why
        assert kept.acked[ALARM] == 1
    assert told == [(ALARM, UNANSWERED)]
    assert lanes[ALARM].parked
    assert counters["unanswered"] == PARK_AFTER


@pytest.mark.parametrize(
    ("reason", "which", "unanswered"),
    [
        (PACKET_TOO_LARGE, 3, [{2, 3, 4}, {2, 3}, {1}, {1}]),
        (PAYLOAD_FORMAT_INVALID, 2, [{2, 3, 4}, {1}, {1}]),
        (0x8B, None, [{2, 3, 4}, {1, 2, 3}, {1, 2, 3}]),  # the server shuts down
    ],
)
def test_a_session_that_ends_over_a_record_is_its_refusal(
    reason: int, which: int | None, unanswered: list[set[int]]
) -> None:
    """The longest of what flies was too large; of any other fault the oldest is meant."""
    asyncio.run(_ends_over(reason, which, unanswered))


async def _ends_over(reason: int, which: int | None, unanswered: list[set[int]]) -> None:
    kept, counters = Aside(audit=4), Counter[str]()
    lanes = {c: Lane(c) for c in RecordClass}
    clock = FakeClock()
    for deaf in unanswered:
        drainer = Drainer(
            kept, clock, lanes, ("main", "gw"), window=20, park_s=60, backlog_bytes_s=0,
            on_refused=lambda *_: None, on_aside=lambda *_: None, counters=counters,
        )  # fmt: skip
        session = Taking(drainer.acked)
        session.deaf = deaf
        task = asyncio.create_task(drainer.run(session, Terms(20, None)))  # type: ignore[arg-type]
        await until(lambda session=session, deaf=deaf: len(session.came) >= max(deaf))
        await everybody_has_had_a_turn()
        session.abort("over")
        await task
        await drainer.ended(reason)
        clock.advance(60)
    assert kept.aside == ([] if which is None else [(AUDIT, which, reason)])


class Aside(Kept):
    """Its third record is a long one; what is set aside is noted."""

    def __init__(self, **counts: int) -> None:
        super().__init__(**counts)
        self.aside: list[tuple[int, int, int]] = []

    async def peek(self, record_class: int, after_seq: int, *rest: int) -> list[Stored]:
        found = await super().peek(record_class, after_seq, *rest)
        return [Stored(r.record_class, r.seq, b"x" * (90 if r.seq == 3 else 20)) for r in found]

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        self.aside.append((record_class, seq, reason))
        return True


def test_who_ends_a_session_over_status_or_evidence_means_no_record() -> None:
    asyncio.run(_over_control())


async def _over_control() -> None:
    lanes = {c: Lane(c) for c in RecordClass}
    drainer = Drainer(
        Kept(), FakeClock(), lanes, ("main", "gw"), window=20, park_s=60, backlog_bytes_s=0,
        on_refused=lambda *_: None, on_aside=lambda *_: None, counters=Counter(),
    )  # fmt: skip
    drainer.window.sent(1, Flight(None, 0, 9000))
    drainer.window.sent(2, Flight(AUDIT, 1, 20))
    for reason in (PACKET_TOO_LARGE, PAYLOAD_FORMAT_INVALID, None):
        await drainer.ended(reason)
    assert lanes[AUDIT].refusals == 0


def test_status_and_evidence_too_long_for_the_broker_do_not_end_the_session() -> None:
    """Mosquitto's max_packet_size: a session for each challenge, and its end over the answer."""
    asyncio.run(_too_long())


async def _too_long() -> None:
    kept, counters = Kept(audit=3), Counter[str]()
    drainer = Drainer(
        kept, FakeClock(), {c: Lane(c) for c in RecordClass}, ("main", "gw"), window=20, park_s=60,
        backlog_bytes_s=0, on_refused=lambda *_: None, on_aside=lambda *_: None, counters=counters,
    )  # fmt: skip
    session = Taking(drainer.acked)
    drainer.send("audit", b"x" * 1000)
    task = asyncio.create_task(drainer.run(session, Terms(20, 1200)))  # type: ignore[arg-type]
    await until(lambda: kept.acked[AUDIT] == 3)
    session.abort("over")
    await task
    assert session.came == [AUDIT] * 3
    assert counters["control_too_large"] == 1
