"""The verifier's word: how far a class has come, and to whom it is said."""

from __future__ import annotations

from pathlib import Path

from edgewarden.trust.keys import verifier_for
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import Upto, decode_acknowledgement
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, record_hash
from edgewarden_fleet.ingest.worker import Delivery, Worker
from edgewarden_fleet.verify.attest import Outgoing
from edgewarden_fleet.verify.pipeline import Incoming
from edgewarden_fleet.verify.word import Word
from tests.fleet.makers import TENANT, Board, Desk, Made, unconnected
from tests.waiting import wait_until

ALARM, AUDIT, BULK = RecordClass


def speaker(desk: Desk) -> Word:
    return Word(desk.db, desk.verifier_key, TENANT, desk.appraiser.released)


def said(desk: Desk, device: str = "gw-demo") -> dict[RecordClass, Upto]:
    messages = speaker(desk).say([device])
    if not messages:
        return {}
    (message,) = messages
    assert message.topic == f"ew/1/{TENANT}/{device}/e/ack"
    envelope = cose.open_envelope(message.payload, ContentType.ACKNOWLEDGEMENT)
    cose.check_signature(envelope, verifier_for(desk.verifier_key.public_key()))
    word = decode_acknowledgement(envelope.payload)
    assert (word.tenant, word.device) == (TENANT, device)
    return dict(word.upto)


def four(board: Board) -> list[Made]:
    return [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(3))]


def test_nothing_stored_is_nothing_said(desk: Desk, board: Board) -> None:
    assert said(desk) == {}
    assert said(desk, "gw-unknown") == {}


def test_it_names_the_head_and_its_hash(desk: Desk, board: Board) -> None:
    made = four(board)
    for one in made:
        assert desk.record(one).accepted
    assert said(desk) == {AUDIT: Upto(4, record_hash(made[3].data), 4)}


def test_it_ends_in_front_of_a_gap_and_goes_on_when_that_is_filled(
    desk: Desk, board: Board
) -> None:
    made = four(board)
    for one in (made[0], made[1], made[3]):
        desk.record(one)
    assert said(desk) == {AUDIT: Upto(2, record_hash(made[1].data), 4)}
    desk.record(made[2])
    assert said(desk) == {AUDIT: Upto(4, record_hash(made[3].data), 4)}


def test_a_gap_that_the_gateway_calls_released_holds_nothing_up(desk: Desk, board: Board) -> None:
    made = four(board)
    for one in (made[0], made[1], made[3]):
        desk.record(one)
    desk.connect(board, {AUDIT: 2})
    assert said(desk)[AUDIT].seq == 2
    desk.connect(board, {AUDIT: 3})
    assert said(desk)[AUDIT].seq == 4
    assert desk.gaps("gw-demo", AUDIT) == [(3, 3)], "and stays on the books"


def test_a_gap_that_a_signed_record_explains_holds_nothing_up(desk: Desk, board: Board) -> None:
    first = [board.introduce(AUDIT), board.introduce(BULK)]
    bulk = [board.batch() for _ in range(3)]
    for one in (*first, bulk[0], bulk[2]):
        desk.record(one)
    assert said(desk)[BULK].seq == 2
    hashes = [record_hash(one.data) for one in bulk]
    desk.record(board.gap(BULK, 3, 3, hashes[0], hashes[1]))
    assert said(desk)[BULK] == Upto(4, hashes[2], 4)


def test_what_is_refused_is_not_acknowledged(desk: Desk, board: Board) -> None:
    made = four(board)
    desk.record(made[0])
    forged = Made(made[1].topic, made[1].data[:-1] + bytes([made[1].data[-1] ^ 1]), 2)
    assert not desk.record(forged).accepted
    assert said(desk)[AUDIT].seq == 1


def test_the_worker_says_it_after_the_commit_and_again_for_a_duplicate(
    desk: Desk, board: Board, tmp_path: Path
) -> None:
    sent: list[tuple[Outgoing, bool]] = []
    worker = Worker(
        desk.db, desk.verifier, desk.appraiser,
        lambda out: sent.append((out, desk.db.in_transaction)), lambda: desk.now,
        unconnected(tmp_path), speaker(desk),
    )  # fmt: skip
    worker.start()
    one = board.introduce(AUDIT)
    try:
        for times in (1, 2):
            worker.offer(Delivery(Incoming(one.topic, one.data, dup=times > 1), lambda: None))
            wait_until(lambda n=times: len(_acks(sent)) == n, 60)  # type: ignore[misc]
    finally:
        worker.stop()
    assert [inside for _, inside in _acks(sent)] == [False, False]


def _acks(sent: list[tuple[Outgoing, bool]]) -> list[tuple[Outgoing, bool]]:
    return [s for s in sent if s[0].topic.endswith("/e/ack")]
