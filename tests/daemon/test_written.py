"""What status says link has written: what was counted, and over how long."""

from __future__ import annotations

from edgewarden.daemon.written import CHECK_NS, CODE, DAY_NS, MARK_NS, Written, over_budget
from edgewarden.judge.triage import classify
from edgewarden.wire.record import RecordClass

MIB = 1 << 20
BEGAN_NS = 5 * 10**9


class Disk:
    """What was written so far."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self) -> int:
        return self.bytes


def counted(written: Written, now_ns: int) -> tuple[int, float]:
    day = written.day(now_ns)
    return day.total, day.span_s


def test_the_first_seconds_are_not_made_a_day_of() -> None:
    disk = Disk()
    written = Written(BEGAN_NS, disk)
    disk.bytes = MIB
    assert counted(written, BEGAN_NS + 10**9) == (MIB, 1.0)
    assert counted(written, BEGAN_NS + 60 * 10**9) == (MIB, 60.0)


def test_after_a_day_what_is_older_does_not_count() -> None:
    disk = Disk()
    written = Written(BEGAN_NS, disk)
    disk.bytes = 1000 * MIB  # a first start
    now_ns = BEGAN_NS
    while now_ns < BEGAN_NS + 2 * DAY_NS:
        now_ns += MARK_NS
        disk.bytes += MIB
        written.look(now_ns)
        found, span_s = counted(written, now_ns)
        assert span_s <= 86_400
    assert (found, span_s) == (24 * MIB, 86_400.0)


def test_looked_at_often_it_keeps_a_day_of_marks() -> None:
    written = Written(BEGAN_NS, Disk())
    for minute in range(3 * 24 * 60):
        written.look(BEGAN_NS + minute * 60 * 10**9)
    assert len(written._marks) <= 25


def test_the_kernels_count_is_read() -> None:
    found, span_s = counted(Written(BEGAN_NS), BEGAN_NS + 10**9)
    assert found >= 0
    assert span_s == 1.0


def test_both_counts_are_of_the_same_span() -> None:
    disk, by = Disk(), {"gps": 10 * MIB}
    disk.bytes = 40 * MIB
    written = Written(BEGAN_NS, disk, lambda: dict(by))
    now_ns = BEGAN_NS
    for _ in range(30):
        now_ns += MARK_NS
        disk.bytes += 3 * MIB
        by["gps"] += MIB
        written.look(now_ns)
    day = written.day(now_ns)
    assert (day.total, dict(day.by), day.span_s) == (72 * MIB, {"gps": 24 * MIB}, 86_400.0)
    assert day.overhead == 48 * MIB


def test_who_wrote_nothing_today_is_left_out_and_the_most_come_first() -> None:
    by = {"a": 1, "b": 9, "c": 5, "d": 7, "quiet": 0}
    written = Written(BEGAN_NS, lambda: 100, lambda: dict(by))
    day = written.day(BEGAN_NS + 10**9)
    assert "quiet" not in day.by
    told = over_budget(day, 1, BEGAN_NS).detail["most"]
    assert told == {"b": 9, "d": 7, "c": 5}
    assert list(told) == ["b", "d", "c"]


def test_where_the_kernel_counts_less_than_the_records_the_rest_is_not_known() -> None:
    on_tmpfs = Written(BEGAN_NS, Disk(), lambda: {"gps": 5})
    assert on_tmpfs.day(BEGAN_NS + 10**9).overhead is None


def test_over_the_budget_is_an_alarm_once_a_day_while_it_lasts() -> None:
    disk = Disk()
    written = Written(BEGAN_NS, disk, lambda: {"gps": 6 * MIB}, budget_bytes=10 * MIB)
    told, now_ns = [], BEGAN_NS
    while now_ns < BEGAN_NS + 3 * DAY_NS:
        now_ns += CHECK_NS
        disk.bytes += MIB  # 144 MiB a day
        if (event := written.look(now_ns)) is not None:
            told.append((now_ns, event))
    assert len(told) == 3
    assert told[0][0] == BEGAN_NS + 11 * CHECK_NS, "ten are the budget, and not over it"
    event = told[0][1]
    assert (event.code, classify(event)) == (CODE, RecordClass.ALARM)
    assert event.detail["written_bytes"] == 11 * MIB
    assert event.detail["most"] == {"gps": 6 * MIB}
    assert event.detail["overhead_bytes"] == 5 * MIB


def test_back_under_the_budget_and_over_it_again_is_told_again() -> None:
    """Told ten minutes before a mark, it is old before a day has passed since it was told."""
    disk = Disk()
    written = Written(BEGAN_NS, disk, budget_bytes=10 * MIB)
    bursts, told = {5, 146}, []
    for tenth in range(1, 148):
        disk.bytes += 11 * MIB * (tenth in bursts)
        if written.look(BEGAN_NS + tenth * CHECK_NS) is not None:
            told.append(tenth)
    assert told == [5, 146]


def test_the_budget_is_looked_at_now_and_then_and_not_at_all_without_one() -> None:
    disk = Disk()
    disk.bytes = 11 * MIB
    written = Written(BEGAN_NS, disk, budget_bytes=10 * MIB)
    assert written.look(BEGAN_NS + CHECK_NS - 1) is None
    assert written.look(BEGAN_NS + CHECK_NS) is not None
    assert Written(BEGAN_NS, disk).look(BEGAN_NS + CHECK_NS) is None
