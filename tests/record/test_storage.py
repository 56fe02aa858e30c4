"""The storage thread: when things become durable, what waits, what is lost and how it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.errors import HardwareFault, OurFault
from edgewarden.ports import Stored
from edgewarden.record import intake
from edgewarden.record.fresh import Fresh
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.segment import DiskFull
from edgewarden.record.storage import StorageThread
from edgewarden.record.wear import weights
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.burst import Burst, each
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from tests.fakes.clock import FakeClock
from tests.fakes.spool import MemorySpool
from tests.waiting import wait_until

KEY = FileSigner.generate()
ALARM, AUDIT, BULK = RecordClass
WAIT_S = 60.0


@contextmanager
def running(
    spool: MemorySpool, clock: FakeClock | None = None, commit_bytes: int = 65536
) -> Iterator[StorageThread]:
    clock = clock or FakeClock()
    storage = StorageThread(
        lambda: Journal(spool, "gw-demo", clock, KEY),
        Introduction(KEY, (b"leaf",), "0"),
        clock,
        bulk_commit_s=3600,
        bulk_commit_bytes=commit_bytes,
    )
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()


def event(**detail: Plain) -> Event:
    return Event(OCSF.HEALTH, 1, Severity.LOW, 1, detail)


def reading(n: int = 0, text: str = "") -> Reading:
    return Reading("s", "n", "", text or float(n), 1)


def opened(spool: MemorySpool, record_class: RecordClass) -> list[Record]:
    return [
        decode_record(cose.open_envelope(s.data, ContentType.RECORD).payload)
        for s in spool.peek(record_class, 0, 10_000, 1 << 30)
    ]


def entries(spool: MemorySpool) -> list[dict[int, Any]]:
    """The SenML entries of all batches."""
    found: list[dict[int, Any]] = []
    for record in opened(spool, BULK)[1:]:
        readings = record.body["readings"]
        assert isinstance(readings, list)
        found += readings
    return found


def settled(storage: StorageThread) -> None:
    storage.flush().result(WAIT_S)


def test_an_attestation_record_holds_the_hash_of_the_evidence_alone() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.attest(b"evidence", {}).result(WAIT_S)
        storage.keep_evidence(b"unasked").result(WAIT_S)
    told = {r.kind: r.body["evidence"] for r in opened(spool, AUDIT)[1:]}
    assert told == {"attestation": sha256(b"evidence").digest(), "evidence": b"unasked"}


@pytest.mark.parametrize("record_class", [ALARM, AUDIT])
def test_an_event_that_must_not_wait_is_durable_without_a_flush(record_class: RecordClass) -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.submit_event(event(a=1), record_class)
        wait_until(lambda: storage.state()[record_class].durable == 2)
        assert storage.heads()[record_class][0] == 2
    assert opened(spool, record_class)[-1].kind == Kind.EVENT


def test_bulk_waits_for_its_age() -> None:
    spool, clock = MemorySpool(), FakeClock()
    with running(spool, clock) as storage:
        storage.submit_reading(reading(1))
        storage.submit_event(event(), AUDIT)
        wait_until(lambda: storage.state()[AUDIT].durable == 2)
        assert storage.state()[BULK].durable == 1
        clock.advance(3601)
        storage.submit_event(event(), AUDIT)  # any work makes the thread look at the clock
        wait_until(lambda: storage.state()[BULK].durable == 2)
        assert storage.totals()["readings"] == 1


def test_bulk_does_not_wait_when_there_is_enough_of_it() -> None:
    spool = MemorySpool()
    with running(spool, commit_bytes=2000) as storage:
        for n in range(100):
            storage.submit_reading(reading(n))
        wait_until(lambda: storage.state()[BULK].durable >= 2)
        settled(storage)
        assert storage.totals()["readings"] == 100
    assert [e[2] for e in entries(spool)] == [float(n) for n in range(100)]


def test_stop_makes_durable_what_waits() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.submit_reading(reading())
        storage.submit_event(event(), ALARM)
    assert (len(opened(spool, BULK)), len(opened(spool, ALARM))) == (2, 2)
    assert spool.closed
    assert not storage.alive()
    with pytest.raises(OurFault):
        storage.flush().result(WAIT_S)


def test_counts_ride_in_the_next_batch() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.count("ring_overflow", 5)
        storage.submit_reading(reading())
        settled(storage)
        storage.submit_reading(reading())
        settled(storage)
    counts = [r.body["counts"] for r in opened(spool, BULK)[1:]]
    assert counts == [{"ring_overflow": 5}, {}]


def test_a_batch_too_long_for_one_record_becomes_several() -> None:
    spool = MemorySpool()
    with running(spool, commit_bytes=1 << 20) as storage:
        for n in range(90):
            storage.submit_reading(reading(text=f"{n:04d}" + "x" * 5000))
        settled(storage)
        assert storage.totals()["readings"] == 90
        assert storage.totals()["batches"] > 3
    assert [e[3][:4] for e in entries(spool)] == [f"{n:04d}" for n in range(90)]


def test_one_odd_fact_costs_itself_only() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        for n in range(10):
            storage.submit_reading(reading(n))
        storage.submit_reading(reading(text="x" * 40_000))  # longer than any text may be
        settled(storage)
        assert storage.totals()["readings"] == 10
        assert storage.totals()["bulk_unstorable"] == 1
        assert storage.fault() is None


def test_readings_handed_over_at_once_are_stored_in_order() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.submit_reading(reading(0))
        storage.submit_readings([reading(n) for n in range(1, 40)])
        storage.submit_readings([])
        settled(storage)
        assert storage.totals()["readings"] == 40
    assert [entry[2] for entry in entries(spool)] == list(range(40))


def test_readings_handed_over_at_once_make_a_batch_due() -> None:
    spool = MemorySpool()
    with running(spool, commit_bytes=1000) as storage:
        storage.submit_readings([reading(n) for n in range(40)])
        wait_until(lambda: len(entries(spool)) == 40)


def test_of_readings_handed_over_at_once_as_many_wait_as_find_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "MAX_BULK_BYTES", 42 * 10)
    box = intake.Intake(FakeClock(), 3600, 65536)
    box.add_readings([reading(n) for n in range(7)])
    box.add_readings([reading(n) for n in range(7, 14)])
    batch = box.take_batch(force=True)
    assert batch is not None
    assert [one.value for one in each(batch.readings)] == list(range(10))
    assert (batch.counts, box.lost) == ({"bulk_dropped": 4}, 4)


SAID = st.tuples(
    st.sampled_from(["t", "level"]), st.sampled_from(["", "m/s"]),
    st.floats(allow_nan=False) | st.booleans() | st.integers(-5, 5) | st.text(max_size=30),
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(SAID, max_size=5), max_size=6), st.integers(100, 2000))
def test_a_burst_waits_as_its_readings_would(
    reads: list[list[tuple[str, str, float | str | bool]]], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(intake, "MAX_BULK_BYTES", room)
        bursts, singles = (intake.Intake(FakeClock(), 3600, room // 2) for _ in range(2))
        for at, read in enumerate(reads):
            bursts.add_readings(Burst.of("s", read, at))
            for name, unit, value in read:
                singles.add_reading(Reading("s", name, unit, value, at))
            assert bursts.fill() == singles.fill()
        assert bursts.lost == singles.lost
        due, expected = bursts.take_batch(force=True), singles.take_batch(force=True)
    if due is None or expected is None:
        assert due is expected
        return
    for one, other in zip((due, *due.halves()), (expected, *expected.halves()), strict=True):
        assert list(each(one.readings)) == other.readings
        assert (one.count, one.facts, one.counts) == (other.count, other.facts, other.counts)
        assert weights(one.readings, []) == weights(other.readings, [])
    for queue, batch in ((bursts, due), (singles, expected)):
        queue.add_readings(Burst.of("s", [("t", "", 1.0)], 99))
        queue.put_back(batch)
    assert list(each(taken(bursts).readings)) == list(each(taken(singles).readings))


def test_a_burst_that_is_put_back_stands_in_front_of_what_came_since() -> None:
    queue = intake.Intake(FakeClock(), 3600, 65536)
    first, then = (Burst.of("s", [("n", "", n), ("n", "", n + 1)], 0) for n in (0.0, 2.0))
    queue.add_readings(first)
    batch = taken(queue)
    queue.add_readings(then)
    queue.put_back(batch)
    again = taken(queue)
    assert [one.value for one in each(again.readings)] == [0.0, 1.0, 2.0, 3.0]
    assert again.count == 4


def taken(queue: intake.Intake) -> intake.Batch:
    batch = queue.take_batch(force=True)
    assert batch is not None
    return batch


def test_what_came_in_bursts_is_stored_and_counted_as_readings() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.submit_readings(Burst.of("s", [("n", "", float(n)) for n in range(40)], 0))
        storage.submit_reading(reading(40))
        storage.submit_readings(Burst.of("s", [("n", "", 41.0), ("x", "", "x" * 40_000)], 0))
        settled(storage)
        assert storage.totals()["readings"] == 42
        assert storage.totals()["bulk_unstorable"] == 1
    assert [entry[2] for entry in entries(spool)] == list(range(42))


def test_memory_is_bounded_while_the_disk_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_WAITING", 10)
    monkeypatch.setattr(intake, "MAX_BULK_BYTES", 4000)
    spool = MemorySpool()
    with running(spool, commit_bytes=1000) as storage:
        spool.refuse = HardwareFault("I/O error", code="EW-SPL-001")
        for n in range(50):
            storage.submit_event(event(n=n), ALARM)
            storage.submit_reading(reading(text="x" * 400))
        with pytest.raises(HardwareFault):
            storage.flush().result(WAIT_S)
        assert storage.fault() is spool.refuse
        assert storage.state()[ALARM].durable == 1
        spool.refuse = None
        settled(storage)
        assert storage.fault() is None
        assert storage.state()[ALARM].durable == 11, "the first ten, in order"
    assert [r.body["detail"] for r in opened(spool, ALARM)[1:]] == [{"n": n} for n in range(10)]
    counted = storage.totals()
    assert counted["alarm_overflow"] == 40
    assert counted["bulk_dropped"] + counted["readings"] == 50


def test_how_full_the_queue_is_goes_by_its_fullest_part() -> None:
    queue = intake.Intake(FakeClock(), 10, 1000)
    assert queue.fill() == 0
    for n in range(intake.MAX_WAITING // 4):
        queue.add_event(event(n=n), AUDIT)
    assert queue.fill() == 0.25
    for _ in range(intake.MAX_BULK_BYTES // 1040 // 2):
        queue.add_reading(reading(text="x" * 1000))
    assert 0.45 < queue.fill() < 0.55


def test_a_full_disk_drops_bulk_counted_and_keeps_alarms() -> None:
    spool = MemorySpool()
    spool.has_ballast = False
    with running(spool) as storage:
        spool.refuse = DiskFull("full")
        storage.submit_reading(reading())
        storage.submit_event(event(what="urgent"), ALARM)
        with pytest.raises(HardwareFault):
            storage.flush().result(WAIT_S)
        spool.refuse = None
        settled(storage)
        assert storage.totals()["alarm_events"] == 1
    assert {"what": "urgent"} in [r.body.get("detail") for r in opened(spool, ALARM)]


def test_an_eviction_is_told_by_one_alarm_however_many_there_are() -> None:
    spool = MemorySpool(cap_bytes=20_000)
    with running(spool, commit_bytes=1000) as storage:
        for n in range(60):
            storage.submit_reading(reading(text=f"{n}" + "x" * 1200))
            settled(storage)
        assert storage.state()[BULK].evicted > 8
    alarms = [r for r in opened(spool, ALARM) if r.kind == Kind.EVENT]
    assert [a.body["code"] for a in alarms] == ["EW-SPL-003"]
    assert sum(r.kind == Kind.GAP for r in opened(spool, AUDIT)) > 2


def test_the_report_key_comes_first_even_when_the_disk_is_full_at_start() -> None:
    spool = MemorySpool()
    spool.has_ballast = False
    spool.refuse = DiskFull("full")
    with running(spool) as storage:
        assert isinstance(storage.fault(), DiskFull)
        storage.submit_event(event(), ALARM)
        spool.refuse = None
        settled(storage)
    assert [r.kind for r in opened(spool, ALARM)] == [Kind.REPORT_KEY, Kind.EVENT]


def test_a_spool_that_cannot_be_opened_is_said_by_start() -> None:
    def refuse() -> Journal:
        raise HardwareFault("no such folder")

    storage = StorageThread(
        refuse, Introduction(KEY, (), ""), FakeClock(), bulk_commit_s=1, bulk_commit_bytes=1
    )
    with pytest.raises(HardwareFault):
        storage.start()
    wait_until(lambda: not storage.alive())


def test_a_defect_is_told_to_everybody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    spool = MemorySpool()
    with running(spool) as storage:
        spool.refuse = ZeroDivisionError("a defect")  # type: ignore[assignment]
        storage.submit_event(event(), ALARM)
        wait_until(lambda: not storage.alive())
        late: Future[None] = storage.flush()
        with pytest.raises(OurFault):
            late.result(WAIT_S)
        assert isinstance(storage.fault(), OurFault)


def test_the_loop_peeks_and_acknowledges_without_touching_the_disk_itself() -> None:
    spool = MemorySpool()
    changes: list[int] = []

    async def use(storage: StorageThread) -> list[int]:
        storage.watch(lambda: changes.append(storage.state()[ALARM].durable))
        for n in range(3):
            storage.submit_event(event(n=n), ALARM)
        await asyncio.wrap_future(storage.flush())
        seen = await storage.peek(ALARM, 1, 10, 1 << 20)
        storage.ack(ALARM, 3)
        return [s.seq for s in seen] + [s.seq for s in await storage.peek(ALARM, 0, 10, 1 << 20)]

    with running(spool) as storage:
        assert asyncio.run(use(storage)) == [2, 3, 4, 4]
        assert storage.state()[ALARM].acked == 3
        assert changes
        assert changes[-1] == 4
        wait_until(lambda: storage.busy_since_ns() is None)


def test_a_class_without_room_does_not_hold_up_the_others() -> None:
    class NoRoomForAlarms(MemorySpool):
        def room_for(self, record_class: int, size_bytes: int) -> bool:
            return record_class != ALARM

    spool = NoRoomForAlarms()
    with running(spool) as storage:
        storage.submit_event(event(n=1), ALARM)
        storage.submit_event(event(n=2), AUDIT)
        storage.submit_reading(reading(3))
        with pytest.raises(HardwareFault):
            settled(storage)
        assert storage.totals()["audit_events"] == 1
        assert storage.totals()["readings"] == 1
        assert "alarm_events" not in storage.totals()


def test_a_nearly_full_filesystem_takes_no_bulk_and_says_so_once() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        spool.nearly_full = True
        for n in range(3):
            storage.submit_reading(reading(n))
            settled(storage)
        storage.submit_event(event(n=1), ALARM)
        settled(storage)
        assert storage.totals()["bulk_no_room"] >= 3
        assert storage.tight()
        spool.nearly_full = False
        storage.submit_reading(reading(9))
        settled(storage)
        assert storage.totals()["readings"] == 1
        assert not storage.tight()
    told = [r.body.get("code", "") for r in opened(spool, ALARM) if r.kind == Kind.EVENT]
    assert told.count("EW-SPL-006") == 1
    assert len(told) == 2, "alarms are stored meanwhile"
    assert opened(spool, BULK)[-1].body["counts"] == {"bulk_no_room": 3}


def test_what_was_just_committed_is_sent_without_asking_the_thread_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each question would wake it, and it the loop. The cursor is in the next commit all the
    same."""
    cursors: list[int] = []

    class Watched(MemorySpool):
        def put(self, records: Sequence[Stored]) -> int:
            cursors.append(self.state()[BULK].acked)
            return super().put(records)

    spool, clock, fresh = Watched(), FakeClock(), Fresh()
    storage = StorageThread(
        lambda: Journal(spool, "gw-demo", clock, KEY, fresh=fresh),
        Introduction(KEY, (b"leaf",), "0"), clock,
        bulk_commit_s=10, bulk_commit_bytes=65536, fresh=fresh,
    )  # fmt: skip
    storage.start()
    try:
        storage.submit_reading(reading())
        settled(storage)
        with monkeypatch.context() as patched:
            patched.setattr(storage._intake, "call", lambda *_: pytest.fail("asks the thread"))
            (record,) = asyncio.run(storage.peek(BULK, 1, 32, 65536))
            storage.ack(BULK, 2)
        assert record.data == spool.peek(BULK, 1, 1, 65536)[0].data
        assert storage.state()[BULK].acked == 0, "not before the thread has heard of it"
        storage.submit_reading(reading())
        settled(storage)
        assert cursors[-1] == 2
        assert storage.state()[BULK].acked == 2
    finally:
        storage.stop()


def test_an_end_takes_what_was_accepted_with_it() -> None:
    spool = MemorySpool()
    with running(spool) as storage:
        storage.submit_event(event(), ALARM)
        settled(storage)
        storage.ack(ALARM, 2)
    assert spool.state()[ALARM].acked == 2


@pytest.mark.parametrize("what", ["call", "flush"])
def test_who_gives_up_waiting_does_not_end_the_storage(what: str) -> None:
    """An end of link cancels its tasks, and one of them may have asked a disk that takes its time:
    what waits is stored all the same."""
    spool, slow, goes_on = MemorySpool(), threading.Event(), threading.Event()

    def takes_its_time() -> None:
        slow.set()
        assert goes_on.wait(WAIT_S)

    with running(spool) as storage:
        first = storage._call(takes_its_time)
        assert slow.wait(WAIT_S)
        asks = storage.attest(b"evidence", {}) if what == "call" else storage.flush()
        later = storage._call(lambda: "answered")
        assert asks.cancel(), "as asyncio does where the task is cancelled"
        assert not first.cancel(), "it is under way, and has an answer"
        storage.submit_event(event(n=7), ALARM)
        storage.submit_reading(reading(7))
        goes_on.set()
        assert later.result(WAIT_S) == "answered"
        assert first.result(WAIT_S) is None
        assert storage.alive()
    assert opened(spool, ALARM)[-1].body["detail"] == {"n": 7}
    assert [entry[2] for entry in entries(spool)] == [7.0]
    assert len(opened(spool, AUDIT)) == 1, "what nobody waits for is not begun"
