"""The newest durable records in memory: what a peek may be answered with, and when the disk must.

A model beside it: whatever is written, accepted and asked for, an answer is a run of what was
written, and begins with the record that the spool would begin with.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.ports import Stored
from edgewarden.record.fresh import FRESH_BYTES, Fresh


def record(seq: int, size_bytes: int = 10, c: int = 1) -> Stored:
    return Stored(c, seq, bytes(size_bytes))


def numbers(found: list[Stored] | None) -> list[int] | None:
    return None if found is None else [one.seq for one in found]


def test_what_was_just_written_is_there() -> None:
    fresh = Fresh()
    assert fresh.peek(1, 0, 32, 1000) is None
    for seq in (7, 8, 9):
        fresh.add(record(seq))
    assert numbers(fresh.peek(1, 7, 32, 1000)) == [8, 9]
    assert numbers(fresh.peek(1, 7, 1, 1000)) == [8]
    assert numbers(fresh.peek(1, 6, 32, 19)) == [7]
    assert numbers(fresh.peek(1, 6, 32, 1)) == [7], "one alone may be longer"


def test_what_is_older_newer_or_of_another_class_is_asked_of_the_disk() -> None:
    fresh = Fresh()
    fresh.add(record(7))
    assert fresh.peek(1, 5, 32, 1000) is None
    assert fresh.peek(1, 7, 32, 1000) is None
    assert fresh.peek(2, 6, 32, 1000) is None


def test_a_hole_hides_nothing() -> None:
    fresh = Fresh()
    for seq in (1, 2, 4):
        fresh.add(record(seq))
    assert fresh.peek(1, 1, 32, 1000) is None
    assert numbers(fresh.peek(1, 3, 32, 1000)) == [4]


def test_what_was_accepted_is_not_offered_again() -> None:
    fresh = Fresh()
    for seq in (1, 2, 3):
        fresh.add(record(seq))
    fresh.ack(1, 2)
    fresh.ack(1, 1)
    assert numbers(fresh.peek(1, 0, 32, 1000)) == [3]
    fresh.ack(1, 3)
    assert fresh.peek(1, 0, 32, 1000) is None


def test_memory_is_bounded_and_the_newest_stays() -> None:
    fresh = Fresh()
    for seq in range(1, 100):
        fresh.add(record(seq, FRESH_BYTES // 4))
    assert numbers(fresh.peek(1, 95, 32, 1 << 30)) == [96, 97, 98, 99]
    assert fresh.peek(1, 94, 32, 1 << 30) is None
    fresh.add(record(100, FRESH_BYTES * 2))
    assert numbers(fresh.peek(1, 99, 32, 1 << 30)) == [100]
    assert fresh.peek(1, 98, 32, 1 << 30) is None


def test_what_was_accepted_is_let_go_of_with_the_next_record() -> None:
    fresh = Fresh()
    for seq in range(1, 20):
        fresh.add(record(seq))
        fresh.ack(1, seq)
    assert [one.seq for one in fresh._tail[1]] == [19]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, FRESH_BYTES)),
        st.tuples(st.just("lose"), st.integers(1, 3)),
        st.tuples(st.just("ack"), st.integers(0, 30)),
        st.tuples(st.just("peek"), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(STEPS)
def test_an_answer_is_what_the_spool_would_give(steps: list[tuple[str, int]]) -> None:
    fresh, written, head, accepted = Fresh(), dict[int, Stored](), 0, 0
    for what, number in steps:
        if what == "add":
            head += 1
            written[head] = record(head, number)
            fresh.add(written[head])
        elif what == "lose":  # a chain that goes on elsewhere
            head += number
        elif what == "ack":
            accepted = max(accepted, min(number, head))
            fresh.ack(1, accepted)
        elif (found := fresh.peek(1, number, 5, FRESH_BYTES)) is not None:
            first = max(number, accepted) + 1
            assert found == [written[first + place] for place in range(len(found))]
            assert 1 <= len(found) <= 5
            assert len(found) == 1 or sum(len(one.data) for one in found) <= FRESH_BYTES
