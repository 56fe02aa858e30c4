"""What status says link has written: what was counted, and over how long."""

from __future__ import annotations

from edgewarden.daemon.written import DAY_NS, MARK_NS, Written

MIB = 1 << 20
BEGAN_NS = 5 * 10**9


class Disk:
    """What was written so far."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self) -> int:
        return self.bytes


def test_the_first_seconds_are_not_made_a_day_of() -> None:
    disk = Disk()
    written = Written(BEGAN_NS, disk)
    disk.bytes = MIB
    assert written.day(BEGAN_NS + 10**9) == (MIB, 1.0)
    assert written.day(BEGAN_NS + 60 * 10**9) == (MIB, 60.0)


def test_after_a_day_what_is_older_does_not_count() -> None:
    disk = Disk()
    written = Written(BEGAN_NS, disk)
    disk.bytes = 1000 * MIB  # a first start
    now_ns = BEGAN_NS
    while now_ns < BEGAN_NS + 2 * DAY_NS:
        now_ns += MARK_NS
        disk.bytes += MIB
        written.look(now_ns)
        found, span_s = written.day(now_ns)
        assert span_s <= 86_400
    assert (found, span_s) == (24 * MIB, 86_400.0)


def test_looked_at_often_it_keeps_a_day_of_marks() -> None:
    written = Written(BEGAN_NS, Disk())
    for minute in range(3 * 24 * 60):
        written.look(BEGAN_NS + minute * 60 * 10**9)
    assert len(written._marks) <= 25


def test_the_kernels_count_is_read() -> None:
    found, span_s = Written(BEGAN_NS).day(BEGAN_NS + 10**9)
    assert found >= 0
    assert span_s == 1.0
