"""The ledger itself: a skip outside the list and a missing test turn a green run red."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import features, ledger
from tests.ledger import Ledger
from tests.rules.planting import ROOT, tool


def report(outcome: str, reason: str = "", when: str = "call") -> pytest.TestReport:
    longrepr = ("test_x.py", 1, f"Skipped: {reason}") if outcome == "skipped" else None
    return pytest.TestReport("tests/x.py::t", ("x", 1, "t"), {}, outcome, longrepr, when)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("missing: root", None),
        ("missing: nft", "not in tests/allowed-skips.txt"),
        ("too slow today", "without naming a missing feature"),
    ],
)
def test_a_skip_needs_a_missing_feature_and_a_line(reason: str, fault: str | None) -> None:
    book = Ledger("unit", 1, [("tests/x.py::*", "root")])
    book.pytest_runtest_logreport(report("skipped", reason, "setup"))
    assert [fault in found for found in book.faults()] == ([True] if fault else [])


def test_fewer_tests_than_recorded_is_a_fault() -> None:
    book = Ledger("unit", 2, [])
    book.pytest_runtest_logreport(report("passed"))
    assert book.faults() == ["tier unit: 1 tests, tests/test-count.txt records 2"]
    book.pytest_runtest_logreport(report("passed"))
    assert book.faults() == []


def test_every_tier_has_a_count() -> None:
    counts = {t: ledger.recorded_count(ledger.HERE / "test-count.txt", t) for t in TIERS}
    assert all(count > 0 for count in counts.values()), counts


TIERS = ("unit", "floor", "peers", "system", "boot")


NEED = re.compile(r"(?:mark\.needs|skip_missing)\(([^)]*)\)|pytest\.skip\(\"missing: ([\w-]+)\"\)")


def needs() -> set[tuple[str, str]]:
    """(file, feature) of everything a test says it needs."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path.parent.name == "rules" and path.name != "test_settled.py":
            continue  # these speak about needs
        name = path.relative_to(ROOT).as_posix()
        for listed, single in NEED.findall(path.read_text()):
            for feature in re.findall(r"\"([\w-]+)\"", listed) or [single]:
                found.add((name, feature))
    return found


def test_the_list_is_exactly_what_the_tests_need() -> None:
    listed = {(p.removesuffix("::*"), feature) for p, feature in ledger.allowed_skips()}
    assert listed - needs() == set(), "nobody needs these any more"
    assert needs() - listed == set(), "these would fail the run where the feature is missing"
    assert {feature for _, feature in listed} <= set(features.PROBES)


def test_an_unknown_tier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("unit 3  # comment\n")
    assert ledger.recorded_count(tmp_path / "c", "unit") == 3
    with pytest.raises(pytest.UsageError):
        ledger.recorded_count(tmp_path / "c", "system")


TWO_PARTS = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_quick(n): pass
@pytest.mark.alone
def test_measures(): pass
class TestOf:
    pytestmark = pytest.mark.alone
    def test_waits(self): pass
"""


def test_each_test_runs_in_exactly_one_part(tmp_path: Path) -> None:
    (tmp_path / "test_parts.py").write_text(TWO_PARTS)
    ran = {}
    for part in ledger.PARTS:
        tally = tmp_path / part
        line = ["-q", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-p", "tests.ledger"]
        told = ["--tier", "soak", "--part", part, "--tally", str(tally), str(tmp_path)]
        done = tool(ROOT, "pytest", *line, "-c", "/dev/null", *told)
        assert done.returncode == 0, done.stdout
        ran[part] = tally.read_text().split()
    assert ran == {"alone": ["2", "0", "0"], "beside": ["3", "0", "0"]}


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ((), 1),
        (("--runs", "5"), 1),
        (("--runs", "21"), 2),
        (("--minutes", "1440"), 1),
        (("--runs", "100"), 5),
    ],
)
def test_who_asks_for_more_repetitions_is_given_the_time(
    words: tuple[str, ...], times: int
) -> None:
    """A hundred power cuts took longer than what a hang is ended after, and were ended as one."""
    text = (ROOT / "tests/run.sh").read_text()
    head, rest = text.split("[ ${#tiers[@]} -gt 0 ]", 1)
    done = subprocess.run(
        ["bash", "-c", head + 'echo "$times"', "tests/run.sh", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout == f"{times}\n"
    assert rest.count("faulthandler_timeout=$((900 * times))") == 1
    assert rest.count("faulthandler_timeout=$((120 * times))") == 1


RED = """
def test_red(): assert 1 == 2, "the reason"
def test_ends(): __import__("os")._exit(9)
"""


@pytest.mark.parametrize("ends", [False, True], ids=["to its end", "ended"])
def test_what_failed_is_told_again_in_the_end(tmp_path: Path, ends: bool) -> None:
    """CI shows the last part of the output alone; a run that is ended tells nothing by itself."""
    (tmp_path / "test_red.py").write_text(RED if ends else RED.split("def test_ends")[0])
    line = ["-q", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-p", "tests.ledger"]
    told = ["--tier", "soak", "--tally", str(tmp_path / "floor.tally"), str(tmp_path)]
    tool(ROOT, "pytest", *line, "-c", "/dev/null", *told)
    text = (ROOT / "tests/run.sh").read_text()
    again = re.search(r"^again\(\) \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert again is not None
    script = f"set -euo pipefail\nwork=$1 failed=1\n{again[0]}\nagain"
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    red = "floor: FAILED test_red.py::test_red - AssertionError: the reason"
    at = ["floor: ended in test_red.py::test_ends"] if ends else []
    assert done.stdout.splitlines() == ["", "=== what failed", *at, red]
    close = text[text.index("close() {") : text.index("trap close EXIT")]
    assert close.index("\n    again\n") < close.index('rm -rf "$work"') < close.index("total: ")
