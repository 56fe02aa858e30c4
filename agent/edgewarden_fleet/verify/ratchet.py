"""The verifier's half of the continuity token, and quarantine: around the pure order/ratchet.py.

* Each piece of evidence presents a token. The one it spends rightly is kept, the next one is handed
  out in the result, in one transaction: an answer that was sent was committed before.
* A presentation that says "twice", "stale" or "foreign", a fork, or heads of an older state put the
  gateway into quarantine: one finding when it begins, a contraindicated result for every copy from
  then on, no token for any of them. Records are still verified and stored: an alarm of the true
  gateway is wanted most just then.
* What ends it. Grade G2 or G3: evidence whose identity and hardware facets are affirming. The TPM's
  key exists once, so the state was restored on its own board; the finding stays. Below: an operator
  who knows which of the two is the true one (`edgewarden-fleet quarantine lift`).
"""

from __future__ import annotations

import hashlib
import sqlite3

from edgewarden.appraise.appraisal import HARDWARE_GRADES, Appraisal
from edgewarden.order import ratchet
from edgewarden.order.ratchet import Issuer, Judgement, Outcome
from edgewarden.wire.evidence import Evidence, Tier
from edgewarden.wire.facts import Severity
from edgewarden.wire.ratchet import Issued
from edgewarden_fleet.store import continuity as kept
from edgewarden_fleet.store import records

FORK, CLONE, OLDER = "fork", "clone", "older_state"
"""Kinds of quarantine."""


def is_bound(judged: Appraisal) -> bool:
    """Does evidence prove by itself that its gateway exists once?"""
    proofs = (judged.facets["identity"], judged.facets["hardware"])
    return judged.grade in HARDWARE_GRADES and proofs == (Tier.AFFIRMING, Tier.AFFIRMING)


def suspect(db: sqlite3.Connection, device: str, kind: str, why: str, now_utc_s: float) -> None:
    """Put a gateway into quarantine; what began it is told once.

    Not for a fork or an older head while an operator's word is carried out (store/continuity.py).
    """
    if kind != CLONE and kept.is_open(db, device):
        return
    if kept.begin_quarantine(db, device, kind, why, now_utc_s) and kind != FORK:
        records.add_finding(
            db, device, kind, Severity.CRITICAL, f"quarantined: {why}", now_utc_s
        )  # a fork has its own finding, with the second record as proof


class Thread:
    """Judges presentations and hands out tokens. Used by the ingest thread alone."""

    def __init__(self, db: sqlite3.Connection, secret: bytes, tenant: str) -> None:
        self._db = db
        self._secret = secret
        self._secret_id = hashlib.sha256(secret).digest()[:8]
        self._tenant = tenant

    def take(self, evidence: Evidence, judged: Appraisal, now_utc_s: float) -> Issued | None:
        """Judge what admitted evidence presents; returns the token to answer with."""
        device, bound = evidence.device, is_bound(judged)
        issuer = Issuer(self._secret, f"{self._tenant}/{device}")
        place = kept.around(self._db, device, evidence.spent.step, evidence.nonce, self._secret_id)
        verdict = ratchet.judge(kept.head(self._db, device), evidence.spent, place, issuer)
        if bound and (verdict.alarm or kept.quarantined(self._db, device)):
            return self._vouched(evidence, verdict, issuer, now_utc_s)
        if verdict.alarm:
            suspect(self._db, device, CLONE, verdict.why, now_utc_s)
        if kept.quarantined(self._db, device) is not None:
            return None
        if verdict.outcome in (Outcome.NEXT, Outcome.ADOPTED):
            kept.save(self._db, device, evidence.spent, self._secret_id, now_utc_s)
        if verdict.outcome is Outcome.ADOPTED:
            self._tell(device, "state_adopted", Severity.MEDIUM, verdict.why, now_utc_s)
        return verdict.answer

    def _vouched(
        self, evidence: Evidence, verdict: Judgement, issuer: Issuer, now_utc_s: float
    ) -> Issued:
        """A key that exists once shows another state: its own, restored."""
        device = evidence.device
        if verdict.alarm:
            self._tell(device, "state_restored", Severity.HIGH, verdict.why, now_utc_s)
        why = f"evidence of grade {evidence.grade} vouches for it"
        kept.lift_quarantine(self._db, device, why, now_utc_s)
        kept.forget(self._db, device)
        kept.save(self._db, device, evidence.spent, self._secret_id, now_utc_s)
        return issuer.after(evidence.spent)

    def _tell(self, device: str, kind: str, severity: Severity, why: str, now_utc_s: float) -> None:
        records.add_finding(self._db, device, kind, severity, why, now_utc_s)
