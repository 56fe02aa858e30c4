"""Whether a red run only wavered: nothing that is promised, found or missing gets past it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import second_look
from tests.rules.planting import ROOT
from tests.second_look import TIMES, Failure, look, named, once, refusal


def failure(line: str, ledger: str = "unit") -> Failure:
    return Failure.read(ledger, line)


CHANCE = "FAILED tests/link/test_x.py::test_late[a-1] - TimeoutError: not true - within 60 s"
OTHER = "ERROR tests/link/test_y.py::TestOf::test_early - OSError: in use"


def test_a_line_of_the_ledger_is_read_as_it_was_written() -> None:
    read = failure(CHANCE)
    assert read.test == "tests/link/test_x.py::test_late[a-1]"
    assert read.why == "TimeoutError: not true - within 60 s"


@pytest.mark.parametrize(
    ("lines", "failed", "why"),
    [
        ([CHANCE], 1, ""),
        ([CHANCE, OTHER], 2, ""),
        ([CHANCE, CHANCE, OTHER], 3, ""),  # in the call and in its teardown
        ([CHANCE, OTHER, CHANCE.replace("late", "slow")], 3, "more than 2"),
        ([CHANCE], 2, "did not come to its end"),
        ([], 1, "did not come to its end"),
        (["LEDGER skip not in tests/allowed-skips.txt: tests/x.py::t: missing: y"], 1, "LEDGER"),
        (["LEDGER tier unit: 9 tests, tests/test-count.txt records 10"], 1, "more than a test"),
        (["ERROR tests/link/test_x.py - SyntaxError: invalid syntax"], 1, "more than a test"),
        (["FAILED tests/system/test_io_errors.py::test_a09_it_answers - x"], 1, "is promised"),
        (["FAILED tests/system/test_guard.py::test_r3_a_judgement[x] - x"], 1, "is promised"),
        (["FAILED tests/cli/test_x.py::TestOf::test_u3_none - x"], 1, "is promised"),
    ],
)
def test_who_gets_no_second_look(lines: list[str], failed: int, why: str) -> None:
    told = refusal([failure(line) for line in lines], failed)
    assert why in told
    assert bool(why) == bool(told)


def passing(results: dict[str, list[bool]]) -> Callable[[Failure], bool]:
    return lambda asked: results[asked.test].pop(0)


def test_all_of_the_times_must_pass(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = failure(CHANCE), failure(OTHER)
    assert look([one, two, one], passing({t.test: [True] * TIMES for t in (one, two)})) == 2
    assert capsys.readouterr().out.count("wavered") == 2
    last_red = [True] * (TIMES - 1) + [False]
    assert look([one, two], passing({one.test: [True] * TIMES, two.test: last_red})) == 0
    assert f"time {TIMES} of {TIMES}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def test_it(): pass", True),
        ("def test_it(): assert 0", False),
        ("import pytest\ndef test_it(): pytest.skip('not now')", False),
        ("import os\ndef test_it(): os._exit(0)", False),
        ("import atexit, os\natexit.register(os._exit, 3)\ndef test_it(): pass", False),
        ("def test_other(): pass", False),
        (
            "from hypothesis import given, strategies as s\n@given(s.none())\ndef test_it(x): pass",
            0,
        ),
        (
            "import pytest\n@pytest.fixture\ndef f():\n yield\n assert 0\ndef test_it(f): pass",
            False,
        ),
    ],
    ids=[
        "passes",
        "fails",
        "skips",
        "ends",
        "ends badly",
        "is gone",
        "property",
        "fails in its teardown",
    ],
)
def test_what_counts_as_passed(tmp_path: Path, code: str, passes: bool) -> None:
    (tmp_path / "test_it.py").write_text(f"{code}\n")
    asked = failure(f"FAILED {tmp_path}/test_it.py::test_it - x")
    assert once(asked, tmp_path / "again") == bool(passes)


def test_the_parts_of_a_tier_are_read_as_the_tier(tmp_path: Path) -> None:
    (tmp_path / "system-alone.tally.red").write_text(f"{CHANCE}\n")
    (tmp_path / "floor.tally.red").write_text(f"{OTHER}\n")
    (tmp_path / "floor.tally.now").write_text("tests/link/test_y.py::test_z\n")
    assert sorted((f.ledger, f.verb) for f in named(tmp_path)) == [
        ("floor", "ERROR"), ("system", "FAILED"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "outcome"),
    [("def test_it(): pass", "failed=0, 1 wavered"), ("def test_it(): assert 0", "failed=1")],
)
def test_the_run_is_green_with_what_wavered_and_says_so(
    tmp_path: Path, line: str, outcome: str
) -> None:
    (tmp_path / "test_it.py").write_text(f"{line}\n")
    (tmp_path / "unit.tally.red").write_text(f"FAILED {tmp_path}/test_it.py::test_it - x\n")
    text = (ROOT / "tests/run.sh").read_text()
    function = re.search(r"^second_look\(\) \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert function is not None
    calls = 'second_look\necho "failed=$failed$wavered"'
    script = f"set -eu\nwork=$1 failed=1 wavered=\n{function[0]}\n{calls}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == outcome
    assert text.index("\nsecond_look\n") < text.index("\nfinished=yes")
    assert second_look.MOST == 2
