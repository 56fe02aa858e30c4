"""Acceptance 15 of the data plane at small size; tests/soak has the long one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.soak.ordeal import ordeal, unexplained

SECONDS = 25.0


@pytest.mark.parametrize(
    ("gaps", "count"),
    [
        ([], 5),
        ([(4, 6)], 2),  # between the records of 3 and 7: what a segment took with it
        ([(4, 6), (8, 8)], 2),  # one behind a record that is there explains nothing
        ([(4, 6), (11, 12)], 0),
        ([(1, 2)], 5),
    ],
)
def test_a15_a_gap_explains_what_lies_in_it_and_nothing_else(
    gaps: list[tuple[int, int]], count: int
) -> None:
    places = {0: 3, 1: 3, 2: 3, 6: 7, 7: 7, 8: 10}
    assert unexplained(places, 11, gaps) == count


@pytest.mark.alone
@pytest.mark.needs("root", "loop-mount", "mosquitto", "gcc")
def test_a15_whatever_disturbs_it_nothing_is_lost_in_silence() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ew-soak-") as folder,
        ordeal(Path(folder), seed=15) as day,
    ):
        day.run(SECONDS)
        seen = day.account()
        day.forget_one_batch()
        less = day.account()
    assert seen.sent > 100
    assert seen.twice == ()
    assert seen.holes == ()
    assert not seen.in_silence(), (seen, day.told)
    assert not seen.findings & {"fork", "clone", "older_state"}
    assert max(s.threads for s in day.samples) <= 12
    assert len(less.missing) > len(seen.missing), "this account would see no loss"
