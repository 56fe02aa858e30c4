"""Counts a tier's tests and holds its skips to a list, so that a test cannot go missing in silence.

Active with ``--tier NAME`` (tests/run.sh passes it). Then:

* every skip must read ``missing: FEATURE`` and stand in tests/allowed-skips.txt, one
  ``TEST-ID-PATTERN FEATURE`` a line;
* the tier must run at least as many tests as tests/test-count.txt records for it;
* ``--tally FILE`` receives ``passed failed skipped`` for tests/run.sh to add up, and FILE with
  ``.red`` behind it a line about each failure, at once: a run that is ended has no summary;
* ``--part alone`` runs what is marked ``alone``, ``--part beside`` everything else: between them
  each test of the tier once. Its count is then held by tests/run.sh, over the sum of both.

A rule broken here fails the run even when every test passed.
"""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISSING = "missing: "
PARTS = ("alone", "beside")
WHY_CHARACTERS = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", default=None, help="hold skips and count to the lists of this tier")
    parser.addoption("--part", choices=PARTS, default=None, help="one of the two parts of a tier")
    parser.addoption("--tally", type=Path, default=None, help="write 'passed failed skipped' here")


def pytest_configure(config: pytest.Config) -> None:
    tier = config.getoption("--tier")
    if tier is not None:
        count = recorded_count(HERE / "test-count.txt", tier)
        at_least = count if config.getoption("--part") is None else 1
        tally = config.getoption("--tally")
        red = tally.with_name(f"{tally.name}.red") if tally is not None else None
        config.pluginmanager.register(Ledger(tier, at_least, allowed_skips(), red), "ledger")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--part")
    if part is not None:
        kept = [item for item in items if part_of(item) == part]
        config.hook.pytest_deselected(items=[item for item in items if part_of(item) != part])
        items[:] = kept


def part_of(item: pytest.Item) -> str:
    """Which part runs this test."""
    return PARTS[0] if item.get_closest_marker("alone") else PARTS[1]


def allowed_skips(path: Path = HERE / "allowed-skips.txt") -> list[tuple[str, str]]:
    """(test id pattern, feature) of every line that is not a comment."""
    rows = []
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            pattern, feature = text.split()
            rows.append((pattern, feature))
    return rows


def recorded_count(path: Path, tier: str) -> int:
    """The least number of tests this tier must run.

    Raises:
        pytest.UsageError: the tier has no line.
    """
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words and words[0] == tier:
            return int(words[1])
    raise pytest.UsageError(f"{path.name} has no line for the tier {tier}")


def why(report: pytest.CollectReport | pytest.TestReport) -> str:
    """One line of the reason, as pytest's own short summary has it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr).strip()
    line = text.splitlines()[0 if crash is not None else -1] if text else "no reason"
    return line[:WHY_CHARACTERS]


class Ledger:
    """Outcome of each test, and what is wrong with the run as a whole."""

    def __init__(
        self, tier: str, at_least: int, allowed: list[tuple[str, str]], red: Path | None = None
    ) -> None:
        self.tier = tier
        self.at_least = at_least
        self.allowed = allowed
        self.outcomes: Counter[str] = Counter()
        self.skips: list[tuple[str, str]] = []
        self.collection_failed = 0
        self._red = red

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collection_failed += 1
            self._tell("ERROR", report)
        elif report.skipped:
            self._skip(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._skip(report)
        elif report.failed:
            self.outcomes["failed"] += 1
            self._tell("FAILED" if report.when == "call" else "ERROR", report)
        elif report.when == "call":
            self.outcomes["passed"] += 1

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._red is not None:
            self._red.with_suffix(".now").write_text(f"{nodeid}\n")

    def _tell(self, verb: str, report: pytest.CollectReport | pytest.TestReport) -> None:
        self._note(f"{verb} {report.nodeid} - {why(report)}")

    def _note(self, line: str) -> None:
        if self._red is not None:
            with self._red.open("a") as red:
                red.write(f"{line}\n")

    def _skip(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        self.outcomes["skipped"] += 1
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self.skips.append((report.nodeid, reason.removeprefix("Skipped: ")))

    def faults(self) -> list[str]:
        """Everything wrong with the run that no single test could say."""
        found = []
        for nodeid, reason in self.skips:
            if not reason.startswith(MISSING):
                found.append(f"skipped without naming a missing feature: {nodeid}: {reason}")
            elif not self._is_allowed(nodeid, reason.removeprefix(MISSING)):
                found.append(f"skip not in tests/allowed-skips.txt: {nodeid}: {reason}")
        ran = sum(self.outcomes.values())
        if ran < self.at_least:
            found.append(
                f"tier {self.tier}: {ran} tests, tests/test-count.txt records {self.at_least}"
            )
        return found

    def _is_allowed(self, nodeid: str, feature: str) -> bool:
        return any(fnmatchcase(nodeid, p) and feature == f for p, f in self.allowed)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        faults = self.faults()
        tally = session.config.getoption("--tally")
        if tally is not None:
            failed = self.outcomes["failed"] + self.collection_failed + len(faults)
            tally.write_text(f"{self.outcomes['passed']} {failed} {self.outcomes['skipped']}\n")
        for fault in faults:
            self._note(f"LEDGER {fault}")
        if faults and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid, reason in self.skips:
            terminalreporter.line(f"SKIPPED {nodeid} [{reason}]")
        for fault in self.faults():
            terminalreporter.line(f"LEDGER {fault}", red=True)
