"""The order in which a mutant meets its tests: the one that holds it first, and none left out."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

import pytest

from tests import deciding
from tests.deciding import Table, holds
from tests.downstream.mutation import Mutant, mutants, without

SIGNED = {"short": -3, "even": 4}


def judged(number: int) -> str:
    if number < 0:
        return "short"
    check_odd(number)
    return "taken"


def check_odd(number: int) -> None:
    if number % 2 == 0:
        raise ValueError("even")


def of(function: FunctionType) -> Mutant:
    """The first mutant of one of the functions above."""
    import sys

    found = mutants(sys.modules[__name__])
    return next(m for m in found if m.function is function)


def taken() -> None:
    assert judged(3) == "taken"


def short() -> None:
    assert judged(SIGNED["short"]) == "short"


def even() -> None:
    with pytest.raises(ValueError, match="even"):
        judged(SIGNED["even"])


TESTS: list[Callable[[], object]] = [taken, even, short]


def test_the_test_in_which_a_check_decides_comes_first_and_none_is_missing() -> None:
    table = Table([judged, check_odd], TESTS)
    assert table.holds()
    for function, first in ((judged, short), (check_odd, even)):
        nearest = table.nearest(function, of(function).line)
        assert nearest[0] is first
        assert set(nearest) == set(TESTS)


def test_a_bare_call_is_held_by_the_test_that_it_refuses() -> None:
    table = Table([judged], TESTS)
    line = next(n for n in range(2, 9) if table.nearest(judged, n)[0] is even)
    assert line == 4


@pytest.mark.parametrize("events", [0, deciding.MOST_EVENTS])
def test_a_mutant_dies_with_its_test_and_survives_without(
    monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    """Also where nothing was seen to decide: then every test is shown to it all the same."""
    monkeypatch.setattr(deciding, "MOST_EVENTS", events)
    for tests, survives in ((TESTS, False), ([taken, even], True)):
        table, mutant = Table([judged, check_odd], tests), of(judged)
        nearest = table.nearest(mutant.function, mutant.line)
        put_back = without(mutant)
        try:
            assert all(holds(test) for test in nearest) is survives
        finally:
            put_back()
    assert judged(SIGNED["short"]) == "short"


def test_a_table_that_does_not_hold_says_so() -> None:
    assert not Table([judged], [*TESTS, lambda: False]).holds()
    assert not Table([judged], [lambda: pytest.fail("as it does")]).holds()
