"""How far observe has got, over restarts, boots, policies and power cuts."""

from __future__ import annotations

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.lockout.coverage import LONGEST_LOOK_S, SAVE_S, Coverage
from edgewarden.lockout.records import NOTHING, Boots
from edgewarden.lockout.records import Coverage as Record

HOUR_S = 3600.0


class Bench:
    """A machine with a clock and state/policy."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.now_mono = 1000.0
        self.writes = 0

    def recall(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
        self.kept[name] = data
        self.writes += 1
        return ""

    def start(self, boot_id: str = "one", *, early: bool = False) -> Coverage:
        made = Coverage(self, boot_id, early=early, mono_s=lambda: self.now_mono)
        made.begin(3, keep=False)
        return made

    def live(self, coverage: Coverage, seconds: float, mode: str = "observe") -> None:
        while seconds > 0:
            self.now_mono += LONGEST_LOOK_S
            seconds -= LONGEST_LOOK_S
            coverage.look(mode, sees=True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_hours_and_a_whole_boot_are_needed(bench: Bench) -> None:
    coverage = bench.start()
    assert coverage.missing(24) == "observed 0 min of 24 h; no whole boot observed"
    bench.live(coverage, 3 * HOUR_S)
    assert coverage.missing(24) == "observed 3 h of 24 h; no whole boot observed"
    coverage.save()
    later = bench.start("two", early=True)
    later.healthy()
    assert later.missing(24) == "observed 3 h of 24 h"
    bench.live(later, 21 * HOUR_S)
    assert later.missing(24) == ""


def test_a_boot_counts_once_and_only_if_observed_from_its_start(bench: Bench) -> None:
    late = bench.start("one", early=False)
    late.healthy()
    assert late.boots == 0, "gate started long after the boot"
    late.save()
    interrupted = bench.start("two", early=True)
    bench.live(interrupted, 5, mode="enforce")
    interrupted.healthy()
    assert interrupted.boots == 0, "not all of it was observed"
    interrupted.save()
    whole = bench.start("three", early=True)
    whole.save()
    restarted = bench.start("three", early=False)
    restarted.healthy()
    restarted.healthy()
    assert restarted.boots == 1, "a restart of gate does not break it, nor does it count twice"
    restarted.save()
    again = bench.start("three", early=True)
    again.healthy()
    assert again.boots == 1


def test_only_observe_that_sees_counts_and_a_sleep_does_not(bench: Bench) -> None:
    coverage = bench.start()
    bench.live(coverage, 100, mode="learn")
    bench.now_mono += 50
    coverage.look("observe", sees=False)
    assert coverage.observed_s == 0
    bench.now_mono += 10 * HOUR_S
    coverage.look("observe", sees=True)
    assert coverage.observed_s == LONGEST_LOOK_S


def test_a_would_deny_in_the_critical_set_stands_in_the_way(bench: Bench) -> None:
    coverage = bench.start("one", early=True)
    coverage.healthy()
    bench.live(coverage, 24 * HOUR_S)
    coverage.hit("/usr/bin/su")
    coverage.hit("/usr/bin/sudo")
    assert coverage.missing(24) == "2 would-denies in the critical set: /usr/bin/sudo"
    bench.live(coverage, 10)
    assert bench.start().would_denies == 2, "written soon, not with the next round"


def test_another_policy_begins_anew_and_packages_do_not(bench: Bench) -> None:
    coverage = bench.start("one", early=True)
    coverage.healthy()
    bench.live(coverage, HOUR_S)
    coverage.hit("/usr/bin/sudo")
    coverage.begin(4, keep=True)
    assert (coverage.observed_s, coverage.boots, coverage.would_denies) == (HOUR_S, 1, 0)
    coverage.begin(4, keep=False)
    assert coverage.boots == 1, "the same table, loaded again"
    coverage.begin(5, keep=False)
    assert (coverage.observed_s, coverage.boots) == (0, 0)


def test_it_is_written_now_and_then(bench: Bench) -> None:
    coverage = bench.start()
    bench.live(coverage, 10)
    before = bench.writes
    bench.live(coverage, SAVE_S)
    assert bench.writes == before + 1


def test_a_torn_file_is_nothing_observed(bench: Bench) -> None:
    coverage = bench.start()
    bench.live(coverage, 2 * HOUR_S)
    coverage.grant(True)
    assert bench.start().granted
    bench.kept["coverage"] = bench.kept["coverage"][:-1]
    torn = bench.start()
    assert (torn.observed_s, torn.granted) == (0, False)


@pytest.mark.parametrize(
    "record",
    [
        Record(7, 86400, 2, "b-1", True, 1, "/usr/bin/a b", True),
        NOTHING,
        Boots(2, "b-2", False),
    ],
)
def test_the_files_say_what_was_written(record: Record | Boots) -> None:
    data = record.dump()
    assert type(record).load(data) == record
    for cut in (data[:-1], data + b"x", data[:40]):
        with pytest.raises(WireRefusal):
            type(record).load(cut)


def test_a_path_with_a_line_break_forges_no_line() -> None:
    record = Record(1, 2, 3, "b", False, 1, "/tmp/x\ngranted 1\n\udcff", False)
    assert not Record.load(record.dump()).granted
