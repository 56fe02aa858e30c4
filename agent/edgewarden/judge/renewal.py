"""When a certificate is due: early enough for a month off line, not with everybody else's.

Decides from the certificate's life, the device's id and one look at the clock. Rules, in order:

1. the clock stands before the certificate's beginning: it is the clock that is wrong (a board
   without a battery, 1970). Nothing is due; nothing is ever given up  → ``clock``
2. the certificate has ended, or so says the clock. The service has a clock of its own and decides
   by that: asking costs one request                                   → ``ended``
3. less than a third of its life is left, or up to a tenth of its life more: each device has its own
   place in that tenth, so that boards enrolled on one day do not renew in one hour
                                                                       → ``due``
4. somebody asked for it (``wanted``: the verifier's key is another)   → ``wanted``
5. else                                                                → ``early``

The look is taken every hour, at each start and after each step of the clock (the timer's word), so
there is no date to remember and nothing to miss: a step over the whole window finds rule 2.

    judge(life, "gw-demo", now_utc_s).due
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from edgewarden.plain import dataclass

LAST_PART = 1 / 3
"""Of a 30-day certificate that is ten days: off line for a week is no visit."""
SPREAD = 1 / 10
BEHIND_S = 600.0
"""Certificates begin ten minutes before they are made (ca/certificates.py): a clock that is behind
by more than that is wrong."""


class Why(StrEnum):
    """See the module."""

    CLOCK = "clock"
    ENDED = "ended"
    DUE = "due"
    WANTED = "wanted"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Life:
    """A certificate's validity, seconds since 1970."""

    begins_utc_s: float
    ends_utc_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and when it will be (of a certificate whose time has not come).

    Attributes:
        at_utc_s: from then on it is due.
    """

    why: Why
    at_utc_s: float

    @property
    def due(self) -> bool:
        """Ask for a new one now."""
        return self.why in (Why.ENDED, Why.DUE, Why.WANTED)


def judge(life: Life, device: str, now_utc_s: float, *, wanted: bool = False) -> Verdict:
    """Decide; see the module."""
    at = due_at(life, device)
    if now_utc_s < life.begins_utc_s - BEHIND_S:
        return Verdict(Why.CLOCK, at)
    if now_utc_s >= life.ends_utc_s:
        return Verdict(Why.ENDED, at)
    if now_utc_s >= at:
        return Verdict(Why.DUE, at)
    return Verdict(Why.WANTED if wanted else Why.EARLY, at)


def due_at(life: Life, device: str) -> float:
    """When a certificate of this device becomes due, seconds since 1970."""
    whole = life.ends_utc_s - life.begins_utc_s
    place = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") / 2**32
    return life.ends_utc_s - whole * (LAST_PART + SPREAD * place)
