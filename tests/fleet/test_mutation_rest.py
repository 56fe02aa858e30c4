"""No refusal on the verifier's side is decoration, in the modules that no other table takes apart:
take any one out, and a test turns red.

tests/mutation_run.py does it, one process for each group, with the tests that stand beside the
code. What else is taken apart, and where: docs/attestation.md, below its table of attacks.
"""

from __future__ import annotations

import pytest

from tests.mutation_run import outcome

VERIFY, DESK = "edgewarden_fleet.verify", "edgewarden_fleet.desk"
GROUPS = {
    "TPMs": (
        (f"{VERIFY}.tpm", f"{DESK}.credential", f"{DESK}.binding"),
        ("tests/fleet/test_tpm.py", "tests/fleet/test_enrolment.py"),
    ),
    "memory and the past": (
        (f"{VERIFY}.memory", f"{VERIFY}.late", f"{VERIFY}.ratchet", f"{VERIFY}.word"),
        (
            "tests/fleet/test_memory.py", "tests/fleet/test_late.py", "tests/fleet/test_word.py",
            "tests/fleet/test_continuity.py",
        ),
    ),
    "the pipeline's rest": (
        (
            f"{VERIFY}.pipeline:Verifier._go_on", f"{VERIFY}.pipeline:Verifier._note_gap",
            f"{VERIFY}.pipeline:_gap_note", f"{VERIFY}.pipeline:_no_memory",
            f"{VERIFY}.attest:Appraiser._completed", f"{VERIFY}.attest:Appraiser._check_newer",
            f"{VERIFY}.attest:Appraiser.challenge_soon", f"{VERIFY}.appraising",
        ),
        (
            "tests/fleet/test_pipeline.py",
            "--deselect=tests/fleet/test_pipeline.py::"
            "test_no_network_makes_an_honest_gateway_fork_and_no_alteration_passes",
            "--deselect=tests/fleet/test_pipeline.py::"
            "test_a_record_costs_the_same_however_many_gaps_stand_open",
            "tests/fleet/test_continuity.py", "tests/fleet/test_attest.py",
            "tests/fleet/test_hardware.py",
            "tests/fleet/test_memory.py", "tests/fleet/test_attacks.py",
        ),
    ),
    "files": (
        (
            f"{VERIFY}.offline", f"{VERIFY}.bundle", f"{VERIFY}.chain:check_chain",
            f"{VERIFY}.chain:check_dates", f"{VERIFY}.chain:check_issuing",
        ),
        ("tests/fleet/test_offline.py", "tests/fleet/test_bundle.py"),
    ),
    "order": (
        (
            "edgewarden.judge.continuity", "edgewarden.judge.report_keys",
            "edgewarden.judge.renewal", "edgewarden.order.ratchet", "edgewarden.order.clock",
            "edgewarden.order.anchors",
        ),
        (
            "tests/judge/test_continuity.py", "tests/judge/test_report_keys.py",
            "tests/judge/test_renewal.py", "tests/order/test_ratchet.py",
            "tests/order/test_clock.py", "tests/order/test_anchors.py",
        ),
    ),
    "words and keys": (
        (
            "edgewarden.wire.ratchet", "edgewarden.wire.renewal", "edgewarden.wire.acknowledgement",
            "edgewarden.wire.bodies", "edgewarden.trust.keys",
            "edgewarden.trust.signed_time:believe",
            "edgewarden.kernel.p256:Private.open", "edgewarden.kernel.p256:Public.verify",
            "edgewarden.kernel.p256:Public.__init__", "edgewarden.kernel.p256:numbers",
            "edgewarden.trust.pyca:Public.verify", "edgewarden.trust.pyca:Private.__init__",
            "edgewarden.trust.pyca:point_of_pem",
        ),
        (
            "tests/wire/test_renewal.py", "tests/wire/test_acknowledgement.py",
            "tests/trust/test_keys.py",
            "tests/wire/test_ratchet.py",
            "tests/trust/test_signed_time.py::test_a_signed_answer_is_the_middle_of_its_way",
            "tests/trust/test_signed_time.py::test_anything_else_is_refused_by_name",
            "tests/trust/test_signed_time.py::test_a_signature_under_the_right_kid_must_hold",
        ),
    ),
    "what is registered": (
        (
            "edgewarden_fleet.store.lineage", "edgewarden_fleet.store.registry",
            "edgewarden_fleet.ca.certificates", "edgewarden_fleet.ca.issuers",
        ),
        (
            "tests/fleet/test_tokens.py", "tests/fleet/test_certificates.py",
            "tests/fleet/test_issuers.py", "tests/fleet/test_enrolment.py",
            "tests/fleet/test_replaced.py",
        ),
    ),
}  # fmt: skip
AT_LEAST = {
    "TPMs": 36, "memory and the past": 34, "the pipeline's rest": 38, "files": 50, "order": 50,
    "words and keys": 120, "what is registered": 30,
}  # fmt: skip
"""Mutants of each group: fewer, and the machine does not see them any more."""
HELD_BEFORE: dict[str, str] = {
    "LateEvidence._facts:registered is None": "identity_of has found it, or refused",
    "MemoryChains.end:or not isinstance(kid, bytes)": "it is not the signer's, then",
    "Private.open:or made.pkcs8() != der": "the pairwise check has said so",
    "unseal:or not isinstance(body, dict)": "a list's second place names no tenant",
    "_issued:child.issuer != parent.subject": "verify_directly_issued_by compares the names, too",
    "_list:or len(value) != length": "whoever unpacks them counts them, too",
    "_list:or not isinstance(value, list)": "nothing else holds byte strings",
    "_list:not isinstance(value, list) or len(value) != length": "both",
    "_read_enrolled:not isinstance(pcrs, dict)": "what has no items is refused by the same name",
    "FileSigner.from_pem:len(der) == p256.PKCS8_BYTES": "which of two, not what",
    "board_of:known is not None": "the count of those replaced says the same of one that stands",
    "library:_PACKAGE not in sys.modules and p256.library() is not None": "which of two, not what",
}
"""What can be taken out and changes nothing, with what decided the same before it."""


@pytest.mark.parametrize("group", GROUPS)
def test_each_refusal_is_held_by_a_test(group: str) -> None:
    failed, mutants = outcome(*GROUPS[group])
    assert failed == [], "with nothing taken out"
    assert len(mutants) >= AT_LEAST[group], sorted(mutants)
    survivors = {name for name, killer in mutants.items() if not killer}
    assert survivors == {name for name in mutants if name in HELD_BEFORE}
