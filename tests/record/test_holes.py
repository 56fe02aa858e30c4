"""Of what is missing, only what no known loss says is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.ports import Loss
from edgewarden.record.salvage import DAMAGED, UNKNOWN, holes

BULK = 2
AFTER, BEFORE = b"\1" * 32, b"\2" * 32
PLACES = st.tuples(st.integers(1, 40), st.integers(0, 12))


def known(first: int, last: int) -> Loss:
    return Loss(BULK, first, last, BEFORE, AFTER, DAMAGED)


def test_two_neighbours_that_are_known_leave_nothing_between_them() -> None:
    assert list(holes(BULK, 15, 28, AFTER, [known(22, 28), known(15, 21)])) == []


def test_each_part_names_the_hash_behind_it() -> None:
    assert list(holes(BULK, 10, 30, AFTER, [known(15, 20)])) == [
        Loss(BULK, 10, 14, UNKNOWN, BEFORE, DAMAGED),
        Loss(BULK, 21, 30, UNKNOWN, AFTER, DAMAGED),
    ]


@given(PLACES, st.lists(PLACES, max_size=5))
def test_every_number_is_told_once(hole: tuple[int, int], losses: list[tuple[int, int]]) -> None:
    first, last = hole[0], sum(hole)
    said = [known(start, start + length) for start, length in losses]
    parts = list(holes(BULK, first, last, AFTER, said))
    numbers = [seq for part in parts for seq in range(part.first, part.last + 1)]
    before = {seq for loss in said for seq in range(loss.first, loss.last + 1)}
    assert numbers == sorted(set(range(first, last + 1)) - before)
