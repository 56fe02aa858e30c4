"""The fifteen acceptance tests of the data plane (issue 6): which tests answer to which number.

A test says its number in its name, test_aNN_; ``pytest -k a09_`` runs a number by itself, and
``--runs 100`` gives those in REPEATED their full size. Below is what each number asks for and where
its tests lie; a number that loses one of its files, its negative control or its size is red here.
That they are not skipped and not fewer is the ledger's matter. Figures are tests/bench's: of number
13 only the guard of imports is a test, the rest are rows (bench/targets.py, footprint.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.rules.planting import ROOT

NUMBERS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("power cut: images of a disk", ("system/test_powercut.py",)),
    2: (
        "SIGKILL under load",
        ("system/test_killed.py", "system/test_powercut.py", "system/test_uplink.py"),
    ),
    3: ("a real broker at its worst", ("system/test_a03_broker.py", "system/test_uplink.py")),
    4: ("reconnecting together", ("link/test_reconnect.py",)),
    5: ("gpsd on the same log", ("system/test_a05_gpsd.py",)),
    6: ("Modbus, other people's slaves", ("system/test_a06_modbus.py",)),
    7: ("hot-plug", ("system/test_a07_hotplug.py",)),
    8: ("32 ports and flipped bits", ("system/test_a08_flips.py",)),
    9: (
        "full, read-only and erring disks",
        ("system/test_full_disk.py", "system/test_io_errors.py", "system/test_memory_mode.py"),
    ),
    10: ("damage", ("cli/test_spool.py", "record/test_damage.py", "record/test_spool.py")),
    11: ("the bound, offline", ("system/test_a11_bound.py",)),
    12: ("clocks", ("system/test_a12_clock.py", "system/test_no_clock.py")),
    13: ("what link has loaded", ("daemon/test_lean.py",)),
    14: ("write amplification", ("system/test_a14_wear.py",)),
    15: ("soak", ("soak/test_soak.py", "system/test_soak.py")),
}

CONTROLS: dict[int, tuple[str, ...]] = {
    1: ("a01_the_harness_sees_what_synchronous_normal_loses",),
    2: ("a02_the_harness_sees_a_spool_that_lost_its_newest_segment",),
    4: ("a04_the_measure_sees_a_wave",),
    10: ("a10_without_the_checksum_altered_records_are_given_out",),
    11: (
        "a11_the_harness_sees_a_spool_without_a_bound",
        "a11_the_harness_sees_a_gap_record_that_says_another_number",
    ),
    14: (
        "a14_the_harness_sees_commits_that_are_too_small",
        "a14_the_harness_sees_an_fsync_too_many",
    ),
}
"""Where the control is a test of its own; 12 and 15 have theirs inside."""

REPEATED = frozenset({1, 2, 10, 11, 14})
"""At least one test of the number takes ``runs``."""

NAME = re.compile(r"test_(a(\d\d)_\w+)")


@dataclass(frozen=True, slots=True)
class Named:
    """One test that says a number."""

    number: int
    name: str
    file: str
    repeats: bool


def named() -> list[Named]:
    """All of them, as the sources say."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef) and (said := NAME.fullmatch(node.name)):
                file = path.relative_to(ROOT / "tests").as_posix()
                repeats = "runs" in [argument.arg for argument in node.args.args]
                found.append(Named(int(said[2]), said[1], file, repeats))
    return found


def faults(tests: Iterable[Named]) -> list[str]:
    """What is missing, and what no number asks for."""
    tests = list(tests)
    found = [f"{one.name}: there is no number {one.number}" for one in tests
             if one.number not in NUMBERS]  # fmt: skip
    for number, (_, files) in NUMBERS.items():
        its = [one for one in tests if one.number == number]
        have = {one.file for one in its}
        found += [f"{number}: no test in {file}" for file in files if file not in have]
        found += [f"{number}: {file} is not in the map" for file in sorted(have - set(files))]
        names = {one.name for one in its}
        controls = CONTROLS.get(number, ())
        found += [f"{number}: no control {name}" for name in controls if name not in names]
        if number in REPEATED and not any(one.repeats for one in its):
            found.append(f"{number}: nothing takes --runs")
    return found


def test_every_number_of_the_fifteen_has_its_tests() -> None:
    assert sorted(NUMBERS) == list(range(1, 16))
    assert faults(named()) == []


def test_a_number_that_loses_a_file_a_control_or_its_size_is_seen() -> None:
    tests = named()
    for number, (_, files) in NUMBERS.items():
        for file in files:
            left = [t for t in tests if (t.number, t.file) != (number, file)]
            assert f"{number}: no test in {file}" in faults(left)
        for name in CONTROLS.get(number, ()):
            assert faults([t for t in tests if t.name != name]) == [f"{number}: no control {name}"]
    for number in REPEATED:
        once = [t for t in tests if t.number != number or not t.repeats]
        assert f"{number}: nothing takes --runs" in faults(once)
    strangers = [Named(16, "a16_x", "system/test_x.py", False), Named(5, "a05_x", "x.py", False)]
    assert faults([*tests, *strangers]) == [
        "a16_x: there is no number 16", "5: x.py is not in the map",
    ]  # fmt: skip
