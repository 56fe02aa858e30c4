"""The ratchet: one thread of tokens per gateway, so that two copies of it cannot both go on.

Decides what one presentation of a continuity token means. Leaves to continuity.py what records
say; to the caller the store, the disk, chance, and what an alarm leads to.

The fleet hands a gateway one token after the other, each in the answer to evidence. Before the
gateway spends a token it chooses a random mark and makes it durable beside the token; what it
presents is both. The fleet remembers the mark. So a token has one spender:

    gateway   holds (step, token)              spends: mark chosen, durable, then sent
    fleet     step + 1, token never presented  remembers the mark, answers with the next token
              step + 1's answer lost           the same (token, mark) comes again: the same answer
    copy      holds (step, token) too, but chooses another mark: whoever comes second is caught

The next token is a function of the token, the mark and the fleet's secret (``Issuer``), so an
answer that is repeated is the same answer, also after the fleet's own crash; and it proves by
itself that this fleet made it.

``floor`` is the step that the fleet had seen presented when it sent the challenge that this
presentation answers. An honest gateway made that durable before; it cannot answer with less.
Presentations in rules' order:

    below the floor                          → STALE    an older state: a backup, a copy
    at the head's step or behind it
        same token and mark as before        → AGAIN at the head, else LATE (it was overtaken)
        another mark, or another line        → TWICE    two hold this gateway's state
    head's successor, the token we made      → NEXT
    the token is ours, further on            → ADOPTED  the fleet's store is an older one
    the token is ours, of another line       → TWICE
    not ours                                 → FOREIGN
    nothing known, or the door is open (an operator said so, the fleet's secret is new)
        step 0, the open door, ours          → NEXT / ADOPTED, else FOREIGN

LATE is refused and no alarm: MQTT kept no order. Only NEXT, AGAIN and ADOPTED get a token.

    judge(head, Spent(7, t7, m7), Around(same=None, floor=6), issuer) -> NEXT, Issued(8, t8)
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from enum import StrEnum

from edgewarden.plain import dataclass
from edgewarden.wire.ratchet import FIRST_TOKEN, Held, Issued, Spent

_HALF = 16
"""A token is 16 bytes that name its line and 16 bytes of HMAC over them: 128 bits each."""


class Outcome(StrEnum):
    """What a presentation is to its gateway's thread of tokens."""

    NEXT = "next"
    AGAIN = "again"
    LATE = "late"
    ADOPTED = "adopted"
    STALE = "stale"
    TWICE = "twice"
    FOREIGN = "foreign"


ALARMS = frozenset({Outcome.STALE, Outcome.TWICE, Outcome.FOREIGN})
"""Outcomes that say: this state exists twice, or is an older one."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Makes a gateway's tokens and knows them again.

    Attributes:
        secret: the fleet's, 32 bytes.
        device: ``tenant/device``: a token of another gateway is FOREIGN.
    """

    secret: bytes
    device: str

    def after(self, spent: Spent) -> Issued:
        """The one token that follows a presentation."""
        step = spent.step + 1
        line = hashlib.sha256(b"edgewarden line\0" + spent.token + spent.mark).digest()[:_HALF]
        return Issued(step, line + self._proof(step, line))

    def made(self, step: int, token: bytes) -> bool:
        """Did this fleet make that token for this gateway and step?"""
        if step == 0:
            return token == FIRST_TOKEN
        return hmac.compare_digest(token[_HALF:], self._proof(step, token[:_HALF]))

    def _proof(self, step: int, line: bytes) -> bytes:
        said = b"edgewarden token\0" + self.device.encode() + step.to_bytes(8, "big") + line
        return hmac.digest(self.secret, said, "sha256")[:_HALF]


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of the offer's place.

    Attributes:
        same: what was presented at the offer's step before; None when nothing was: the fleet
            keeps as many steps as challenges can be outstanding.
        floor: see the module's docstring.
        open_door: take whatever comes next as the true state, once.
    """

    same: Spent | None = None
    floor: int = 0
    open_door: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict.

    Attributes:
        head: the newest presentation from now on.
        answer: the token to hand out, or None.
        why: one line where there is something to explain, else "".
    """

    outcome: Outcome
    head: Spent | None
    answer: Issued | None = None
    why: str = ""

    @property
    def alarm(self) -> bool:
        """Does it say that this gateway's state exists twice?"""
        return self.outcome in ALARMS


def judge(head: Spent | None, offer: Spent, around: Around, issuer: Issuer) -> Judgement:
    """Decide; see the module's docstring for the rules in order."""
    if head is None or around.open_door:
        return _first(head, offer, around, issuer)
    if offer.step < around.floor:
        return _alarm(
            Outcome.STALE, head,
            f"it holds token {offer.step}; {around.floor} had been presented before the challenge",
        )  # fmt: skip
    if offer.step <= head.step:
        return _known(head, offer, around.same, issuer)
    if Issued(offer.step, offer.token) == issuer.after(head):
        return Judgement(Outcome.NEXT, offer, issuer.after(offer))
    if not issuer.made(offer.step, offer.token):
        return _alarm(Outcome.FOREIGN, head, f"token {offer.step} was never handed out")
    if offer.step == head.step + 1:
        return _alarm(Outcome.TWICE, head, f"token {offer.step} is of another line")
    why = f"it holds token {offer.step}, this store knows of {head.step}: an older store"
    return Judgement(Outcome.ADOPTED, offer, issuer.after(offer), why)


def _first(head: Spent | None, offer: Spent, around: Around, issuer: Issuer) -> Judgement:
    if around.open_door:
        why = "taken as this gateway's true state"
        return Judgement(Outcome.ADOPTED, offer, issuer.after(offer), why)
    if not issuer.made(offer.step, offer.token):
        return _alarm(Outcome.FOREIGN, head, f"token {offer.step} was never handed out")
    if offer.step == 0:
        return Judgement(Outcome.NEXT, offer, issuer.after(offer))
    why = f"it holds token {offer.step}, this store knows of none: an older store"
    return Judgement(Outcome.ADOPTED, offer, issuer.after(offer), why)


def _known(head: Spent, offer: Spent, same: Spent | None, issuer: Issuer) -> Judgement:
    """An offer at or behind the head."""
    if same is None and not issuer.made(offer.step, offer.token):
        return _alarm(Outcome.FOREIGN, head, f"token {offer.step} was never handed out")
    if same is not None and offer != same:
        return _alarm(Outcome.TWICE, head, f"two gateways spent token {offer.step}")
    if offer == head:
        return Judgement(Outcome.AGAIN, head, issuer.after(head))
    return Judgement(Outcome.LATE, head, why=f"token {offer.step} was overtaken by {head.step}")


def _alarm(outcome: Outcome, head: Spent | None, why: str) -> Judgement:
    return Judgement(outcome, head, why=why)


# --- the gateway's half ---------------------------------------------------------------------------


def spend(held: Held, fresh_mark: bytes) -> Held:
    """What must be durable before the token leaves: with the mark of the first time, if any."""
    return held if held.mark is not None else replace(held, mark=fresh_mark)


def presentation(held: Held) -> Spent:
    """What goes into evidence; held must be spent and durable."""
    assert held.mark is not None
    return Spent(held.step, held.token, held.mark)


def adopt(held: Held, issued: Issued) -> Held:
    """Take the fleet's answer: only the successor of the token that was spent changes anything."""
    if held.mark is None or issued.step != held.step + 1:
        return held
    return Held(issued.step, issued.token)
