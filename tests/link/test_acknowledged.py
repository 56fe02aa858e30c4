"""The verifier's word: whose counts, what it releases, and what happens without it."""

from __future__ import annotations

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.link.acknowledged import MAX_UNVERIFIED, Awaited, VerifierKey, open_word
from edgewarden.link.window import PARK_AFTER, UNVERIFIED, Lane, Refusal
from edgewarden.ports import Stored
from edgewarden.trust.keys import FileSigner, key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import (
    Acknowledgement,
    InMemory,
    Run,
    Upto,
    encode_acknowledgement,
)
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import MEMORY, RecordClass

ALARM, AUDIT, BULK = RecordClass
H, OTHER = bytes([7]) * 32, bytes([8]) * 32
S = 1_000_000_000
NOTHING = dict.fromkeys(RecordClass, 0)


def word(seq: int, digest: bytes = H, head: int | None = None) -> Acknowledgement:
    return Acknowledgement("main", "gw-demo", {AUDIT: Upto(seq, digest, head or seq)})


def sealed(said: Acknowledgement, signer: FileSigner, kind: ContentType) -> bytes:
    return cose.seal(encode_acknowledgement(said), kind, signer.kid, signer.sign)


# --- whose word -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner.generate()


def key_of(signer: FileSigner) -> VerifierKey:
    public = signer.public_key()
    return VerifierKey(key_id(public), verifier_for(public))


def test_the_pinned_verifiers_word_is_taken(signer: FileSigner) -> None:
    message = sealed(word(5), signer, ContentType.ACKNOWLEDGEMENT)
    assert open_word(message, key_of(signer), "main", "gw-demo") == word(5)


def test_another_key_is_refused(signer: FileSigner) -> None:
    message = sealed(word(5), FileSigner.generate(), ContentType.ACKNOWLEDGEMENT)
    with pytest.raises(WireRefusal) as refused:
        open_word(message, key_of(signer), "main", "gw-demo")
    assert refused.value.name == "unknown_key"


def test_another_key_under_the_pinned_name_is_refused(signer: FileSigner) -> None:
    thief = FileSigner.generate()
    payload = encode_acknowledgement(word(5))
    message = cose.seal(payload, ContentType.ACKNOWLEDGEMENT, signer.kid, thief.sign)
    with pytest.raises(WireRefusal) as refused:
        open_word(message, key_of(signer), "main", "gw-demo")
    assert refused.value.name == "bad_signature"


@pytest.mark.parametrize(("tenant", "device"), [("main", "gw-other"), ("other", "gw-demo")])
def test_a_word_for_another_gateway_is_refused(
    signer: FileSigner, tenant: str, device: str
) -> None:
    message = sealed(word(5), signer, ContentType.ACKNOWLEDGEMENT)
    with pytest.raises(WireRefusal) as refused:
        open_word(message, key_of(signer), tenant, device)
    assert refused.value.name == "foreign_device"


def test_another_message_of_the_verifier_is_no_word(signer: FileSigner) -> None:
    message = sealed(word(5), signer, ContentType.RESULT)
    with pytest.raises(WireRefusal) as refused:
        open_word(message, key_of(signer), "main", "gw-demo")
    assert refused.value.name == "wrong_type"


# --- what it releases -------------------------------------------------------------------------


def sending(*seqs: int, lane: int = AUDIT) -> Awaited:
    awaited = Awaited(60)
    for seq in seqs:
        awaited.sent(lane, seq, H, 0)
    return awaited


def test_a_word_releases_everything_up_to_it() -> None:
    awaited = sending(4, 5, 6)
    assert awaited.take(word(5), {**NOTHING, AUDIT: 3}, S) == ({AUDIT: 5}, [])
    assert awaited.oldest(AUDIT) == 6


@pytest.mark.parametrize(
    ("said", "released", "refused"),
    [
        (word(3), 4, ["older"]),
        (word(4), 4, []),
        (word(9), 4, ["not_sent"]),
        (word(5, OTHER), 4, ["other_record"]),
    ],
)
def test_what_is_refused_releases_nothing(
    said: Acknowledgement, released: int, refused: list[str]
) -> None:
    awaited = sending(5, 6)
    assert awaited.take(said, {**NOTHING, AUDIT: released}, S) == ({}, refused)
    assert awaited.oldest(AUDIT) == 5


def test_so_many_may_wait() -> None:
    awaited = sending(*range(1, MAX_UNVERIFIED))
    assert awaited.room_for(AUDIT)
    awaited.sent(AUDIT, MAX_UNVERIFIED, H, 0)
    assert not awaited.room_for(AUDIT)
    assert awaited.room_for(ALARM)
    awaited.take(word(1), NOTHING, S)
    assert awaited.room_for(AUDIT)


def test_progress_gives_time_and_none_makes_late() -> None:
    awaited = sending(1, 2)
    assert awaited.late(60 * S - 1) == []
    assert awaited.due_s(0) == 60
    awaited.take(word(1), NOTHING, 50 * S)
    assert awaited.late(60 * S) == []
    assert awaited.late(110 * S) == [AUDIT]
    awaited.take(word(2), {**NOTHING, AUDIT: 1}, 110 * S)
    assert (awaited.late(999 * S), awaited.due_s(999 * S)) == ([], None)


def test_after_a_refusal_by_the_broker_nothing_of_the_class_waits() -> None:
    awaited = sending(1, 2)
    awaited.refused(AUDIT)
    assert (awaited.late(999 * S), awaited.oldest(AUDIT)) == ([], None)


# --- without it -------------------------------------------------------------------------------


def lane(*seqs: int) -> Lane:
    made = Lane(AUDIT)
    made.fetch([Stored(int(AUDIT), seq, b"x") for seq in seqs])
    return made


def test_a_released_record_is_not_sent_again() -> None:
    one = lane(1, 2, 3)
    one.send()
    one.send()
    one.verified(2)
    assert (one.accepted, [r.seq for r in one.ready]) == (2, [3])
    assert one.accept(one.send()) == 3


def test_the_third_silence_parks_the_class_and_a_word_frees_it() -> None:
    one = lane(1)
    found = [one.unverified(1, 0, 120.0) for _ in range(PARK_AFTER)]
    assert found == [Refusal.AGAIN, Refusal.AGAIN, Refusal.PARKS]
    one.fetch([Stored(int(AUDIT), 1, b"x")])
    assert not one.may_send(119 * S)
    assert one.may_send(120 * S)
    one.verified(1)
    assert (one.parked, one.refusals) == (False, 0)


def test_a_record_that_is_never_stored_while_later_ones_are_is_set_aside() -> None:
    one = lane(1, 2)
    one.verifier_head = 2
    found = [one.unverified(1, 0, 120.0) for _ in range(PARK_AFTER)]
    assert found[-1] is Refusal.ASIDE
    assert one.aside == (1, UNVERIFIED)


# --- the chain in memory ----------------------------------------------------------------------


def in_memory(*runs: tuple[int, int], digest: bytes = H) -> InMemory:
    return InMemory(bytes(8), tuple(Run(first, last, digest) for first, last in runs))


def test_a_run_that_begins_where_we_are_releases_to_its_end() -> None:
    awaited = sending(1, 2, 3, lane=MEMORY)
    assert awaited.take_memory(in_memory((1, 2)), 0, S) == (2, 2, [])
    assert awaited.oldest(MEMORY) == 3


def test_what_lies_behind_a_hole_is_not_released_and_is_known_of() -> None:
    awaited = sending(1, 2, 3, 4, 5, lane=MEMORY)
    assert awaited.take_memory(in_memory((1, 2), (4, 5)), 0, S) == (2, 5, [])
    assert awaited.oldest(MEMORY) == 3


def test_a_hole_that_we_gave_up_holds_nothing_up() -> None:
    awaited = sending(4, 5, lane=MEMORY)
    assert awaited.take_memory(in_memory((1, 2), (4, 5)), 3, S) == (5, 5, [])
    assert awaited.oldest(MEMORY) is None


def test_another_starts_chain_and_what_was_not_sent_release_nothing() -> None:
    awaited = sending(1, 2, lane=MEMORY)
    assert awaited.take_memory(in_memory((1, 2), digest=OTHER), 0, S) == (0, 0, ["other_chain"])
    assert awaited.take_memory(in_memory((1, 9)), 0, S) == (0, 0, ["not_sent"])
    assert awaited.take_memory(in_memory((1, 2)), 2, S) == (2, 0, [])


def test_what_the_storage_took_back_is_waited_for_no_more() -> None:
    awaited = sending(1, 2, lane=MEMORY)
    awaited.settled(MEMORY, 0, S)
    assert awaited.late(60 * S) == [MEMORY]
    awaited.settled(MEMORY, 2, S)
    assert awaited.late(600 * S) == []
