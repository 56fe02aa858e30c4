"""The ratchet: the table of single presentations. The model of a whole life is
tests/order/test_ratchet_model.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.order.ratchet import (
    ALARMS,
    Around,
    Issuer,
    Judgement,
    Outcome,
    adopt,
    judge,
    presentation,
    spend,
)
from edgewarden.wire.ratchet import FIRST_TOKEN, Held, Issued, Spent

ISSUER = Issuer(b"s" * 32, "main/gw-demo")
A, B = b"a" * 16, b"b" * 16


def thread(length: int, mark: bytes = A) -> list[Spent]:
    """An honest gateway's presentations of steps 0 to length - 1."""
    found = [Spent(0, FIRST_TOKEN, mark)]
    while len(found) < length:
        issued = ISSUER.after(found[-1])
        found.append(Spent(issued.step, issued.token, mark))
    return found


HONEST = thread(10)
HEAD = HONEST[6]
OTHER = thread(10, B)
"""What a copy made at step 0 would have been handed, had it been handed anything."""
JUNK = b"j" * 32

TABLE: dict[str, tuple[Spent | None, Spent, Around, Outcome]] = {
    "the first of all": (None, HONEST[0], Around(), Outcome.NEXT),
    "the first of all with a token": (None, replace(HONEST[0], token=JUNK), Around(),
                                      Outcome.FOREIGN),
    "a store that lost everything": (None, HONEST[4], Around(), Outcome.ADOPTED),
    "a token of nobody, first": (None, Spent(4, JUNK, A), Around(), Outcome.FOREIGN),
    "the successor": (HEAD, HONEST[7], Around(floor=6), Outcome.NEXT),
    "the successor, the challenge was sent long ago": (HEAD, HONEST[7], Around(), Outcome.NEXT),
    "the head again: its answer was lost": (HEAD, HEAD, Around(HEAD, 6), Outcome.AGAIN),
    "the head with another mark": (HEAD, replace(HEAD, mark=B), Around(HEAD, 6), Outcome.TWICE),
    "the head's step with a token of nobody": (HEAD, replace(HEAD, token=JUNK), Around(HEAD, 6),
                                               Outcome.TWICE),
    "overtaken": (HEAD, HONEST[5], Around(HONEST[5], 5), Outcome.LATE),
    "overtaken, with another mark": (HEAD, replace(HONEST[5], mark=B), Around(HONEST[5], 5),
                                     Outcome.TWICE),
    "below the floor": (HEAD, HONEST[5], Around(HONEST[5], 6), Outcome.STALE),
    "a gateway that lost its token": (HEAD, Spent(0, FIRST_TOKEN, B), Around(None, 6),
                                      Outcome.STALE),
    "a step nobody kept, ours": (HEAD, HONEST[3], Around(None, 0), Outcome.LATE),
    "a step nobody kept, not ours": (HEAD, Spent(3, JUNK, A), Around(None, 0), Outcome.FOREIGN),
    "the successor's step, another line of ours": (HEAD, OTHER[7], Around(floor=6), Outcome.TWICE),
    "the successor's step, of nobody": (HEAD, Spent(7, JUNK, A), Around(floor=6), Outcome.FOREIGN),
    "further on, ours": (HEAD, HONEST[9], Around(floor=6), Outcome.ADOPTED),
    "further on, of nobody": (HEAD, Spent(9, JUNK, A), Around(floor=6), Outcome.FOREIGN),
    "an open door": (HEAD, Spent(2, JUNK, B), Around(None, 6, True), Outcome.ADOPTED),
    "an open door and nothing known": (None, Spent(2, JUNK, B), Around(open_door=True),
                                       Outcome.ADOPTED),
}  # fmt: skip


def told(name: str) -> Judgement:
    head, offer, around, _ = TABLE[name]
    return judge(head, offer, around, ISSUER)


@pytest.mark.parametrize("name", TABLE)
def test_one_presentation(name: str) -> None:
    head, offer, _, outcome = TABLE[name]
    judged = told(name)
    assert judged.outcome is outcome, judged
    assert judged.alarm is (outcome in ALARMS)
    moves = outcome in (Outcome.NEXT, Outcome.ADOPTED)
    assert judged.head == (offer if moves else head)
    answered = moves or outcome is Outcome.AGAIN
    assert judged.answer == (ISSUER.after(offer) if answered else None)
    assert bool(judged.why) is (outcome not in (Outcome.NEXT, Outcome.AGAIN))


def test_every_outcome_stands_in_the_table() -> None:
    assert {row[3] for row in TABLE.values()} == set(Outcome)


def test_a_token_is_of_one_gateway_one_step_and_one_fleet() -> None:
    token = HONEST[5].token
    assert ISSUER.made(5, token)
    assert not ISSUER.made(6, token)
    assert not Issuer(ISSUER.secret, "main/gw-other").made(5, token)
    assert not Issuer(b"t" * 32, ISSUER.device).made(5, token)
    assert not ISSUER.made(5, token[:31] + bytes([token[31] ^ 1]))
    assert ISSUER.made(0, FIRST_TOKEN)
    assert not ISSUER.made(0, token)


def test_the_next_token_hangs_on_the_mark() -> None:
    assert ISSUER.after(HEAD) == ISSUER.after(replace(HEAD))
    assert ISSUER.after(HEAD) != ISSUER.after(replace(HEAD, mark=B))


def test_a_mark_stays_until_the_answer_came() -> None:
    held = spend(Held(), A)
    assert held.mark == A
    assert spend(held, B) == held
    assert presentation(held) == Spent(0, FIRST_TOKEN, A)
    after = adopt(held, ISSUER.after(presentation(held)))
    assert (after.step, after.mark) == (1, None)
    assert spend(after, B).mark == B


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_only_the_successor_is_taken(step: int) -> None:
    held = Held(2, JUNK, A)
    assert adopt(held, Issued(step, HONEST[3].token)) == held
    assert adopt(replace(held, mark=None), Issued(3, HONEST[3].token)).step == 2
