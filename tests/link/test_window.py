"""Slots, turns and the worth of an acknowledgement."""

from __future__ import annotations

import random

import pytest

from edgewarden.link.pace import MAX_BYTES
from edgewarden.link.window import (
    BULK_TURN,
    NO_MATCHING_SUBSCRIBERS,
    NOT_AUTHORIZED,
    PACKET_TOO_LARGE,
    PARK_AFTER,
    PAYLOAD_FORMAT_INVALID,
    QUOTA_EXCEEDED,
    Flight,
    Lane,
    Refusal,
    Turns,
    Window,
)
from edgewarden.ports import Stored
from edgewarden.wire.record import MEMORY, RecordClass

ALARM, AUDIT, BULK = RecordClass


def stored(record_class: RecordClass, *seqs: int) -> list[Stored]:
    return [Stored(int(record_class), seq, b"x" * 100) for seq in seqs]


def flying(window: Window, record_class: RecordClass | None, count: int, size: int = 100) -> None:
    for _ in range(count):
        window.sent(len(window) + 1000, Flight(record_class, 1, size))


# --- slots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "in_flight", "record_class", "room"),
    [
        (20, 18, BULK, True),
        (20, 19, BULK, False),
        (20, 19, AUDIT, False),
        (20, 19, ALARM, True),
        (20, 19, None, True),
        (20, 20, ALARM, False),
        (20, 20, None, False),
        (1, 0, BULK, True),
        (1, 1, ALARM, False),
    ],
)
def test_the_last_slot_is_for_alarms(
    messages: int, in_flight: int, record_class: RecordClass | None, room: bool
) -> None:
    window = Window(messages)
    flying(window, BULK, in_flight)
    assert window.room_for(record_class, 100) is room


@pytest.mark.parametrize(
    ("flying_bytes", "size", "record_class", "room"),
    [
        (0, MAX_BYTES * 2, BULK, True),
        (100, MAX_BYTES, BULK, False),
        (MAX_BYTES - 100, 100, BULK, True),
        (MAX_BYTES - 100, 101, AUDIT, False),
        (MAX_BYTES, 5000, ALARM, True),
    ],
)
def test_bytes_in_flight_are_bounded_but_not_for_the_first_alarm(
    flying_bytes: int, size: int, record_class: RecordClass, room: bool
) -> None:
    window = Window(20)
    if flying_bytes:
        window.sent(1, Flight(BULK, 1, flying_bytes))
    assert window.room_for(record_class, size) is room


def test_the_second_alarm_needs_room_like_everybody() -> None:
    window = Window(20)
    flying(window, BULK, 1, MAX_BYTES)
    flying(window, ALARM, 1)
    assert not window.room_for(ALARM, 100)


def test_an_ended_message_frees_its_slot_once() -> None:
    window = Window(2)
    flight = Flight(BULK, 7, 500)
    window.sent(5, flight)
    assert window.ended(5) == flight
    assert window.ended(5) is None
    assert (len(window), window.bytes_flying) == (0, 0)


# --- turns ---------------------------------------------------------------------------------------


def drained(turns: Turns, waiting: set[RecordClass], count: int) -> list[RecordClass]:
    taken = []
    for _ in range(count):
        chosen = turns.order(waiting)[0]
        turns.took(chosen)
        taken.append(chosen)
    return taken


def test_alarms_go_first_however_long_bulk_has_waited() -> None:
    taken = drained(Turns(), {ALARM, AUDIT, BULK}, 10 * BULK_TURN)
    assert set(taken) == {ALARM}


def test_audit_goes_before_bulk_which_has_every_eighth_turn() -> None:
    taken = drained(Turns(), {AUDIT, BULK}, 10 * BULK_TURN)
    assert taken == ([AUDIT] * (BULK_TURN - 1) + [BULK]) * 10


def test_bulk_alone_does_not_wait_for_its_turn() -> None:
    assert drained(Turns(), {BULK}, 3) == [BULK] * 3


# --- the worth of an acknowledgement -------------------------------------------------------------


def sent(lane: Lane, count: int) -> list[Flight]:
    return [lane.send() for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_only_the_contiguous_end_is_accepted_in_whatever_order(seed: int) -> None:
    chance = random.Random(seed)
    lane = Lane(ALARM)
    seqs = sorted(chance.sample(range(1, 60), 20))  # evicted records leave holes
    lane.fetch(stored(ALARM, *seqs))
    flights = sent(lane, len(seqs))
    order = flights[:]
    chance.shuffle(order)
    done: set[int] = set()
    for flight in order:
        upto = lane.accept(flight)
        done.add(flight.seq)
        contiguous = 0
        for s in seqs:
            if s not in done:
                break
            contiguous = s
        assert lane.accepted == contiguous
        assert upto in (None, contiguous)
    assert lane.accepted == seqs[-1]


def test_a_refusal_goes_back_and_sends_one_at_a_time() -> None:
    lane = Lane(BULK)
    lane.fetch(stored(BULK, 1, 2, 3, 4))
    first, second, third = sent(lane, 3)
    assert lane.accept(first) == 1
    assert lane.refuse(second, QUOTA_EXCEEDED, now_ns=0, wait_s=2) is Refusal.AGAIN
    assert (lane.accepted, lane.fetched, list(lane.ready)) == (1, 1, [])
    assert lane.accept(third) is None, "an answer from before the refusal means nothing"
    assert lane.accepted == 1
    lane.fetch(stored(BULK, 2, 3, 4))
    assert not lane.may_send(1_999_999_999)
    assert lane.may_send(2_000_000_000)
    again = lane.send()
    assert not lane.may_send(9_000_000_000), "one at a time until one is accepted"
    assert lane.accept(again) == 2
    assert lane.may_send(9_000_000_000)
    assert lane.refusals == 0


def test_a_lasting_refusal_parks_after_three_and_says_so_once() -> None:
    lane = Lane(AUDIT)
    said = []
    for _ in range(PARK_AFTER + 3):
        lane.fetch(stored(AUDIT, 1))
        said.append(lane.refuse(lane.send(), NOT_AUTHORIZED, 0, 1))
    again = Refusal.AGAIN
    assert said == [again] * (PARK_AFTER - 1) + [Refusal.PARKS] + [again] * 3
    assert lane.parked
    lane.fetch(stored(AUDIT, 1))
    assert lane.accept(lane.send()) == 1
    assert not lane.parked


def test_a_burst_of_refusals_is_one_refusal() -> None:
    lane = Lane(AUDIT)
    lane.fetch(stored(AUDIT, *range(1, 20)))
    for flight in sent(lane, 19):
        lane.refuse(flight, NOT_AUTHORIZED, 0, 1)
    assert lane.refusals == 1
    assert not lane.parked


def test_a_passing_refusal_never_parks() -> None:
    lane = Lane(AUDIT)
    for _ in range(20):
        lane.fetch(stored(AUDIT, 1))
        assert lane.refuse(lane.send(), QUOTA_EXCEEDED, 0, 1) is Refusal.AGAIN


def test_a_new_session_begins_behind_what_the_spool_says() -> None:
    lane = Lane(ALARM)
    lane.fetch(stored(ALARM, 1, 2, 3))
    flights = sent(lane, 3)
    lane.accept(flights[0])
    lane.go_back(2)
    assert (lane.accepted, lane.fetched) == (2, 2)
    lane.go_back(1)
    assert lane.accepted == 2, "never back"


@pytest.mark.parametrize("reason", [PACKET_TOO_LARGE, PAYLOAD_FORMAT_INVALID])
def test_a_record_refused_for_what_it_is_is_set_aside_and_the_next_ones_go_on(reason: int) -> None:
    lane = Lane(AUDIT)
    said = []
    for _ in range(PARK_AFTER):
        lane.fetch(stored(AUDIT, 1, 2))
        said.append(lane.refuse(lane.send(), reason, 0, 1))
    assert said == [Refusal.AGAIN] * (PARK_AFTER - 1) + [Refusal.ASIDE]
    assert lane.aside == (1, reason)
    lane.fetch(stored(AUDIT, 1, 2))
    assert not lane.may_send(10**12), "nothing before it is out of the way"
    lane.was_set_aside(done=True, now_ns=0, wait_s=60)
    assert (lane.accepted, lane.fetched, lane.aside, lane.parked) == (1, 1, None, False)
    lane.fetch(stored(AUDIT, 2))
    assert lane.accept(lane.send()) == 2


def test_without_room_to_set_aside_the_class_is_parked_and_keeps_the_record() -> None:
    lane = Lane(AUDIT)
    for _ in range(PARK_AFTER):
        lane.fetch(stored(AUDIT, 1))
        lane.refuse(lane.send(), PACKET_TOO_LARGE, 0, 1)
    lane.was_set_aside(done=False, now_ns=0, wait_s=60)
    assert (lane.accepted, lane.parked, lane.aside) == (0, True, None)
    lane.fetch(stored(AUDIT, 1))
    assert not lane.may_send(59_999_999_999)
    assert lane.may_send(60_000_000_000)


def test_since_when_nobody_listens_is_known_until_somebody_does() -> None:
    lane = Lane(ALARM)
    for now_ns in (5, 6, 7):
        lane.fetch(stored(ALARM, 1))
        lane.refuse(lane.send(), NO_MATCHING_SUBSCRIBERS, now_ns, 1)
        assert lane.void_since_ns == 5
    lane.fetch(stored(ALARM, 1))
    lane.accept(lane.send())
    assert lane.void_since_ns is None


@pytest.mark.parametrize(
    ("record_class", "seq", "backlog"),
    [(BULK, 9, True), (BULK, 10, False), (AUDIT, 9, True), (ALARM, 9, False)],
)
def test_backlog_is_what_was_there_when_the_session_began_but_never_an_alarm(
    record_class: RecordClass, seq: int, backlog: bool
) -> None:
    lane = Lane(record_class, old_upto=9)
    lane.fetch(stored(record_class, seq))
    assert lane.is_backlog() is backlog


# --- what is in memory only ----------------------------------------------------------------------


def test_what_is_in_memory_goes_first_and_into_the_last_slot() -> None:
    assert Turns().order([BULK, ALARM, MEMORY]) == [MEMORY, ALARM, BULK]
    window = Window(20)
    for mid in range(19):
        window.sent(mid, Flight(BULK, 1, 100))
    assert window.room_for(MEMORY, 100)
    lane = Lane(MEMORY, old_upto=9)
    lane.fetch([Stored(MEMORY, 1, b"x")])
    assert not lane.is_backlog()
