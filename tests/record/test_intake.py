"""When a batch is due, and what wakes the thread that makes it durable: counted, not timed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.record.intake import FIXED_NS, LATE_ACK_NS, PHASE_NS, Intake
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock

ALARM, AUDIT, BULK = RecordClass
S = 1_000_000_000


class Counted(threading.Condition):
    """Counts who is woken."""

    woken = 0

    def notify(self, n: int = 1) -> None:
        self.woken += n
        super().notify(n)


def box(commit_s: float, boot_ns: int = 1000 * S) -> tuple[Intake, FakeClock, Counted]:
    clock, counted = FakeClock(boot_ns), Counted()
    made = Intake(clock, commit_s, 65536)
    made._changed = counted
    return made, clock, counted


def reading() -> Reading:
    return Reading("s", "n", "", 1.0, 1)


def event() -> Event:
    return Event(OCSF.HEALTH, 1, Severity.LOW, 1, {})


@given(
    commit_ds=st.integers(1, 3000),
    boot_ns=st.integers(0, 10**16),
    later_ns=st.integers(0, 300 * S),
)
def test_no_fact_waits_longer_than_the_period(commit_ds: int, boot_ns: int, later_ns: int) -> None:
    made, clock, _ = box(commit_ds / 10, boot_ns)
    made.add_reading(reading())
    due_s = made._due_s()
    assert due_s is not None
    assert 0 < due_s <= commit_ds / 10
    clock.boot_ns += later_ns
    batch = made.take_batch(force=False)
    assert (batch is not None) == (later_ns / 1e9 >= due_s)


@pytest.mark.parametrize("start_s", [1000, 1001.999])
@pytest.mark.parametrize("first_s", [1002, 1004.5, 1010.999, 1011, 5000])
def test_batches_are_due_at_fixed_moments(start_s: float, first_s: float) -> None:
    made, clock, _ = box(10, round(start_s * S))
    clock.boot_ns = round(first_s * S)
    made.add_reading(reading())
    idle_s = made._idle_s(None)
    assert idle_s is not None
    clock.boot_ns += round(idle_s * S)
    assert (clock.boot_ns - 1000 * S) % (10 * S) == 10 * S - PHASE_NS, "the same after each start"
    assert clock.boot_ns % (2 * PHASE_NS) == PHASE_NS, "between two steps of the loop"
    assert made.take_batch(force=False) is not None


def test_the_first_batch_is_not_due_at_once() -> None:
    made, clock, _ = box(300)
    made.add_reading(reading())
    clock.boot_ns += 290 * S
    assert made.take_batch(force=False) is None


def test_the_thread_sleeps_as_long_without_a_fact_as_with_one() -> None:
    """It has to: the first fact does not wake it."""
    made, clock, woken = box(10)
    clock.boot_ns += 3 * S
    asleep_s = made._idle_s(None)
    clock.boot_ns += S
    made.add_reading(reading())
    made.add_readings([reading()])
    made.add_event(event(), BULK)
    with_facts_s = made._idle_s(None)
    assert asleep_s is not None
    assert with_facts_s == asleep_s - 1
    assert woken.woken == 0


def test_with_a_short_period_the_first_fact_says_when_it_is_due() -> None:
    made, _, woken = box(FIXED_NS / S / 2)
    assert made._idle_s(None) is None, "a thread with nothing to do looks at nothing"
    made.add_reading(reading())
    assert woken.woken == 1
    assert made._idle_s(None) == FIXED_NS / S / 2
    made.add_readings([reading()])
    assert woken.woken == 1


def test_what_must_not_wait_wakes_the_thread() -> None:
    made, _, woken = box(10)
    made.add_event(event(), ALARM)
    assert (woken.woken, made._idle_s(None)) == (1, 0.0)
    made.add_event(event(), AUDIT)
    assert woken.woken == 2
    full, _, woken = box(10)
    full.add_readings([reading()] * 3000)
    assert (woken.woken, full._idle_s(None)) == (1, 0.0)


def test_what_was_accepted_waits_for_a_round_that_comes_anyway() -> None:
    made, _, woken = box(LATE_ACK_NS / S)
    for upto in (3, 5, 4):
        made.ack(ALARM, upto)
    made.ack(BULK, 1)
    assert woken.woken == 0
    assert made.take_acks() == {ALARM: 5, BULK: 1}
    assert made.take_acks() == {}


@pytest.mark.parametrize("commit_s", [1, 300])
def test_what_was_accepted_waits_no_longer_than_that(commit_s: float) -> None:
    """Without a fixed moment, or with one too far away, the thread is woken for it."""
    made, _, woken = box(commit_s)
    made.ack(ALARM, 5)
    assert woken.woken == 1
    assert made._idle_s(None) == 0.0
    made.take_acks()
    assert made._idle_s(None) != 0.0


def test_counts_alone_are_never_due() -> None:
    made, clock, woken = box(10)
    made.count("ring_overflow", 5)
    clock.boot_ns += 100 * S
    assert made.take_batch(force=False) is None
    assert woken.woken == 0
