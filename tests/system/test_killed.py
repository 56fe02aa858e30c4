"""Acceptance 2 of the data plane: link is killed under load, again and again.

Everything it called durable reaches the verifier, whole and in one chain; what a board said between
two commits is the stated window (bulk_commit_s) and no more. ``--runs 100`` for the full size.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from tests.soak.ordeal import END_S, LINE_S, await_live, ordeal
from tests.stalls import Stalls
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "loop-mount", "mosquitto", "gcc")]

KILLS_A_RUN = 0.25
"""Of --runs: five kills by default, each with a start of two seconds."""
WINDOW_S = 1.0 + 1.5
"""bulk_commit_s of these settings, and a commit that is under way."""


def test_a02_nothing_durable_is_lost_by_kills_of_the_whole_daemon(
    runs: int, stalls: Stalls
) -> None:
    began = time.monotonic()
    kills = runs if runs >= 100 else max(3, int(runs * KILLS_A_RUN))
    with tempfile.TemporaryDirectory(prefix="ew-kill-") as folder, ordeal(Path(folder), 2) as day:
        away, lost_lines = 0.0, 0.0
        for _ in range(kills):
            day._wait(day.chance.uniform(0.1, 2.5))
            said = day.board.sent
            promised = day.kill_link()
            day.start_link()
            await_live(day.card)
            away += day.board.sent - said
            lost_lines += WINDOW_S / LINE_S
            now = day.card.status()["spool"]
            assert isinstance(now, dict)
            assert {c: now[c]["durable"] >= d for c, d in promised.items()} == dict.fromkeys(
                promised, True
            )
        day._wait(1.0)
        day.board.close()
        wait_until(day._all_there, END_S)
        seen = day.account()
        durable = {c: s["durable"] for c, s in day.card.status()["spool"].items()}  # type: ignore[attr-defined]
        wait_until(lambda: all(day.heads()[c] >= d for c, d in durable.items()), END_S)
    assert seen.twice == ()
    assert seen.holes == ()
    assert seen.gaps == 0
    # Link commits no line while the machine stands still; the board goes on as soon as it may.
    stood_still = stalls.lately_s(time.monotonic() - began) / LINE_S
    assert len(seen.missing) <= away + lost_lines + stood_still
    assert not seen.findings & {"fork", "clone", "older_state", "unreadable_facts"}


def test_a02_the_harness_sees_a_spool_that_lost_its_newest_segment() -> None:
    """The control: what was durable and not yet accepted is taken off the card."""
    with tempfile.TemporaryDirectory(prefix="ew-kill-") as folder, ordeal(Path(folder), 3) as day:
        day.fleet.stop_broker()
        day._wait(4.0)
        promised = day.kill_link()
        bulk = day.card.state / "spool" / "bulk"
        for file in sorted(bulk.glob("*.seg*"))[-3:]:
            file.unlink()
        day.fleet.start_broker()
        day.start_link()
        await_live(day.card)
        wait_until(lambda: day.heads()["bulk"] > promised["bulk"], END_S)
        seen = day.account()
    assert seen.gaps > 0 or seen.holes != ()
    assert len(seen.missing) > 10
