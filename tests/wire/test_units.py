"""A unit's name and its control group's: there and back, and never further down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.wire.units import group_name, unit_of


@pytest.mark.parametrize(
    ("unit", "group"),
    [
        ("ssh.service", "ssh.service"),
        ("memory.service", "_memory.service"),
        ("cpuset.slice", "_cpuset.slice"),
        ("_own.service", "__own.service"),
        ("notify_on_release", "_notify_on_release"),
        (r"a\x2db@1.service", r"a\x2db@1.service"),
    ],
)
def test_a_group_that_could_be_a_file_has_a_mark(unit: str, group: str) -> None:
    assert group_name(unit) == group


@given(st.from_regex(r"[A-Za-z0-9:_.\\@-]{1,20}\.(service|scope)", fullmatch=True))
def test_there_and_back(unit: str) -> None:
    path = f"/{group_name('io.slice')}/{group_name(unit)}/cron.service"
    assert unit_of(path) == ("io.slice", unit)
