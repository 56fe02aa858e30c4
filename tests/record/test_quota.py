"""Quotas: what each class surely finds, whatever the others did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.record.quota import Quotas
from edgewarden.wire.record import RecordClass

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)
CAP = 1000


def held(alarm: int = 0, audit: int = 0, bulk: int = 0) -> dict[int, int]:
    return {ALARM: alarm, AUDIT: audit, BULK: bulk}


@pytest.mark.parametrize(
    ("used", "record_class", "size", "fits"),
    [
        (held(), BULK, 700, True),
        (held(), BULK, 701, False),
        (held(alarm=300), BULK, 500, True),  # alarm went on in bulk's
        (held(alarm=300), BULK, 501, False),
        (held(audit=900), AUDIT, 1, False),  # what is alarm's stays alarm's
        (held(audit=900), ALARM, 100, True),
        (held(audit=900), ALARM, 101, False),
        (held(alarm=800), ALARM, 1, False),  # and what is audit's, audit's
        (held(alarm=800), AUDIT, 200, True),
        (held(bulk=700), ALARM, 101, False),  # bulk has to go first
        (held(bulk=600), ALARM, 200, True),
    ],
)
def test_a_class_takes_its_own_and_of_bulk(
    used: dict[int, int], record_class: int, size: int, fits: bool
) -> None:
    assert Quotas().fits(CAP, used, record_class, size) is fits


@given(
    st.lists(st.tuples(st.sampled_from([ALARM, AUDIT, BULK]), st.integers(1, 200)), max_size=80),
    st.integers(1, 45),
    st.integers(1, 45),
)
def test_whatever_was_taken_each_class_finds_its_quota(
    takes: list[tuple[int, int]], alarm: int, audit: int
) -> None:
    quotas, used = Quotas(alarm, audit), held()
    for record_class, size in takes:
        if quotas.fits(CAP, used, record_class, size):
            used[record_class] += size
    assert sum(used.values()) <= CAP
    for c in (ALARM, AUDIT):
        left = quotas.quota_bytes(CAP, c) - used[c]
        assert left <= 0 or quotas.fits(CAP, used, c, left)


def test_a_filesystem_nearly_full_is_left_alone() -> None:
    assert Quotas().tight(49, 1000)
    assert not Quotas().tight(50, 1000)
    assert not Quotas(free_percent=0).tight(0, 1000)
