"""Storms: a beginning, an end with exact totals, and nothing lost between periods."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.watch.storms import PERIOD_S, QUIET_S, Storms
from edgewarden.wire.facts import OCSF, Event


def totals(events: list[Event]) -> tuple[int, int, int]:
    out = [0, 0, 0]
    for event in events:
        holder = cast("dict[str, int]", event.detail.get("totals", event.detail))
        for i, name in enumerate(("forks", "execs", "exits")):
            out[i] += holder.get(name, 0)
    return out[0], out[1], out[2]


def test_a_storm_is_two_records_and_the_second_has_the_kernels_totals() -> None:
    storms = Storms(per_s=1000, forks_ever=iter([7, 190_007]).__next__)
    events: list[Event] = []
    for tenth in range(100):
        events += storms.take(tenth * 10**8, 1800, 1700, 1790)
        events += storms.due(tenth * 10**8)
    assert [e.code for e in events if e.code] == ["EW-PROC-010"]
    now_ns = int((10 + QUIET_S) * 1e9)
    events += storms.due(now_ns)
    over = events[-1]
    assert (over.code, over.activity_id) == ("EW-PROC-010", 3)
    assert over.detail["by_kernel"] == 190_000
    assert totals(events) == (180_000, 170_000, 179_000)


def test_ordinary_days_are_one_bulk_event_a_period() -> None:
    storms = Storms(per_s=1000)
    assert list(storms.due(0)) == []
    for second in range(int(PERIOD_S)):
        assert list(storms.take(second * 10**9, 3, 2, 1)) == []
    [event] = storms.due(int(PERIOD_S * 1e9))
    assert event.class_uid is OCSF.PROCESS_ACTIVITY
    assert totals([event]) == (180, 120, 60)
    assert list(storms.due(int(1e12))) == []


STEPS = st.lists(st.tuples(*[st.integers(0, 5000)] * 3, st.floats(0.05, 70)), max_size=60)


@given(STEPS)
def test_whatever_happens_the_totals_add_up(steps: list[tuple[int, int, int, float]]) -> None:
    storms, at_s, events = Storms(per_s=1000), 0.0, []
    for forks, execs, exits, after_s in steps:
        at_s += after_s
        events += storms.take(int(at_s * 1e9), forks, execs, exits)
        events += storms.due(int(at_s * 1e9))
    events += storms.due(int(at_s * 1e9), all_now=True)
    columns = [*zip(*[s[:3] for s in steps], strict=True)] or [(), (), ()]
    assert totals(events) == tuple(map(sum, columns))
