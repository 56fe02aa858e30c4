"""Continuity: the table of single steps, and a model of any honest chain over any bad network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.judge.continuity import (
    NOTHING,
    Chain,
    Claim,
    Gap,
    GapNote,
    Judgement,
    Neighbours,
    Offer,
    Outcome,
    begin_session,
    explains,
    judge,
    withheld,
)
from edgewarden.wire.record import NO_PREDECESSOR


def h(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


HEAD = Chain(7, h("7"), floor=7)
AT_7 = Neighbours(same=h("7"), before=h("6"))

STEPS = {
    "the first of a class": (
        Chain(), Offer(1, NO_PREDECESSOR, h("1")), NOTHING, Outcome.NEXT,
    ),
    "a first that names a predecessor": (
        Chain(), Offer(1, h("0"), h("1")), NOTHING, Outcome.FORK,
    ),
    "first contact in the middle": (
        Chain(), Offer(5, h("4"), h("5")), NOTHING, Outcome.GAP,
    ),
    "the next": (
        HEAD, Offer(8, h("7"), h("8")), Neighbours(before=h("7")), Outcome.NEXT,
    ),
    "a second successor of the head's predecessor": (
        HEAD, Offer(8, h("6"), h("8")), Neighbours(before=h("7")), Outcome.FORK,
    ),
    "one was dropped": (
        HEAD, Offer(9, h("8"), h("9")), NOTHING, Outcome.GAP,
    ),
    "the head again": (HEAD, Offer(7, h("6"), h("7")), AT_7, Outcome.REPLAY),
    "the head again, repeated by the broker": (
        HEAD, Offer(7, h("6"), h("7"), dup=True), AT_7, Outcome.DUPLICATE,
    ),
    "the head again, its acknowledgement was lost": (
        begin_session(HEAD, 6), Offer(7, h("6"), h("7")), AT_7, Outcome.DUPLICATE,
    ),
    "an old one again, in a new session": (
        begin_session(HEAD, 6), Offer(3, h("2"), h("3")), Neighbours(same=h("3")), Outcome.REPLAY,
    ),
    "the head's sequence with other bytes": (
        HEAD, Offer(7, h("6"), h("other")), AT_7, Outcome.FORK,
    ),
    "other bytes, repeated by the broker": (
        HEAD, Offer(7, h("6"), h("other"), dup=True), AT_7, Outcome.FORK,
    ),
    "a late one that fits": (
        HEAD, Offer(4, h("3"), h("4")), Neighbours(before=h("3"), after_prev=h("4")),
        Outcome.REORDERED,
    ),
    "a late one that does not follow": (
        HEAD, Offer(4, h("x"), h("4")), Neighbours(before=h("3"), after_prev=h("4")), Outcome.FORK,
    ),
    "a late one that is not followed": (
        HEAD, Offer(4, h("3"), h("x")), Neighbours(before=h("3"), after_prev=h("4")), Outcome.FORK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_one_step(name: str) -> None:
    chain, offer, around, expected = STEPS[name]
    judged = judge(chain, offer, around)
    assert judged.outcome is expected
    if not judged.accepted and expected is not Outcome.DUPLICATE:
        assert judged.chain == chain, "a refusal changes nothing"
        assert judged.why


def test_a_gap_names_what_is_missing() -> None:
    assert judge(HEAD, Offer(10, h("9"), h("10")), NOTHING).missing == (8, 9)
    assert judge(Chain(), Offer(5, h("4"), h("5")), NOTHING).missing == (1, 4)


def test_a_session_redelivers_each_record_once() -> None:
    chain = begin_session(Chain(7, h("7"), floor=7), 5)
    first = judge(chain, Offer(6, h("5"), h("6")), Neighbours(same=h("6")))
    assert first.outcome is Outcome.DUPLICATE
    again = judge(first.chain, Offer(6, h("5"), h("6")), Neighbours(same=h("6")))
    assert again.outcome is Outcome.REPLAY
    later = judge(first.chain, Offer(7, h("6"), h("7")), Neighbours(same=h("7")))
    assert later.outcome is Outcome.DUPLICATE


def test_a_new_record_ends_the_redelivery() -> None:
    chain = begin_session(HEAD, 6)
    moved = judge(chain, Offer(8, h("7"), h("8")), Neighbours(before=h("7"))).chain
    assert judge(moved, Offer(7, h("6"), h("7")), AT_7).outcome is Outcome.REPLAY


GAP = Gap(8, 9, before=h("7"), after_prev=h("9"))


@pytest.mark.parametrize(
    ("note", "gap", "fits"),
    [
        (GapNote(8, 9, h("7"), h("9")), GAP, True),
        (GapNote(3, 9, h("2"), h("9")), GAP, True),
        (GapNote(8, 20, h("7"), h("20")), GAP, True),
        (GapNote(8, 9, bytes(32), h("9")), GAP, True),
        (GapNote(8, 9, h("x"), h("9")), GAP, False),
        (GapNote(8, 9, h("7"), h("x")), GAP, False),
        (GapNote(9, 9, h("8"), h("9")), GAP, False),
        (GapNote(8, 8, h("7"), h("8")), GAP, False),
        (GapNote(3, 20, h("2"), h("20")), GAP, False),
        (GapNote(8, 9, bytes(32), h("9")), Gap(8, 9, h("7"), None), False),
        (GapNote(1, 9, bytes(32), h("9")), Gap(1, 9, None, None), True),
        (GapNote(1, 9, h("x"), h("9")), Gap(1, 9, None, h("9")), False),
    ],
)
def test_a_signed_statement_explains_a_gap_only_with_proof(
    note: GapNote, gap: Gap, fits: bool
) -> None:
    assert explains(note, gap) is fits


# --- a model: one honest gateway, any network -------------------------------------------------


@dataclass
class Keeper:
    """What the store keeps: the least that judge needs."""

    chain: Chain = field(default_factory=Chain)
    records: dict[int, Offer] = field(default_factory=dict)

    def take(self, offer: Offer) -> Judgement:
        same, before, after = (self.records.get(offer.seq + d) for d in (0, -1, 1))
        around = Neighbours(
            same.hash if same else None,
            before.hash if before else None,
            after.prev if after else None,
        )
        judged = judge(self.chain, offer, around)
        self.chain = judged.chain
        if judged.accepted:
            assert offer.seq not in self.records
            self.records[offer.seq] = offer
        return judged


def honest(count: int) -> list[Offer]:
    chain = [NO_PREDECESSOR] + [h(str(n)) for n in range(1, count + 1)]
    return [Offer(n, chain[n - 1], chain[n]) for n in range(1, count + 1)]


@settings(max_examples=300)
@given(st.data())
def test_no_loss_repetition_or_reordering_of_an_honest_chain_is_a_fork(data: st.DataObject) -> None:
    chain = honest(data.draw(st.integers(1, 24)))
    sent = data.draw(st.lists(st.sampled_from(chain), max_size=60))
    keeper = Keeper()
    seen: set[int] = set()
    for offer in sent:
        repeated = offer.seq in seen
        judged = keeper.take(Offer(offer.seq, offer.prev, offer.hash, dup=repeated))
        assert judged.outcome is not Outcome.FORK
        assert (judged.outcome is Outcome.DUPLICATE) is repeated
        seen.add(offer.seq)
    assert set(keeper.records) == seen
    assert keeper.chain.head_seq == max(seen, default=0)


@settings(max_examples=300)
@given(st.data())
def test_reconnects_are_duplicates_and_anything_else_a_replay(data: st.DataObject) -> None:
    """A gateway whose acknowledgements get lost: it sends again behind what it knows of."""
    keeper, chain = Keeper(), honest(20)
    acked = sent = 0
    for _ in range(data.draw(st.integers(1, 6))):
        keeper.chain = begin_session(keeper.chain, acked)
        upto = data.draw(st.integers(max(acked, 1), 20))
        for offer in chain[acked:upto]:
            expected = Outcome.DUPLICATE if offer.seq <= sent else Outcome.NEXT
            assert keeper.take(offer).outcome is expected
            old = data.draw(st.integers(1, offer.seq))
            assert keeper.take(chain[old - 1]).outcome is Outcome.REPLAY
        sent = max(sent, upto)
        acked = data.draw(st.integers(acked, sent))


@settings(max_examples=300)
@given(st.data())
def test_an_altered_record_beside_its_neighbours_is_a_fork(data: st.DataObject) -> None:
    """Even with a valid signature: somebody who holds the key cannot rewrite what is stored."""
    chain = honest(data.draw(st.integers(2, 20)))
    keeper = Keeper()
    for offer in chain:
        keeper.take(offer)
    victim = data.draw(st.sampled_from(chain))
    altered = Offer(victim.seq, victim.prev, h("altered"), dup=data.draw(st.booleans()))
    assert keeper.take(altered).outcome is Outcome.FORK
    assert keeper.records[victim.seq] == victim


CLAIMS = [Claim(7, h("7"), 10.0), Claim(9, h("9"), 20.0), Claim(12, h("12"), 30.0)]


@pytest.mark.parametrize(
    ("now", "missing"),
    [
        (19.9, None),
        (20.0, Gap(8, 9, h("7"), h("9"))),
        (29.9, Gap(8, 9, h("7"), h("9"))),
        (30.0, Gap(8, 12, h("7"), h("12"))),
    ],
)
def test_the_end_of_a_chain_is_missed_when_it_is_due(now: float, missing: Gap | None) -> None:
    assert withheld(HEAD, CLAIMS, now) == missing


def test_of_a_chain_without_a_head_all_is_missed() -> None:
    assert withheld(Chain(), CLAIMS[:1], 10.0) == Gap(1, 7, None, h("7"))


def test_another_record_than_evidence_named_is_a_fork() -> None:
    around = Neighbours(before=h("7"), claimed=h("other"))
    assert judge(HEAD, Offer(8, h("7"), h("8")), around).outcome is Outcome.FORK
    around = Neighbours(before=h("7"), claimed=h("8"))
    assert judge(HEAD, Offer(8, h("7"), h("8")), around).outcome is Outcome.NEXT
