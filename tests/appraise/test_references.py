"""Windows of reference sets: announced, in force, late, retired, replaced, and never back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.appraise.appraisal import References
from edgewarden.appraise.references import State, applying, select, standing, state_of
from edgewarden.wire.references import ReferenceSet

OLD, NEW, SETTINGS = b"o" * 32, b"n" * 32, b"s" * 32
SET = ReferenceSet("main", "spring", "1.0.0", "", 0, 100, 200, 300, "", "", {"code": (OLD,)})
NEXT = replace(
    SET, release="summer", version="1.1.0", not_before_utc_s=180, not_after_utc_s=None,
    retired_utc_s=None, values={"code": (NEW,)},
)  # fmt: skip


def chosen(
    *sets: ReferenceSet, at: float, version: str = "1.0.0", device: str = "gw"
) -> References:
    return select({bytes([n]): s for n, s in enumerate(sets)}, device, version, at)


WINDOW = [
    (99, State.ANNOUNCED),
    (100, State.IN_FORCE),
    (200, State.IN_FORCE),
    (201, State.LATE),
    (300, State.LATE),
    (301, State.RETIRED),
]


@pytest.mark.parametrize(("at", "state"), WINDOW)
def test_a_set_has_a_window(at: float, state: State) -> None:
    assert state_of(SET, at) is state
    kinds = chosen(SET, at=at)
    assert (OLD in kinds.code) is (state is State.IN_FORCE)
    outside = state in (State.ANNOUNCED, State.LATE)
    assert kinds.outdated.get(OLD) == (state.value if outside else None)
    assert (OLD in kinds.retired) is (state is State.RETIRED)


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_late_in_one_set_and_announced_in_another_is_late(turned: bool) -> None:
    sets = [SET, replace(SET, not_before_utc_s=900, not_after_utc_s=None)]
    kinds = chosen(*(reversed(sets) if turned else sets), at=250)
    assert kinds.outdated == {OLD: "late"}


def test_without_an_end_a_set_stays_in_force_and_without_retirement_late() -> None:
    assert state_of(replace(SET, not_after_utc_s=None), 10**12) is State.IN_FORCE
    assert state_of(replace(SET, retired_utc_s=None), 10**12) is State.LATE


def test_old_and_new_are_right_while_they_overlap() -> None:
    assert OLD in chosen(SET, NEXT, at=190).code
    assert NEW in chosen(SET, NEXT, at=190, version="1.1.0").code


def test_code_counts_for_its_version_alone() -> None:
    kinds = chosen(SET, at=150, version="9.9.9")
    assert (kinds.code, kinds.outdated, kinds.retired) == (frozenset(), {}, frozenset())
    both = replace(SET, values={"code": (OLD,), "settings": (SETTINGS,)})
    assert chosen(both, at=150, version="9.9.9").settings == {SETTINGS}


def test_a_set_of_another_device_does_not_count() -> None:
    own = replace(SET, device="gw")
    assert chosen(own, at=150).code == {OLD}
    assert chosen(own, at=150, device="other").code == frozenset()
    assert list(applying({b"a": own, b"b": SET}, "other")) == [b"b"]


def test_the_least_version_outlives_its_set_and_only_rises() -> None:
    low, high = replace(SET, least_version="1.9"), replace(SET, least_version="1.10")
    assert chosen(low, high, at=150).least_version == "1.10"
    assert chosen(high, low, at=10**6).least_version == "1.10"
    assert chosen(high, at=99).least_version == ""


def test_a_replaced_set_does_not_exist() -> None:
    ended = replace(SET, not_after_utc_s=110, retired_utc_s=120, replaces=b"\x00")
    sets = {b"\x00": SET, b"\x01": ended}
    assert list(standing(sets)) == [b"\x01"]
    assert OLD in select(sets, "gw", "1.0.0", 150).retired
    assert OLD not in select(sets, "gw", "1.0.0", 150).code


WITHDRAWN = replace(
    SET, issued_utc_s=40, not_after_utc_s=50, retired_utc_s=60, least_version="2.0.0",
    values={"code": (OLD,), "pcrs": (NEW,)},
)  # fmt: skip


def test_a_set_that_was_ended_before_it_began_never_begins() -> None:
    """A release that was announced and called off: no board is held to it, not on its day either.
    Its least version would have contraindicated every board that stayed, and for ever."""
    for at in (45, 70, 150, 10**9):
        assert state_of(WITHDRAWN, at) is State.WITHDRAWN
        kinds = chosen(WITHDRAWN, at=at)
        assert (kinds.least_version, kinds.pcrs_ended, kinds.outdated) == ("", False, {})
        assert OLD in kinds.retired  # who runs it runs what was called off
        assert not kinds.code
    assert OLD in chosen(WITHDRAWN, replace(SET, not_before_utc_s=0), at=190).code


def test_a_set_that_has_begun_is_not_undone_by_an_end_before_its_beginning() -> None:
    """A rollback is not made right by a date: what was in force once was in force."""
    undone = replace(WITHDRAWN, issued_utc_s=140)
    assert state_of(undone, 150) is State.RETIRED
    assert chosen(undone, at=150).least_version == "2.0.0"


def test_a_root_of_trust_counts_while_its_set_is_in_force() -> None:
    stated = replace(SET, root_of_trust="UEFI")
    assert [chosen(stated, at=at).root_of_trust for at in (99, 150, 250, 350)] == [
        False, True, False, False,
    ]  # fmt: skip


def test_that_pcr_values_were_asked_for_outlives_their_set() -> None:
    named = replace(SET, values={"pcrs": (OLD,)})
    assert [chosen(named, at=at).pcrs_ended for at in (99, 150, 250, 350)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not chosen(SET, at=250).pcrs_ended
    assert not chosen(named, at=250, device="gw").pcrs
    assert not chosen(replace(named, device="other"), at=250).pcrs_ended
