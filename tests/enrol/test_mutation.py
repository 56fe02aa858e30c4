"""No refusal of enrolment, renewal and the key's proof is decoration, on either side: take any one
out, and a test turns red.

tests/mutation_run.py does it, one process for each group, with the tests that stand beside the
code. A mutant that no test ever saw decide is a survivor, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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


@cache
def outcome(group: str) -> tuple[list[str], dict[str, str]]:
    """(tests that fail with nothing taken out, mutant -> the test that it turned red or "")."""
    modules, files = GROUPS[group]
    line = [sys.executable, "-m", "tests.mutation_run", ",".join(modules), *files]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return said["baseline"], said["mutants"]


@pytest.mark.parametrize(
    "group",
    # Files are given away by root alone.
    [pytest.param(g, marks=pytest.mark.needs("root")) if g == "the folder" else g for g in GROUPS],
)
def test_each_refusal_is_held_by_a_test(group: str) -> None:
    failed, mutants = outcome(group)
    assert failed == [], "with nothing taken out"
    assert len(mutants) >= AT_LEAST[group], sorted(mutants)
    survivors = sorted(name for name, killer in mutants.items() if not killer)
    assert survivors == [], "these can be taken out and no test turns red"
