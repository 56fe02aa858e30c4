"""Appraisal: every facet, every tier, and the order of the two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.appraise.appraisal import (
    Appraisal,
    Hardware,
    IssuedNonce,
    Known,
    References,
    admit,
    appraise,
    overall,
)
from edgewarden.appraise.quotes import Mark, Vouched
from edgewarden.appraise.values import firmware_digest, version_key
from edgewarden.errors import WireRefusal
from edgewarden.wire.evidence import FACETS, Evidence, Tier
from edgewarden.wire.quoted import TpmKeys
from edgewarden.wire.record import RecordClass

A, N, W, C = Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED
BOOT, CODE, SETTINGS, POLICY, CMDLINE, PROGRAMS = (bytes([n]) * 32 for n in range(1, 7))
PCRS = {n: bytes([n]) * 32 for n in range(11)}
VOUCHED = Vouched(Mark(1, 1, BOOT[:16]), TpmKeys(b"", b"", b"", b""), PCRS)
NOW = 1_900_000_000
REQUIRED = ("identity", "freshness", "executables")

EVIDENCE = Evidence(
    tenant="main",
    device="gw-demo",
    nonce=bytes(32),
    issued_utc_s=NOW,
    uptime_s=5,
    boot_id=BOOT[:16],
    version="0.1.0",
    report_key=b"key",
    grade="G2",
    measurements={
        "code": CODE, "settings": SETTINGS, "policy": POLICY, "cmdline": CMDLINE,
        "programs": PROGRAMS, "ima": b"log", "ima_pcr": PCRS[10],
    },
    bytecode="match",
    heads={RecordClass.ALARM: (4, b"h" * 32)},
    exec_tier="T2",
    exec_mode="enforce",
    clock_state="ntp",
    uncertainty_ms=500,
    boot={"secure_boot": "on", "ima": "tpm"},
)  # fmt: skip
KNOWN = Known(
    grade="G2",
    revoked=False,
    key_boot=BOOT[:16],
    asked_utc_s=NOW - 1,
    now_utc_s=NOW + 1,
    hardware=Hardware(VOUCHED),
    heads={RecordClass.ALARM: 4},
    hashes={RecordClass.ALARM: b"h" * 32},
)
REFERENCES = References(
    *(frozenset({d}) for d in (CODE, SETTINGS, POLICY, CMDLINE, PROGRAMS, firmware_digest(PCRS)))
)


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
    assert (verdict.overall, verdict.grade, dict(verdict.reasons)) == (A, "G2", {})


CASES = {
    "revoked": ({"known": replace(KNOWN, revoked=True)}, "identity", C),
    "claims a higher grade": ({"evidence": replace(EVIDENCE, grade="G3")}, "identity", C),
    "claims a lower grade": ({"evidence": replace(EVIDENCE, grade="G0")}, "identity", C),
    "no quote of the enrolled TPM": ({"known": replace(KNOWN, hardware=None)}, "hardware", C),
    "a quote that does not hold": (
        {"known": replace(KNOWN, hardware=Hardware(None, "tls_key: another"))}, "hardware", C,
    ),
    "a quote by keys not known here": (
        {"known": replace(KNOWN, hardware=Hardware(None))}, "hardware", N,
    ),
    "an hour behind, says ntp": (
        {"evidence": replace(EVIDENCE, issued_utc_s=NOW - 3600)}, "clock", C,
    ),
    "an hour ahead, says ntp": (
        {"evidence": replace(EVIDENCE, issued_utc_s=NOW + 3600)}, "clock", C,
    ),
    "an hour off and says so": (
        {"evidence": replace(EVIDENCE, issued_utc_s=NOW + 3600, uncertainty_ms=4_000_000)},
        "clock", A,
    ),
    "1970, and says that it may be off by anything": (
        {"evidence": replace(EVIDENCE, issued_utc_s=9, uncertainty_ms=2**64 - 1)}, "clock", C,
    ),
    "three hours off and says so": (
        {"evidence": replace(EVIDENCE, issued_utc_s=NOW - 10_800, uncertainty_ms=10_801_000)},
        "clock", C,
    ),
    "right, and says that it may be off by anything": (
        {"evidence": replace(EVIDENCE, uncertainty_ms=2**64 - 1)}, "clock", A,
    ),
    "1970, unsynchronised": (
        {"evidence": replace(EVIDENCE, issued_utc_s=9, clock_state="unsynced")}, "clock", W,
    ),
    "nothing vouches for its clock": (
        {"evidence": replace(EVIDENCE, uncertainty_ms=None)}, "clock", W,
    ),
    "a version below the least": (
        {"references": replace(REFERENCES, least_version="0.2")}, "executables", C,
    ),
    "the least version": (
        {"references": replace(REFERENCES, least_version="0.1.0")}, "executables", A,
    ),
    "code of a set not in force": (
        {"references": replace(REFERENCES, code=frozenset({POLICY}), outdated={CODE: "late"})},
        "executables", W,
    ),
    "only sets not in force": (
        {"references": replace(REFERENCES, code=frozenset(), outdated={CODE: "late"})},
        "executables", W,
    ),
    "in force in one set, not in another": (
        {"references": replace(REFERENCES, outdated={CODE: "late"})}, "executables", A,
    ),
    "only a retired set": (
        {"references": replace(REFERENCES, code=frozenset(), retired=frozenset({CODE}))},
        "executables", C,
    ),
    "PCR values of a set that is late": (
        {"references": replace(REFERENCES, pcrs=frozenset({CODE}),
                               outdated=dict.fromkeys(REFERENCES.pcrs, "late"))}, "boot", W,
    ),
    "PCR values of a set that is late, and no other": (
        {"references": replace(REFERENCES, pcrs=frozenset(), pcrs_ended=True,
                               outdated=dict.fromkeys(REFERENCES.pcrs, "late"))}, "boot", W,
    ),
    "PCR values of a set that is retired, and no other": (
        {"references": replace(REFERENCES, pcrs=frozenset(), pcrs_ended=True,
                               retired=REFERENCES.pcrs)}, "boot", C,
    ),
    "other PCR values than those of a set that is late": (
        {"references": replace(REFERENCES, pcrs=frozenset(), pcrs_ended=True,
                               outdated={CODE: "late"}, code=frozenset({CODE}))}, "boot", N,
    ),
    "other programs": (
        {"references": replace(REFERENCES, programs=frozenset({CODE}))}, "programs", C,
    ),
    "no programs reference": (
        {"references": replace(REFERENCES, programs=frozenset())}, "programs", N,
    ),
    "other PCR values": ({"references": replace(REFERENCES, pcrs=frozenset({CODE}))}, "boot", C),
    "no PCR reference": ({"references": replace(REFERENCES, pcrs=frozenset())}, "boot", A),
    "IMA without a TPM": (
        {"evidence": replace(EVIDENCE, boot={"secure_boot": "on", "ima": "bypass"})}, "ima", N,
    ),
    "no IMA": (
        {"evidence": replace(EVIDENCE, boot={"secure_boot": "on", "ima": "absent"})}, "ima", N,
    ),
    "an IMA log that does not add up": (
        {"known": replace(KNOWN, hardware=Hardware(replace(
            VOUCHED, pcrs={**PCRS, 10: b"x" * 32})))}, "ima", W,
    ),
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
    also = {"ima", "boot"} if facet == "hardware" else set()
    assert all(verdict.facets[k] is N for k in also), "what a quote would have said is not known"
    assert {k: v for k, v in verdict.facets.items() if k not in {facet, *also}} == {
        k: A for k in FACETS if k not in {facet, *also}
    }
    assert (facet in verdict.reasons) is (tier is not A)
    assert verdict.overall is (tier if facet in {*REQUIRED, "hardware"} else A)


def test_devices_behind_are_a_facet_where_evidence_speaks_of_them() -> None:
    verdict = judged(known=replace(KNOWN, behind=(C, "press-1: in quarantine")))
    assert (verdict.facets["devices"], verdict.overall) == (C, A)
    assert verdict.reasons == {"devices": "press-1: in quarantine"}
    required = (*REQUIRED, "devices")
    behind = replace(KNOWN, behind=(W, "x"))
    assert appraise(EVIDENCE, behind, REFERENCES, required).overall is W
    assert appraise(EVIDENCE, KNOWN, REFERENCES, required).overall is A


def test_moved_pcr_values_are_asked_for() -> None:
    verdict = judged(known=replace(KNOWN, hardware=Hardware(replace(VOUCHED, pcrs=None))))
    assert (verdict.facets["boot"], verdict.facets["ima"]) == (W, N)
    assert verdict.overall is A


def test_without_a_tpm_pcr_references_ask_for_nothing() -> None:
    """A set for every gateway, and boards without a TPM among them."""
    verdict = judged(replace(EVIDENCE, grade="G0"), replace(KNOWN, grade="G0", hardware=None))
    assert verdict.facets["boot"] is A


def test_of_command_line_and_pcr_values_the_worse_counts() -> None:
    unknown = replace(REFERENCES, cmdline=frozenset())
    assert judged(references=unknown).facets["boot"] is N
    late = dict.fromkeys(REFERENCES.pcrs, "late")
    verdict = judged(references=replace(unknown, pcrs=frozenset({CODE}), outdated=late))
    assert (verdict.facets["boot"], verdict.reasons["boot"]) == (N, "no reference")


def test_a_command_line_that_is_wrong_stays_wrong() -> None:
    verdict = judged(references=replace(REFERENCES, cmdline=frozenset({CODE})))
    assert verdict.facets["boot"] is C
    moved = replace(KNOWN, hardware=Hardware(replace(VOUCHED, pcrs=None)))
    verdict = judged(known=moved, references=replace(REFERENCES, cmdline=frozenset({CODE})))
    assert verdict.facets["boot"] is C


GRADES = {
    "a TPM": ({}, "G2"),
    "measured boot without a stated root": ({"pcrs": REFERENCES.pcrs}, "G2"),
    "a stated root and measured boot": ({"root_of_trust": True}, "G3"),
    "a stated root without PCR references": ({"root_of_trust": True, "pcrs": frozenset()}, "G2"),
    "a stated root and other PCR values": (
        {"root_of_trust": True, "pcrs": frozenset({CODE})}, "G2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADES)
def test_the_grade_that_is_stated(name: str) -> None:
    """A board without a root of trust for measurement is never called G3."""
    changes, grade = GRADES[name]
    assert judged(references=replace(REFERENCES, **changes)).grade == grade  # type: ignore[arg-type]


def test_a_grade_is_not_stated_on_a_word() -> None:
    without = judged(known=replace(KNOWN, hardware=Hardware(None, "quote_nonce: ...")))
    assert without.grade == "G0"
    assert judged(replace(EVIDENCE, grade="G0")).grade == "G0"
    assert judged(replace(EVIDENCE, grade="G3")).grade == "G2"


def test_below_g2_hardware_says_nothing_and_does_not_count() -> None:
    verdict = judged(replace(EVIDENCE, grade="G0"), replace(KNOWN, grade="G0", hardware=None))
    assert (verdict.facets["hardware"], verdict.overall, verdict.grade) == (N, A, "G0")


@pytest.mark.parametrize(
    ("low", "high"),
    [("1.9.3", "1.10.0"), ("1.0rc1", "1.0"), ("0.1.0", "0.1.1"), ("0.9", "1.0.0"), ("1", "1.0.1")],
)
def test_versions_are_ordered_by_their_numbers(low: str, high: str) -> None:
    assert version_key(low) < version_key(high)


def test_byte_code_without_a_reference_is_not_judged() -> None:
    verdict = judged(replace(EVIDENCE, bytecode="differs"), references=References())
    assert verdict.facets["executables"] is N


OVERALL = [([A, A], A), ([A, W], W), ([W, N], N), ([N, C, A], C), ([], N)]


@pytest.mark.parametrize(("tiers", "worst"), OVERALL)
def test_overall_is_the_worst(tiers: list[Tier], worst: Tier) -> None:
    assert overall(tiers) is worst


ISSUED = IssuedNonce("gw-demo", expires_utc_s=100.0, used=False)


def test_an_outstanding_nonce_lets_evidence_in() -> None:
    admit(EVIDENCE, ISSUED, 100.0)


NONCES = [
    (None, 50.0, "nonce_unknown"),
    (replace(ISSUED, device="other"), 50.0, "nonce_foreign"),
    (replace(ISSUED, used=True), 50.0, "nonce_used"),
    (ISSUED, 100.1, "nonce_expired"),
]


@pytest.mark.parametrize(("issued", "now", "name"), NONCES)
def test_any_other_nonce_refuses_it(issued: IssuedNonce | None, now: float, name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        admit(EVIDENCE, issued, now)
    assert refused.value.name == name
