"""Quotas: what each class surely finds, whatever the others did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.record.quota import AROUND_EVICTION_BYTES, MIN_CAP_BYTES, Cap, Quotas, cap_of
from edgewarden.wire.record import RecordClass

MB, GB = 10**6, 10**9
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


@pytest.mark.parametrize(
    ("cap_bytes", "cap_percent", "filesystem_bytes", "size_bytes", "setting"),
    [
        (256 * MB, 10, 16 * GB, 256 * MB, "cap_bytes"),
        (256 * MB, 10, 1 * GB, 100 * MB, "cap_percent"),
        (256 * MB, 95, 1 * GB, 256 * MB, "cap_bytes"),
        (900 * MB, 10, 1 * GB, 100 * MB, "cap_percent"),
        (256 * MB, 10, 2560 * MB, 256 * MB, "cap_bytes"),
        (256 * MB, 10, 2559 * MB, 255_900_000, "cap_percent"),
        (256 * MB, 10, 24 * MB, MIN_CAP_BYTES, "cap_percent"),
        (MIN_CAP_BYTES, 1, 24 * MB, MIN_CAP_BYTES, "cap_bytes"),
        (256 * MB, 10, None, 256 * MB, "cap_bytes"),
    ],
)
def test_the_cap_is_the_smaller_of_both(
    cap_bytes: int, cap_percent: int, filesystem_bytes: int | None, size_bytes: int, setting: str
) -> None:
    assert cap_of(cap_bytes, cap_percent, filesystem_bytes) == Cap(size_bytes, setting)


@pytest.mark.parametrize(
    ("used", "record_class", "size", "short"),
    [
        (held(bulk=700), BULK, 0, 0),
        (held(bulk=700), BULK, 1, 1),
        (held(bulk=2000), BULK, 10, 1310),
        (held(bulk=2000), ALARM, 10, 1210),
        (held(bulk=2000), AUDIT, 10, 1110),
        (held(audit=2000, bulk=500), AUDIT, 1, 1601),  # that much is not bulk's: refused in the end
        (held(audit=2000, bulk=500), ALARM, 100, 0),  # nothing that may go would help
        (held(audit=2000, bulk=500), ALARM, 101, 1601),
        (held(audit=850, bulk=500), ALARM, 100, 450),  # without bulk it fits: bulk goes
    ],
)
def test_what_has_to_go_for_more(
    used: dict[int, int], record_class: int, size: int, short: int
) -> None:
    assert Quotas().short_bytes(CAP, used, record_class, size) == short


@given(
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(1, 45),
    st.integers(1, 45),
    st.integers(0, 2000),
)
def test_under_a_cap_that_became_smaller_alarm_and_audit_find_their_quota_when_bulk_has_gone(
    alarm_held: int, audit_held: int, alarm: int, audit: int, stays: int
) -> None:
    quotas, used = Quotas(alarm, audit), held(alarm_held, audit_held, bulk=stays)
    for c in (ALARM, AUDIT):
        left = quotas.quota_bytes(CAP, c) - used[c]
        assert left <= 0 or quotas.short_bytes(CAP, used, c, left, {BULK: stays}) <= 0


@given(
    st.integers(0, 3 << 20),
    st.integers(0, 3 << 20),
    st.integers(0, 3 << 20),
    st.integers(0, 200_000),
    st.sampled_from([ALARM, AUDIT, BULK]),
    st.integers(1, 70_000),
)
def test_bulk_goes_where_that_makes_room_or_it_is_beyond_its_quota(
    alarm: int, audit: int, bulk: int, stays: int, record_class: int, size: int
) -> None:
    quotas, used, cap = Quotas(), held(alarm, audit, bulk + stays), 4 << 20
    short = quotas.short_bytes(cap, used, record_class, size, {BULK: stays})
    goes = quotas.goes_bytes(cap, used, record_class, size, {BULK: stays})
    without = held(alarm, audit, min(bulk + stays, stays + AROUND_EVICTION_BYTES))
    without_short = quotas.short_bytes(cap, without, record_class, size, {BULK: stays})
    gone = quotas.short_bytes(cap, held(alarm, audit, stays), record_class, size, {BULK: stays})
    beyond = bulk - quotas.quota_bytes(cap, BULK)
    if short <= 0:
        assert goes == 0
    elif goes == short:
        assert gone <= 0, "it helps"
    else:
        assert without_short > 0, "not even all of it would do"
        assert goes == (beyond if beyond > 0 else None)
