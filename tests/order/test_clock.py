"""What time is believed: 1970, ten years ahead, steps, a lying NTP server, and the fleet's word."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.order import clock
from edgewarden.order.clock import STEP_NS, Known, Look, believe, floor, raised, signed, step_ns
from edgewarden.wire.timing import Moment

S = 10**9
DAY = 86_400 * S
YEAR = 365 * DAY
BUILT = 1_795_000_000 * S
NOW = BUILT + 100 * DAY
KNOWN = Known(BUILT, NOW - DAY)
UNSET = Look(60 * S, 60 * S, None, "unsynced")
"""A minute after a boot of a board without a battery."""
AHEAD = replace(UNSET, wall_ns=NOW + 10 * YEAR)
NTP = Look(60 * S, NOW, 20, "ntp")
FLEET = Moment(50 * S, NOW - 10 * S, 40)


def test_in_1970_it_is_at_least_the_floor() -> None:
    found = believe(UNSET, KNOWN)
    assert (found.state, found.uncertainty_ms) == ("unsynced", None)
    assert NOW - DAY < found.wall_ns <= NOW - DAY + 60 * S


def test_the_floor_is_never_before_the_build() -> None:
    assert floor(Known(BUILT, 0), 0) == BUILT
    assert believe(UNSET, Known(BUILT, 0)).wall_ns >= BUILT


def test_an_unset_clock_that_is_later_is_taken_and_vouched_for_by_nobody() -> None:
    found = believe(AHEAD, KNOWN)
    assert (found.wall_ns, found.uncertainty_ms) == (AHEAD.wall_ns, None)


def test_what_the_system_vouches_for_is_believed() -> None:
    assert believe(NTP, KNOWN) == NTP
    early = replace(NTP, wall_ns=BUILT)  # also below the floor: somebody knows, and says so
    assert believe(early, KNOWN) == early


@pytest.mark.parametrize("look", [UNSET, AHEAD, replace(UNSET, wall_ns=0)])
def test_signed_time_counts_whatever_an_unset_clock_says(look: Look) -> None:
    found = believe(look, replace(KNOWN, moment=FLEET))
    assert (found.wall_ns, found.state) == (NOW, "signed")
    assert found.uncertainty_ms == 40 + 1  # and ten seconds' drift


@pytest.mark.parametrize(("apart_ms", "state"), [(0, "ntp"), (1060, "ntp"), (1062, "signed"),
                                                (-1062, "signed"), (10**10, "signed")])  # fmt: skip
def test_a_time_server_that_contradicts_the_fleet_is_not_believed(
    apart_ms: int, state: str
) -> None:
    look = replace(NTP, wall_ns=NOW + apart_ms * 10**6)
    assert believe(look, replace(KNOWN, moment=FLEET)).state == state


def test_ten_years_ahead_for_an_hour_leaves_nothing_behind() -> None:
    after = raised(KNOWN, replace(AHEAD, boot_ns=3600 * S))
    assert after.floor_ns < NOW
    assert believe(replace(UNSET, boot_ns=3601 * S), after).wall_ns < NOW


def test_the_floor_moves_with_the_time_that_passes_off_line() -> None:
    after = raised(KNOWN, replace(UNSET, boot_ns=10 * DAY))
    assert NOW + 8 * DAY < after.floor_ns <= NOW + 9 * DAY
    assert after.floor_ns <= KNOWN.floor_ns + 10 * DAY  # never faster than time


def test_what_a_time_server_raised_too_far_the_fleet_sets_back() -> None:
    high = raised(KNOWN, replace(NTP, wall_ns=NOW + 10 * YEAR))
    assert high.floor_ns > NOW + 9 * YEAR
    after = signed(high, FLEET)
    assert after.floor_ns == FLEET.utc_ns - FLEET.uncertainty_ms * 10**6
    assert signed(high, replace(FLEET, utc_ns=1)).floor_ns == BUILT  # but not before the build


@given(
    st.lists(
        st.tuples(
            st.integers(0, DAY), st.integers(0, 4 * YEAR * 10), st.sampled_from(["", "ntp", "gps"])
        ),
        max_size=20,
    )
)
def test_without_the_fleet_the_floor_only_rises_and_only_by_time_or_a_voucher(
    looks: list[tuple[int, int, str]],
) -> None:
    known, boot_ns, vouched = KNOWN, 0, 0
    for passed, wall_ns, state in looks:
        boot_ns += passed
        look = Look(boot_ns, wall_ns, 10 if state else None, state or "unsynced")
        before = floor(known, boot_ns)
        known = raised(known, look)
        vouched = max(vouched, wall_ns if state else 0)
        assert known.floor_ns >= before >= BUILT
        assert known.floor_ns <= max(KNOWN.floor_ns, vouched) + boot_ns


@pytest.mark.parametrize(
    ("by_ns", "stepped"),
    [(0, False), (STEP_NS, False), (STEP_NS + 1, True), (-STEP_NS - 1, True), (-YEAR, True),
     (10 * YEAR, True)],
)  # fmt: skip
def test_a_step_is_wall_against_boot_time(by_ns: int, stepped: bool) -> None:
    after = Look(NTP.boot_ns + 5 * S, NTP.wall_ns + 5 * S + by_ns, 20, "ntp")
    assert step_ns(NTP, after) == (by_ns if stepped else 0)


@pytest.mark.parametrize(
    ("look", "moment", "expected"),
    [
        (NTP, None, None), (NTP, FLEET, None), (UNSET, None, KNOWN.floor_ns + 60 * S - 6_000_000),
        (UNSET, FLEET, NOW), (AHEAD, FLEET, NOW), (AHEAD, None, None),
        (replace(NTP, wall_ns=NOW + YEAR), FLEET, NOW),
    ],
)  # fmt: skip
def test_certificates_are_held_to_the_believed_time(
    look: Look, moment: Moment | None, expected: int | None
) -> None:
    assert clock.verify_at_ns(look, replace(KNOWN, moment=moment)) == expected
