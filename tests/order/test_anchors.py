"""Old records in real time: what anchors say of them."""

from __future__ import annotations

from edgewarden.order.anchors import Made, Placed, place
from edgewarden.wire.timing import Moment

S = 10**9
UTC = 1_800_000_000 * S
EARLY, LATE = Moment(100 * S, UTC, 40), Moment(10_000 * S, UTC + 9_900 * S, 5)


def test_a_record_of_an_unset_clock_is_placed_by_its_boots_anchor() -> None:
    made = Made(40 * S, 40 * S, None)
    assert place(made, [EARLY]) == Placed(UTC - 60 * S, 40 + 6, True)


def test_the_nearest_anchor_counts() -> None:
    assert place(Made(9_000 * S, 0, None), [EARLY, LATE]) == Placed(UTC + 8_900 * S, 105, True)
    assert place(Made(200 * S, 0, None), [EARLY, LATE]).utc_ns == UTC + 100 * S


def test_a_time_that_was_vouched_for_stands() -> None:
    assert place(Made(40 * S, 7, 20), [EARLY]) == Placed(7, 20, False)


def test_without_an_anchor_nothing_is_known() -> None:
    assert place(Made(40 * S, 7, None), []) == Placed(7, None, False)
