"""The validator stays within its budget (docs/adr/0006-settings-validation.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUDGET_KIB = 5 * 1024

MEASURE = """
def private_kib():
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(row.split()[1]) for row in rollup if row.startswith("Private_"))

before = private_kib()
import sys
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
with open(sys.argv[1]) as file:
    settings = load_settings([SourceFile("walking.toml", file.read())])
assert settings.serial[1].modbus
print(private_kib() - before)
"""


def test_import_and_validation_stay_within_the_budget() -> None:
    good = ROOT / "tests" / "settings" / "good" / "walking.toml"
    used = [
        int(
            subprocess.run(
                [sys.executable, "-c", MEASURE, str(good)],
                env={"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"},
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout
        )
        for _ in range(3)
    ]  # fmt: skip
    # The first run may compile bytecode, which costs memory once.
    assert 1024 < min(used) <= BUDGET_KIB, used
