"""Appraisal: every facet, every tier, and the order of the two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.judge.appraisal import (
    Appraisal,
    IssuedNonce,
    Known,
    References,
    admit,
    appraise,
    overall,
)
from edgewarden.wire.evidence import FACETS, Evidence, Tier
from edgewarden.wire.record import RecordClass

A, N, W, C = Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED
BOOT, CODE, SETTINGS, POLICY, CMDLINE = (bytes([n]) * 32 for n in range(1, 6))
REQUIRED = ("identity", "freshness", "executables")

EVIDENCE = Evidence(
    tenant="main",
    device="gw-demo",
    nonce=bytes(32),
    issued_utc_s=1_900_000_000,
    uptime_s=5,
    boot_id=BOOT[:16],
    version="0.1.0",
    report_key=b"key",
    grade="G0",
    measurements={"code": CODE, "settings": SETTINGS, "policy": POLICY, "cmdline": CMDLINE},
    bytecode="match",
    heads={RecordClass.ALARM: (4, b"h" * 32)},
    exec_tier="T2",
    exec_mode="enforce",
    clock_state="ntp",
)
KNOWN = Known(
    grade="G0",
    revoked=False,
    key_boot=BOOT[:16],
    heads={RecordClass.ALARM: 4},
    hashes={RecordClass.ALARM: b"h" * 32},
)
REFERENCES = References(*(frozenset({d}) for d in (CODE, SETTINGS, POLICY, CMDLINE)))


def judged(
    evidence: Evidence = EVIDENCE, known: Known = KNOWN, references: References = REFERENCES
) -> Appraisal:
    return appraise(evidence, known, references, REQUIRED)


def without(name: str) -> Evidence:
    return replace(
        EVIDENCE, measurements={k: v for k, v in EVIDENCE.measurements.items() if k != name}
    )


def test_everything_right_is_affirming() -> None:
    verdict = judged()
    assert dict(verdict.facets) == dict.fromkeys(FACETS, A)
    assert (verdict.overall, verdict.grade, dict(verdict.reasons)) == (A, "G0", {})


CASES = {
    "revoked": ({"known": replace(KNOWN, revoked=True)}, "identity", C),
    "claims a higher grade": ({"evidence": replace(EVIDENCE, grade="G2")}, "identity", C),
    "report key not introduced": ({"known": replace(KNOWN, key_boot=None)}, "identity", W),
    "report key of another boot": ({"known": replace(KNOWN, key_boot=b"x" * 16)}, "identity", C),
    "head behind the stored one": (
        {"known": replace(KNOWN, heads={RecordClass.ALARM: 5})}, "freshness", C,
    ),
    "class forgotten": (
        {"known": replace(KNOWN, heads={RecordClass.ALARM: 4, RecordClass.BULK: 1})},
        "freshness", C,
    ),
    "another record at its head": (
        {"known": replace(KNOWN, hashes={RecordClass.ALARM: b"x" * 32})}, "freshness", C,
    ),
    "its head is not here yet": (
        {"known": replace(KNOWN, hashes={RecordClass.ALARM: None})}, "freshness", A,
    ),
    "records named before did not come": (
        {"known": replace(KNOWN, withheld={RecordClass.ALARM: (3, 4)})}, "freshness", W,
    ),
    "no code reference": (
        {"references": replace(REFERENCES, code=frozenset())}, "executables", N,
    ),
    "another code": (
        {"references": replace(REFERENCES, code=frozenset({POLICY}))}, "executables", C,
    ),
    "old and new release both right": (
        {"references": replace(REFERENCES, code=frozenset({POLICY, CODE}))}, "executables", A,
    ),
    "byte code differs": (
        {"evidence": replace(EVIDENCE, bytecode="differs: x.pyc")}, "executables", C,
    ),
    "code not measured": ({"evidence": without("code")}, "executables", W),
    "no settings reference": (
        {"references": replace(REFERENCES, settings=frozenset())}, "settings", N,
    ),
    "other settings": (
        {"references": replace(REFERENCES, settings=frozenset({CODE}))}, "settings", C,
    ),
    "settings not measured": ({"evidence": without("settings")}, "settings", W),
    "no policy reference": ({"references": replace(REFERENCES, policy=frozenset())}, "policy", N),
    "other policy": (
        {"references": replace(REFERENCES, policy=frozenset({CODE}))}, "policy", C,
    ),
    "no cmdline reference": ({"references": replace(REFERENCES, cmdline=frozenset())}, "boot", N),
    "other cmdline": (
        {"references": replace(REFERENCES, cmdline=frozenset({CODE}))}, "boot", C,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_facet(name: str) -> None:
    changes, facet, tier = CASES[name]
    verdict = judged(**changes)  # type: ignore[arg-type]
    assert verdict.facets[facet] is tier
    assert {k: v for k, v in verdict.facets.items() if k != facet} == {
        k: A for k in FACETS if k != facet
    }
    assert (facet in verdict.reasons) is (tier is not A)
    assert verdict.overall is (tier if facet in REQUIRED else A)


def test_byte_code_without_a_reference_is_not_judged() -> None:
    verdict = judged(replace(EVIDENCE, bytecode="differs"), references=References())
    assert verdict.facets["executables"] is N


@pytest.mark.parametrize(
    ("tiers", "worst"),
    [([A, A], A), ([A, W], W), ([W, N], N), ([N, C, A], C), ([], N)],
)
def test_overall_is_the_worst(tiers: list[Tier], worst: Tier) -> None:
    assert overall(tiers) is worst


ISSUED = IssuedNonce("gw-demo", expires_utc_s=100.0, used=False)


def test_an_outstanding_nonce_lets_evidence_in() -> None:
    admit(EVIDENCE, ISSUED, 100.0)


@pytest.mark.parametrize(
    ("issued", "now", "name"),
    [
        (None, 50.0, "nonce_unknown"),
        (replace(ISSUED, device="other"), 50.0, "nonce_foreign"),
        (replace(ISSUED, used=True), 50.0, "nonce_used"),
        (ISSUED, 100.1, "nonce_expired"),
    ],
)
def test_any_other_nonce_refuses_it(issued: IssuedNonce | None, now: float, name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        admit(EVIDENCE, issued, now)
    assert refused.value.name == name
