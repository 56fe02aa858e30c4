"""Late evidence: chained in the place of a challenge, never fresher than a warning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from edgewarden.appraise.appraisal import MAX_LATE_DISTANCE, admit_late
from edgewarden.errors import WireRefusal
from edgewarden.wire.evidence import Tier
from edgewarden.wire.quoted import unasked_nonce
from edgewarden.wire.record import RecordClass
from tests.appraise.test_appraisal import BOOT, EVIDENCE, KNOWN, judged

AUDIT, BOOT_ID, HEAD, SEQ = RecordClass.AUDIT, BOOT[:16], b"a" * 32, 100
LATE = replace(EVIDENCE, heads={AUDIT: (99, HEAD)}, nonce=unasked_nonce(HEAD))


@dataclass(frozen=True)
class Place:
    """The record that carried it, and what is stored at the sequence it names."""

    boot_id: bytes = BOOT_ID
    seq: int = SEQ
    prev: bytes = HEAD
    anchor: bytes | None = None


def far(named: int, digest: bytes = HEAD):  # type: ignore[no-untyped-def]
    return replace(LATE, heads={AUDIT: (named, digest)}, nonce=unasked_nonce(digest))


GOOD = {
    "right before": (LATE, Place()),
    "some before": (far(90), Place(prev=b"p" * 32, anchor=HEAD)),
    "as far as it may be": (
        far(SEQ - MAX_LATE_DISTANCE), Place(prev=b"p" * 32, anchor=HEAD),
    ),
}  # fmt: skip
BAD = {
    "another boot's record": (LATE, Place(boot_id=b"x" * 16), "late_boot"),
    "another record before": (LATE, Place(prev=b"x" * 32), "late_anchor"),
    "a stored record does not heal the chain": (
        LATE, Place(prev=b"x" * 32, anchor=HEAD), "late_anchor",
    ),
    "another record stored": (far(90), Place(anchor=b"x" * 32), "late_anchor"),
    "nothing stored": (far(90), Place(anchor=None), "late_anchor"),
    "too far back": (far(SEQ - MAX_LATE_DISTANCE - 1), Place(anchor=HEAD), "late_anchor"),
    "itself": (far(SEQ), Place(anchor=HEAD), "late_anchor"),
    "the future": (far(SEQ + 1), Place(anchor=HEAD), "late_anchor"),
    "no audit head": (replace(LATE, heads={}), Place(), "late_anchor"),
    "a nonce of its choice": (replace(LATE, nonce=bytes(32)), Place(), "late_nonce"),
    "a challenge's nonce": (replace(LATE, nonce=HEAD), Place(), "late_nonce"),
}  # fmt: skip


def admit(evidence, place: Place) -> str:  # type: ignore[no-untyped-def]
    try:
        admit_late(evidence, place.boot_id, place.seq, place.prev, place.anchor)
    except WireRefusal as refusal:
        return refusal.name
    return ""


@pytest.mark.parametrize("name", GOOD)
def test_what_is_chained_is_let_in(name: str) -> None:
    assert admit(*GOOD[name]) == ""


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_is_refused_by_name(name: str) -> None:
    evidence, place, refusal = BAD[name]
    assert admit(evidence, place) == refusal


def test_all() -> None:
    """For the mutation test: both tables in one go."""
    assert [admit(*GOOD[name]) for name in GOOD] == [""] * len(GOOD)
    assert [admit(e, p) for e, p, _ in BAD.values()] == [refusal for _, _, refusal in BAD.values()]


def test_its_freshness_is_a_warning_that_states_the_age() -> None:
    verdict = judged(known=replace(KNOWN, late=True, age_s=5400.4))
    assert (verdict.facets["freshness"], verdict.overall) == (Tier.WARNING, Tier.WARNING)
    assert verdict.reasons["freshness"] == "made without a challenge, 5400 s old when it came"
    unknown = judged(known=replace(KNOWN, late=True))
    assert unknown.reasons["freshness"] == "made without a challenge, of unknown age"


def test_another_history_is_contraindicated_late_too() -> None:
    known = replace(KNOWN, late=True, hashes={RecordClass.ALARM: b"x" * 32})
    assert judged(known=known).facets["freshness"] is Tier.CONTRAINDICATED
