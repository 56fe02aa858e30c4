"""ports.Spool, asked of the spool on disk and of the fake: so tests on the fake mean something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import OurFault
from edgewarden.ports import Spool, Stored
from edgewarden.record.spool import DiskSpool
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass, record_hash
from tests.fakes.spool import MemorySpool
from tests.record.records import fill, made

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)


@pytest.fixture(params=["disk", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    one: Spool = (
        DiskSpool(tmp_path / "spool", 4 << 20) if request.param == "disk" else MemorySpool(1 << 16)
    )
    yield one
    one.close()


def test_a_new_spool_is_empty(spool: Spool) -> None:
    assert spool.heads() == dict.fromkeys((ALARM, AUDIT, BULK), (0, NO_PREDECESSOR))
    assert spool.peek(ALARM, 0, 10, 1 << 20) == []
    assert spool.losses() == []
    assert {c: (s.next, s.durable, s.acked) for c, s in spool.state().items()} == dict.fromkeys(
        (ALARM, AUDIT, BULK), (1, 0, 0)
    )


def test_what_was_put_is_durable_and_peeked_in_order(spool: Spool) -> None:
    records = fill(spool, AUDIT, 10)
    assert spool.peek(AUDIT, 0, 100, 1 << 20) == records
    assert spool.peek(AUDIT, 4, 3, 1 << 20) == records[4:7]
    assert spool.heads()[AUDIT] == (10, record_hash(records[-1].data))
    assert spool.state()[AUDIT].durable == 10
    assert spool.state()[ALARM].durable == 0


def test_peek_is_bounded_in_bytes_but_never_starves_a_long_record(spool: Spool) -> None:
    records = fill(spool, BULK, 5, size=1000)
    assert spool.peek(BULK, 0, 10, 2500) == records[:2]
    assert spool.peek(BULK, 0, 10, 10) == records[:1]


def test_an_acknowledged_record_is_not_seen_again(spool: Spool) -> None:
    records = fill(spool, ALARM, 5)
    spool.ack(ALARM, 3)
    assert spool.peek(ALARM, 0, 10, 1 << 20) == records[3:]
    spool.ack(ALARM, 1)
    assert spool.state()[ALARM].acked == 3, "the cursor never goes back"
    spool.ack(ALARM, 99)
    assert spool.state()[ALARM].acked == 5, "nor beyond what exists"


@pytest.mark.parametrize(
    "wrong",
    [
        [Stored(ALARM, 2, b"x")],
        [Stored(ALARM, 1, b"x"), Stored(ALARM, 3, b"y")],
        [Stored(ALARM, 1, b"x"), Stored(AUDIT, 2, b"y")],
        [Stored(ALARM, 1, b"x"), Stored(ALARM, 1, b"y")],
    ],
    ids=["skips", "hole", "two classes", "twice"],
)
def test_a_sequence_is_used_once_and_in_order(spool: Spool, wrong: list[Stored]) -> None:
    with pytest.raises(OurFault):
        spool.put(wrong)
    assert spool.heads()[ALARM] == (0, NO_PREDECESSOR)
    assert spool.peek(ALARM, 0, 10, 1 << 20) == []


def test_an_eviction_names_exactly_what_goes_and_goes_after_its_gap_record(spool: Spool) -> None:
    records = fill(spool, BULK, 6)
    spool.ack(BULK, 2)
    loss = spool.victim("why")
    assert loss is not None
    assert (loss.first, loss.before) == (3, record_hash(records[1].data))
    assert loss.after == record_hash(records[loss.last - 1].data)
    assert spool.peek(BULK, 0, 1, 1 << 20) == [records[2]], "victim() deletes nothing"
    spool.put_gap(made(spool, AUDIT), loss)
    assert spool.state()[AUDIT].durable == 1
    assert spool.state()[BULK].evicted == loss.last - 2
    assert [r.seq for r in spool.peek(BULK, 0, 10, 1 << 20)] == list(range(loss.last + 1, 7))
    assert spool.losses() == []


def test_an_eviction_without_room_for_its_gap_record_is_remembered(spool: Spool) -> None:
    fill(spool, BULK, 6)
    loss = spool.victim("why")
    assert loss is not None
    spool.evict(loss)
    assert spool.losses() == [loss]
    spool.put_gap(made(spool, AUDIT), loss)
    assert spool.losses() == []
    with pytest.raises(OurFault):
        spool.evict(loss)


@pytest.mark.parametrize("record_class", [ALARM, AUDIT])
def test_alarm_and_audit_are_never_a_victim(spool: Spool, record_class: int) -> None:
    fill(spool, record_class, 50, size=1000)
    assert spool.victim("why") is None
    assert len(spool.peek(record_class, 0, 100, 1 << 20)) == 50


def test_room_ends_and_bulk_goes_before_alarms_are_refused(spool: Spool) -> None:
    for _ in range(2000):
        if not spool.room_for(BULK, 8000):
            break
        fill(spool, BULK, 1, size=8000)
    assert not spool.room_for(BULK, 8000)
    for _ in range(2000):
        if not spool.room_for(ALARM, 8000):
            loss = spool.victim("spool full")
            if loss is None:
                break
            spool.put_gap(made(spool, AUDIT), loss)
        else:
            fill(spool, ALARM, 1, size=8000)
    state = spool.state()
    assert not spool.room_for(ALARM, 8000), "the bound holds for alarms, too"
    assert state[BULK].evicted >= state[BULK].durable - 2
    assert len(spool.peek(ALARM, 0, 5000, 1 << 30)) == state[ALARM].durable, "no alarm went"


def test_the_ballast_is_lent_once(spool: Spool) -> None:
    assert spool.lend_ballast()
    assert not spool.lend_ballast()
