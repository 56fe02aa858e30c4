"""The table of attacks in docs/attestation.md is whole: each row has its control and its tests."""

from __future__ import annotations

import re

from tests.rules.planting import ROOT

ROWS = 26
PAGE = (ROOT / "docs" / "attestation.md").read_text()


def test_every_row_names_its_tests() -> None:
    """That the named tests exist is held by tests/rules/test_docs.py."""
    rows = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[1]) for row in rows] == list(range(1, ROWS + 1))
    for row in rows:
        assert len(row) == 6
        assert row[3].strip()
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row[4]), f"attack {row[1]} has no test"


def test_every_row_of_what_is_asked_names_its_tests() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| A\d+ \|", line)]
    assert [row[1].strip() for row in rows] == [f"A{n}" for n in range(1, 14)]
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row[3]), f"{row[1]} has no test"
