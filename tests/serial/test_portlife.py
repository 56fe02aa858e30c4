"""The port's table: complete, as drawn, and a backoff with bounds."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OurFault
from edgewarden.serial import portlife
from edgewarden.serial.portlife import (
    BACKOFF_CAP_S,
    BACKOFF_FIRST_S,
    TABLE,
    Backoff,
    Happening,
    PortState,
    step,
)
from tests.fakes.clock import FakeRandomness

CANNOT_HAPPEN = {
    (PortState.CLOSED, Happening.FRAME),
    (PortState.CLOSED, Happening.QUIET),
    (PortState.CLOSED, Happening.LOST),
    (PortState.REOPEN, Happening.FRAME),
    (PortState.REOPEN, Happening.QUIET),
    (PortState.REOPEN, Happening.LOST),
    (PortState.OPEN, Happening.OPENED),
    (PortState.OPEN, Happening.FAILED),
    (PortState.LIVE, Happening.OPENED),
    (PortState.LIVE, Happening.FAILED),
    (PortState.SILENT, Happening.OPENED),
    (PortState.SILENT, Happening.FAILED),
}


def test_every_pair_is_either_in_the_table_or_impossible() -> None:
    everything = set(itertools.product(PortState, Happening))
    assert everything == set(TABLE) | CANNOT_HAPPEN
    assert not set(TABLE) & CANNOT_HAPPEN
    for state, happening in CANNOT_HAPPEN:
        with pytest.raises(OurFault):
            step(state, happening)


def test_the_list_of_the_docstring_is_the_table() -> None:
    found = {}
    for state, steps in re.findall(r"^    ([a-z]+) {2,}(.* -> .*)$", portlife.__doc__ or "", re.M):
        for step_ in steps.split(", "):
            happening, after = step_.split(" -> ")
            found[PortState(state), Happening(happening)] = PortState(after)
    for state in PortState:
        found[state, Happening.STOP] = PortState.CLOSED
    assert found == TABLE


def test_every_state_can_be_reached_and_left() -> None:
    reached, edge = {PortState.CLOSED}, {PortState.CLOSED}
    while edge:
        edge = {after for (before, _), after in TABLE.items() if before in edge} - reached
        reached |= edge
    assert reached == set(PortState)
    for state in PortState:
        assert any(before is state and after is not state for (before, _), after in TABLE.items())


def test_backoff_doubles_to_its_cap_and_starts_over_after_reset() -> None:
    backoff = Backoff(FakeRandomness(share=1.0))
    delays = [backoff.delay_s() for _ in range(8)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.delay_s() == BACKOFF_FIRST_S


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_takes_off_at_most_half(share: float) -> None:
    backoff = Backoff(FakeRandomness(share))
    for whole in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, BACKOFF_CAP_S):
        assert whole / 2 <= backoff.delay_s() <= whole
