"""No refusal of enrolment, renewal and the key's proof is decoration, on either side: take any one
out, and a test turns red.

tests/mutation_run.py does it, one process for each group, with the tests that stand beside the
code. A mutant that no test ever saw decide is a survivor, too.
"""

from __future__ import annotations

import pytest

from tests.mutation_run import outcome

GROUPS = {
    "keys": (
        ("edgewarden.trust.selftest", "edgewarden.trust.ladder"),
        ("tests/trust/test_tpmkey.py", "tests/trust/test_ladder.py"),
    ),
    "the folder": (
        ("edgewarden.enrol.folder", "edgewarden.enrol.care"),
        ("tests/enrol/test_care.py", "tests/trust/test_identity.py"),
    ),
    "by token": (
        ("edgewarden.enrol.by_token", "edgewarden.enrol.service"),
        ("tests/enrol/test_by_token.py",),
    ),
    "by key": (
        ("edgewarden_fleet.desk.renewal", "edgewarden.enrol.by_key"),
        ("tests/enrol/test_by_key.py",),
    ),
    "TPMs": (
        ("edgewarden_fleet.desk.binding", "edgewarden_fleet.desk.enrolment"),
        ("tests/fleet/test_enrolment.py",),
    ),
}
AT_LEAST = {"keys": 8, "the folder": 9, "by token": 16, "by key": 18, "TPMs": 28}
"""Mutants of each group: fewer, and the machine does not see them any more."""
DISK = "a disk's fault under another name: nothing is refused by it"
NO_REFUSALS = {
    "_handshake:raise _no('the handshake does not end')": "OpenSSL ends one in fewer rounds",
    "pending:except OSError: raise damaged(f'{path.name}: {fault.strerror}') from f": DISK,
    "recorded_grade:except (OSError, ValueError): return ''": "what is not there says nothing",
    "locked:except OSError: return": "there is no identity: whoever needs one says so",
    "locked:make": DISK,
    "prove:except OSError: raise _not_stored(fault) from fault": DISK,
    "_prove:except OSError: raise _not_stored(fault) from fault": DISK,
    "_go_back:except OSError: raise _not_stored(fault) from fault": DISK,
    "_issued:child.issuer != parent.subject": "verify_directly_issued_by compares the names, too",
    "_enroll:except TrustFault: raise": "what goes on is refused by the fleet, which was told",
}
"""What can be taken out, and why nothing turns red."""


@pytest.mark.parametrize(
    "group",
    # Files are given away by root alone.
    [pytest.param(g, marks=pytest.mark.needs("root")) if g == "the folder" else g for g in GROUPS],
)
def test_each_refusal_is_held_by_a_test(group: str) -> None:
    failed, mutants = outcome(*GROUPS[group])
    assert failed == [], "with nothing taken out"
    assert len(mutants) >= AT_LEAST[group], sorted(mutants)
    survivors = sorted(name for name, killer in mutants.items() if not killer)
    expected = sorted(name for name in mutants if name in NO_REFUSALS)
    assert survivors == expected, "these can be taken out and no test turns red"
