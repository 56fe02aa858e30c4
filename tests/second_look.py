"""A second look at the one or two tests of a whole run that failed: always, or by chance? (ADR 54)

    python tests/second_look.py WORK FAILED     WORK: where tests/run.sh keeps its tallies

Of 21,000 tests on real brokers, clocks and kernels one fails by chance in many a run, because the
machine stood still at the wrong moment. Such a test is a defect, and is told as one; it does not
make the run red if

* no more than MOST tests of the run failed, each a test that came to an end, and nothing else is
  wrong with the run (a skip without a reason, a missing test, a file that cannot be read);
* it carries no number of an acceptance list (``test_a09_``, ``test_r3_``): what is promised holds
  each time;
* it is no property: its next run would try other examples, not the one that was found;
* alone, in a process of its own each time, it passes TIMES times out of TIMES.

Exit 0: all that failed wavered, and WORK/wavered says how many. Else 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 2
TIMES = 10
LONG_S = 600
"""One of the TIMES; none takes that long."""
VERBS = ("FAILED", "ERROR")
VENVS = {"floor": ".venv-floor", "peers": ".venv-peers"}

NUMBERED = re.compile(r"::test_[a-z]\d+_")
PASSED = re.compile(r"^1 passed(, \d+ warnings?)? in ", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """One line of a ledger's .red file (tests/ledger.py)."""

    ledger: str
    verb: str
    test: str
    """pytest's id; "" where the line is not about a single test."""
    why: str

    @classmethod
    def read(cls, ledger: str, line: str) -> Failure:
        verb, _, rest = line.partition(" ")
        test, _, why = rest.partition(" - ")
        return cls(ledger, verb, test if "::" in test and verb in VERBS else "", why)


def refusal(failures: Sequence[Failure], failed: int) -> str:
    """Why a run in which so many failed gets no second look; "" if it does."""
    if len(failures) != failed:
        return f"of {failed} that failed {len(failures)} have a name: a run did not come to its end"
    for failure in failures:
        if not failure.test:
            return f"{failure.ledger}: {failure.verb} is about more than a test"
        if NUMBERED.search(failure.test):
            return f"{failure.test} has a number: what is promised holds each time"
    if len({(f.ledger, f.test) for f in failures}) > MOST:
        return f"more than {MOST} tests failed"
    return ""


def once(failure: Failure, temporary: Path) -> bool:
    """Whether the test passes, alone, in a process of its own. A property does not."""
    python = ROOT / VENVS.get(failure.ledger, ".venv") / "bin" / "python"
    bounded = ["timeout", "--signal=INT", "--kill-after=60", str(LONG_S), str(python)]
    told = ["-q", "-p", "no:cacheprovider", f"--basetemp={temporary}", "-m", "not hypothesis"]
    done = subprocess.run(
        [*bounded, "-m", "pytest", *told, failure.test],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0 and PASSED.search(done.stdout) is not None


def look(failures: Sequence[Failure], passes: Callable[[Failure], bool]) -> int:
    """How many tests wavered; 0 if one of them failed again."""
    tests = {(failure.ledger, failure.test): failure for failure in failures}
    for failure in tests.values():
        print(f"{failure.ledger}: {failure.test}: {failure.why}", flush=True)
        for time in range(1, TIMES + 1):
            if not passes(failure):
                print(f"  not passed, alone, time {time} of {TIMES}")
                return 0
        print(f"  wavered: passed {TIMES} of {TIMES} times alone. It is a defect: mend it")
    return len(tests)


def named(work: Path) -> list[Failure]:
    """What failed, as far as the ledgers could say; a run that was ended could not."""
    failures = []
    for red in sorted(work.glob("*.tally.red")):
        ledger = red.name.partition(".")[0].partition("-")[0]
        failures += [Failure.read(ledger, line) for line in red.read_text().splitlines()]
    return failures


def main(work: Path, failed: int) -> int:
    print("\n=== a second look at what failed", flush=True)
    failures = named(work)
    why = refusal(failures, failed)
    if why:
        print(f"none: {why}")
        return 1
    wavered = look(failures, lambda failure: once(failure, work / "again"))
    if not wavered:
        return 1
    (work / "wavered").write_text(f"{wavered}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
