"""The ingest worker: acknowledged only after the commit, nothing lost when the store refuses."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ingest import worker as module
from edgewarden_fleet.ingest.worker import Delivery, Worker
from edgewarden_fleet.verify.attest import Outgoing
from edgewarden_fleet.verify.pipeline import Incoming, Verifier
from tests.fleet.makers import Board, Desk, Made, unconnected
from tests.waiting import wait_until

AUDIT = RecordClass.AUDIT


class Rig:
    """A worker over a desk; remembers what was acknowledged, and what was stored by then."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.sent: list[Outgoing] = []
        self.acknowledged: list[tuple[int, bool]] = []
        self.worker = Worker(
            desk.db, desk.verifier, desk.appraiser, self.sent.append, lambda: desk.now,
            unconnected(folder),
        )  # fmt: skip

    def offer(self, made: Made) -> None:
        def acknowledge() -> None:
            committed = not self.desk.db.in_transaction
            self.acknowledged.append((made.seq, committed))

        self.worker.offer(Delivery(Incoming(made.topic, made.data), acknowledge))


@pytest.fixture
def rig(desk: Desk, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(desk, tmp_path)
    yield made
    made.worker.stop()


def test_acknowledged_in_order_after_the_commit(rig: Rig, desk: Desk, board: Board) -> None:
    made = [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(200))]
    rig.worker.start()
    for one in made:
        rig.offer(one)
    wait_until(lambda: len(rig.acknowledged) == len(made), 60)
    assert rig.acknowledged == [(one.seq, True) for one in made]
    assert desk.stored("gw-demo", AUDIT) == [one.seq for one in made]
    assert [o.topic for o in rig.sent] == [board.topic("e", "nonce")], "a new key earns a challenge"


def test_refused_messages_are_acknowledged_too(rig: Rig, desk: Desk, board: Board) -> None:
    """Else the broker would deliver them again for ever."""
    made = board.introduce(AUDIT)
    rig.worker.start()
    rig.offer(Made(made.topic, made.data + b"\0", 99))
    rig.offer(Made("nonsense", b"", 100))
    wait_until(lambda: len(rig.acknowledged) == 2, 60)
    assert desk.refused() == {"trailing_bytes": 1}
    assert desk.refused("") == {"bad_topic": 1}


def test_a_store_that_refuses_acknowledges_nothing(
    rig: Rig, desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, tried = threading.Event(), threading.Event()
    real = Verifier.take

    def take(self: Verifier, message: Incoming, now_utc_s: float) -> object:
        verdict = real(self, message, now_utc_s)
        if full.is_set():
            tried.set()
            raise sqlite3.OperationalError("database or disk is full")
        return verdict

    monkeypatch.setattr(Verifier, "take", take)
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    full.set()
    rig.worker.start()
    rig.offer(board.introduce(AUDIT))
    assert tried.wait(60)
    assert rig.acknowledged == []
    full.clear()
    wait_until(lambda: rig.acknowledged == [(1, True)], 60)
    assert desk.stored("gw-demo", AUDIT) == [1], "rolled back, judged again, stored once"
    assert rig.worker.failed is None


def test_our_own_mistake_costs_one_message(
    rig: Rig, desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a message is never stored, and the next one is judged."""
    from edgewarden_fleet.verify import facts

    real = facts.keep

    def keep(db: sqlite3.Connection, record: object, now_utc_s: float) -> None:
        if getattr(record, "seq", 0) == 2:
            raise ZeroDivisionError
        real(db, record, now_utc_s)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "keep", keep)
    rig.worker.start()
    for one in (board.introduce(AUDIT), board.event(AUDIT), board.event(AUDIT)):
        rig.offer(one)
    wait_until(lambda: len(rig.acknowledged) == 3, 60)
    assert desk.stored("gw-demo", AUDIT) == [1, 3]
    assert desk.refused("") == {"internal_error": 1}
    assert desk.gaps("gw-demo", AUDIT) == [(2, 2)]


@pytest.mark.parametrize(
    "fault",
    [sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, OverflowError],
)
def test_values_the_store_refuses_stop_nobody_else(
    rig: Rig, desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    """The store would refuse them for ever: the message is refused, not tried again."""
    from edgewarden_fleet.verify import facts

    real = facts.keep

    def keep(db: sqlite3.Connection, record: object, now_utc_s: float) -> None:
        if (getattr(record, "device", ""), getattr(record, "seq", 0)) == ("gw-demo", 2):
            raise fault("cannot store REAL value in INTEGER column counter.value")
        real(db, record, now_utc_s)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "keep", keep)
    honest = Board(desk, "gw-honest")
    rig.worker.start()
    for one in (board.introduce(AUDIT), board.event(AUDIT)):
        rig.offer(one)
    for one in (honest.introduce(AUDIT), honest.event(AUDIT, n=7)):
        rig.offer(one)
    wait_until(lambda: len(rig.acknowledged) == 4, 60)
    assert desk.stored("gw-demo", AUDIT) == [1]
    assert desk.refused("") == {"internal_error": 1}
    assert rig.worker.failed is None


def test_a_captured_gateway_does_not_overflow_the_store(rig: Rig, desk: Desk, board: Board) -> None:
    """What a reviewer did: 1,024 counts of 2**53 made every later group fail."""
    bulk = RecordClass.BULK
    honest = Board(desk, "gw-honest")
    rig.worker.start()
    count = 1100
    rig.offer(board.introduce(bulk))
    for _ in range(count):
        rig.offer(board.batch(counts={"x": 2**53}))
    rig.offer(honest.introduce(bulk))
    wait_until(lambda: len(rig.acknowledged) == count + 2, 60)
    assert desk.stored("gw-honest", bulk) == [1]
    assert desk.refused("") == {}


def test_stopping_keeps_what_was_not_judged_unacknowledged(rig: Rig, board: Board) -> None:
    rig.offer(board.introduce(AUDIT))
    rig.worker.start()
    wait_until(lambda: rig.acknowledged, 60)
    rig.worker.stop()
    rig.offer(board.event(AUDIT))
    assert len(rig.acknowledged) == 1
