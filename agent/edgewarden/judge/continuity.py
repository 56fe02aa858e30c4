"""Continuity: what one more record means for the chain of its (device, class).

Decides from five numbers and hashes whether a record whose signature already holds is the next
one, a late one, a repetition or a second history. Knows no key, no store and no clock; the caller
looks up the neighbours and keeps the state.

    stored under this sequence already
        same bytes   delivered again by the broker (DUP), or sent again by a newly connected
                     gateway that says it never saw the acknowledgement              → duplicate
                     anything else                                                   → replay
        other bytes                                                                  → fork
    not stored, a stored neighbour's hash does not fit                               → fork
    not stored, evidence named another record with this sequence                     → fork
    not stored, hashes fit
        nothing stored at all          sequence 1 → next, later → gap (1 to seq-1 missing)
        seq = head + 1                                                               → next
        seq > head + 1                                                               → gap (what is
                                                                                     missing is
                                                                                     named)
        seq < head                     it fills a gap                                → reordered

The redelivery rule is exact, not a window. A gateway's signed session status says, per class, the
highest sequence that the broker had acknowledged when it connected; in that session it sends
everything behind that number once, ascending. So a stored sequence is an honest redelivery only
above ``floor``, and every record of the session lifts the floor over itself: the same bytes a
second time in one session, or from before it, are a replay. A status counts only if it is newer
than every one before (the caller's rule), so nobody can reopen the door without the identity key.

next, gap and reordered are accepted; a gap is a statement about records that did not come, never a
reason to refuse one that did. A fork is proof that two histories were signed: it is never
accepted, and never settled by arrival order.

The end of a chain has no successor that would show its loss. Evidence names it: what evidence
named and what did not come by a deadline is withheld (``withheld``), from the head to the named
end, until it does come. The deadline is the caller's, and so is the clock.

    judge(Chain(7, h7, floor=7), Offer(8, prev=h7, hash=h8), NOTHING) -> next, Chain(8, h8, floor=8)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from edgewarden.plain import dataclass
from edgewarden.wire.record import NO_PREDECESSOR


class Outcome(StrEnum):
    """What a record is to its chain."""

    NEXT = "next"
    GAP = "gap"
    REORDERED = "reordered"
    DUPLICATE = "duplicate"
    REPLAY = "replay"
    FORK = "fork"


ACCEPTED = frozenset({Outcome.NEXT, Outcome.GAP, Outcome.REORDERED})
"""Outcomes that store the record."""


@dataclass(frozen=True, slots=True)
class Chain:
    """State of one (device, class).

    Attributes:
        head_seq: highest stored sequence; 0 when nothing is stored.
        head_hash: its SHA-256.
        floor: stored records up to here are not redelivered in the present session.
    """

    head_seq: int = 0
    head_hash: bytes = NO_PREDECESSOR
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The record in question.

    Attributes:
        dup: the broker marks this delivery as its own repetition (MQTT DUP flag).
    """

    seq: int
    prev: bytes
    hash: bytes
    dup: bool = False


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What is stored around the offer; None where nothing is.

    Attributes:
        same: hash of the record with the same sequence.
        before: hash of the record with sequence - 1.
        after_prev: predecessor named by the record with sequence + 1.
        claimed: hash that evidence named for the offer's own sequence.
    """

    same: bytes | None = None
    before: bytes | None = None
    after_prev: bytes | None = None
    claimed: bytes | None = None


NOTHING = Neighbours()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict.

    Attributes:
        chain: the state from now on.
        missing: first and last sequence of a gap that opened, or None.
        why: one line where there is something to explain, else "".
    """

    outcome: Outcome
    chain: Chain
    missing: tuple[int, int] | None = None
    why: str = ""

    @property
    def accepted(self) -> bool:
        """Is the record stored and believed?"""
        return self.outcome in ACCEPTED


def begin_session(chain: Chain, acked: int) -> Chain:
    """A newly started session: the gateway sends again what lies behind ``acked``."""
    return replace(chain, floor=acked)


def judge(chain: Chain, offer: Offer, around: Neighbours) -> Judgement:
    """Decide; see the module's docstring for the rules in order."""
    if around.same is not None:
        return _again(chain, offer, around.same)
    mismatch = _mismatch(offer, around)
    if mismatch:
        return Judgement(Outcome.FORK, chain, why=mismatch)
    floor = max(chain.floor, offer.seq)
    if offer.seq < chain.head_seq:
        return Judgement(Outcome.REORDERED, replace(chain, floor=floor))
    ahead = Chain(offer.seq, offer.hash, floor)
    if offer.seq == chain.head_seq + 1:
        return Judgement(Outcome.NEXT, ahead)
    missing = (chain.head_seq + 1, offer.seq - 1)
    return Judgement(Outcome.GAP, ahead, missing, f"{missing[0]} to {missing[1]} did not come")


def _again(chain: Chain, offer: Offer, stored: bytes) -> Judgement:
    if stored != offer.hash:
        why = f"sequence {offer.seq} was signed twice with different content"
        return Judgement(Outcome.FORK, chain, why=why)
    if offer.dup:
        return Judgement(Outcome.DUPLICATE, chain)
    if offer.seq > chain.floor:
        return Judgement(Outcome.DUPLICATE, replace(chain, floor=offer.seq))
    return Judgement(
        Outcome.REPLAY, chain, why=f"sequence {offer.seq} was accepted before and not sent again"
    )


def _mismatch(offer: Offer, around: Neighbours) -> str:
    """The neighbour whose hash does not fit, or ""."""
    if offer.seq == 1 and offer.prev != NO_PREDECESSOR:
        return "the first record names a predecessor"
    if around.before is not None and around.before != offer.prev:
        return f"sequence {offer.seq} names another predecessor than the stored {offer.seq - 1}"
    if around.after_prev is not None and around.after_prev != offer.hash:
        return f"the stored {offer.seq + 1} names another predecessor than this {offer.seq}"
    if around.claimed is not None and around.claimed != offer.hash:
        return f"evidence named another record {offer.seq}"
    return ""


@dataclass(frozen=True, slots=True)
class Gap:
    """A stated gap and what stands at its edges (None where nothing is stored)."""

    first: int
    last: int
    before: bytes | None
    after_prev: bytes | None


@dataclass(frozen=True, slots=True)
class GapNote:
    """A gateway's signed statement that it dropped records (record.py, kind ``gap``).

    Attributes:
        before: hash of the record before ``first``.
        after: hash of record ``last``: what record last + 1 names as its predecessor.
    """

    first: int
    last: int
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The end of a chain as evidence named it.

    Attributes:
        due_utc_s: by then the record should have come; it was durable when it was named.
    """

    seq: int
    hash: bytes
    due_utc_s: float


def withheld(chain: Chain, claims: Sequence[Claim], now_utc_s: float) -> Gap | None:
    """What evidence named behind the head and what did not come in time, or None."""
    late = [c for c in claims if c.seq > chain.head_seq and now_utc_s >= c.due_utc_s]
    if not late:
        return None
    end = max(late, key=lambda c: c.seq)
    before = chain.head_hash if chain.head_seq else None
    return Gap(chain.head_seq + 1, end.seq, before, end.hash)


def explains(note: GapNote, gap: Gap) -> bool:
    """Does a signed statement account for a whole gap?

    It must cover the gap, and at every edge where both end, its hash must be the one that the
    stored neighbour proves. An edge without a stored neighbour proves nothing and is not enough
    alone; 32 zero bytes before a sequence above 1 say that the gateway kept no hash there.
    """
    if not (note.first <= gap.first and gap.last <= note.last):
        return False
    proofs = []
    if note.first == gap.first:
        known = NO_PREDECESSOR if gap.first == 1 else gap.before
        forgotten = note.before == NO_PREDECESSOR and gap.first > 1
        if known is not None and not forgotten:
            proofs.append(note.before == known)
    if note.last == gap.last and gap.after_prev is not None:
        proofs.append(note.after == gap.after_prev)
    return bool(proofs) and all(proofs)
