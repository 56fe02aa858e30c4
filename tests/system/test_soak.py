"""Acceptance 15 of the data plane at small size; tests/soak has the long one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.soak.ordeal import ordeal

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "loop-mount", "mosquitto", "gcc")]

SECONDS = 25.0


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
