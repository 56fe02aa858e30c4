"""The ledger: every first is told, every repeat counted, memory bounded, whatever comes."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.gate.ledger import HOLD_S, KEYS, RESERVED, SHARE, TELL_S, Ledger
from edgewarden.wire import local
from edgewarden.wire.local import Alarm, AnyMessage, ExecVerdict, GateStats, Repeated


def verdict(
    program: int, *, uid: int = 1000, decision: str = "deny", boot_ns: int = 5, reason: str = ""
) -> ExecVerdict:
    digest = b"" if reason else program.to_bytes(32, "big")
    path = b"/mnt/x/%d" % program
    return ExecVerdict(
        decision, reason or "unlisted", "enforce", "T3", digest, "", path, 7, uid, boot_ns
    )


class Taker:
    """The other end: takes everything, or nothing while ``full``."""

    def __init__(self) -> None:
        self.full = False
        self.taken: list[AnyMessage] = []

    def __call__(self, data: bytes) -> bool | None:
        if self.full:
            return None
        self.taken.append(local.parse(data, *local.FACTS))
        return True

    def occurrences(self) -> Counter[tuple[object, ...]]:
        """(program or code, uid) -> how often it was told to have happened."""
        out: Counter[tuple[object, ...]] = Counter()
        for one in self.taken:
            count, inner = (one.count, one.message) if isinstance(one, Repeated) else (1, one)
            others = isinstance(one, Repeated) and one.others
            assert isinstance(inner, ExecVerdict)
            out[("others",) if others else (inner.sha256, inner.uid)] += count
        return out


def test_the_first_goes_out_at_once_and_the_rest_as_one_exact_count() -> None:
    ledger, taker = Ledger(), Taker()
    for i in range(1000):
        ledger.take(verdict(1, boot_ns=100 + i))
        assert ledger.urgent == (i == 0)
        ledger.tell(taker, 10.0)
    ledger.tell(taker, 10.0 + TELL_S)
    assert taker.taken == [
        verdict(1, boot_ns=100),
        Repeated(999, 101, 1099, False, verdict(1, boot_ns=100)),
    ]


def test_another_user_content_or_decision_is_another_alarm() -> None:
    ledger, taker = Ledger(), Taker()
    different = [
        verdict(1),
        verdict(2),
        verdict(1, uid=0),
        verdict(1, decision="would_deny"),
        verdict(1, reason="too_large"),
        verdict(2, reason="too_large"),
        Alarm("EW-EXEC-007", 4, "one", 5),
        Alarm("EW-EXEC-007", 4, "two", 5),
    ]
    for one in (*different, *different):
        assert ledger.take(one)
    ledger.tell(taker, 1.0)
    assert taker.taken[: len(different)] == different


@pytest.mark.parametrize("decision", ["allow", "learned"])
def test_what_is_no_alarm_is_not_kept(decision: str) -> None:
    ledger = Ledger()
    assert not ledger.take(verdict(1, decision=decision))
    assert not ledger.take(GateStats(*["learn", "T0", "none"], *[False] * 3, *[0] * 18))
    assert ledger.due_mono(1.0) is None


def test_what_the_client_does_not_take_waits() -> None:
    ledger, taker = Ledger(), Taker()
    taker.full = True
    for program in (1, 2, 1, 1):
        ledger.take(verdict(program))
    assert not ledger.tell(taker, 100.0)
    assert not ledger.tell(taker, 100.0 + 10 * HOLD_S)
    taker.full = False
    assert ledger.tell(taker, 100.0 + 11 * HOLD_S)
    assert taker.occurrences().total() == 4
    assert ledger.due_mono(0.0) is not None


def test_a_minute_of_quiet_makes_it_news_again_and_frees_its_place() -> None:
    ledger, taker = Ledger(keys=RESERVED + 1), Taker()
    now = 0.0
    ledger.take(verdict(1))
    while now < HOLD_S + 2 * TELL_S:
        ledger.tell(taker, now)
        now += TELL_S
    assert ledger.due_mono(now) is None
    ledger.take(verdict(1))
    assert ledger.urgent


def test_a_key_without_a_count_wakes_nobody_until_it_is_forgotten() -> None:
    ledger, taker = Ledger(), Taker()
    ledger.take(verdict(1))
    assert ledger.due_mono(10.0) == 10.0
    ledger.tell(taker, 10.0)
    assert ledger.due_mono(10.0) == 10.0 + HOLD_S
    ledger.take(verdict(1))
    assert ledger.due_mono(10.0) == 10.0 + TELL_S, "a count waits to be told"
    ledger.tell(taker, 12.0)
    ledger.take(verdict(2))
    ledger.tell(taker, 20.0)
    assert ledger.due_mono(20.0) == 12.0 + HOLD_S, "the one that has been quiet for longest"
    ledger.tell(taker, 12.0 + HOLD_S)
    assert ledger.due_mono(80.0) == 20.0 + HOLD_S
    ledger.tell(taker, 20.0 + HOLD_S)
    assert ledger.due_mono(80.0) is None


def test_what_goes_on_is_never_forgotten() -> None:
    ledger, taker = Ledger(), Taker()
    for second in range(int(3 * HOLD_S)):
        ledger.take(verdict(1))
        ledger.tell(taker, float(second))
    assert [type(one) for one in taker.taken].count(ExecVerdict) == 1


def test_a_flood_of_one_user_hides_no_first_of_another() -> None:
    ledger, taker = Ledger(), Taker()
    for program in range(5000):
        ledger.take(verdict(program, uid=1000))
    ledger.take(verdict(9999, uid=0))
    ledger.take(Alarm("EW-EXEC-004", 5, "gate was ended", 5))
    ledger.tell(taker, 1.0)
    assert verdict(9999, uid=0) in taker.taken
    assert Alarm("EW-EXEC-004", 5, "gate was ended", 5) in taker.taken


def test_who_finds_no_place_is_counted_exactly() -> None:
    ledger, taker = Ledger(), Taker()
    for program in range(5000):
        ledger.take(verdict(program))
        ledger.take(verdict(program, decision="would_deny"))
    ledger.tell(taker, 1.0)
    others = [one for one in taker.taken if isinstance(one, Repeated) and one.others]
    assert {o.message.decision for o in others if isinstance(o.message, ExecVerdict)} == {
        "deny",
        "would_deny",
    }
    assert sum(o.count for o in others) == ledger.crowded
    assert ledger.crowded == 10_000 - (KEYS - RESERVED)
    assert taker.occurrences().total() == 10_000


def test_shares_end() -> None:
    """All places are used when enough owners come; none beyond KEYS is ever made."""
    ledger, taker = Ledger(), Taker()
    for uid in range(KEYS):
        for program in range(SHARE + 5):
            ledger.take(verdict(program, uid=uid))
    ledger.tell(taker, 1.0)
    assert sum(isinstance(one, ExecVerdict) for one in taker.taken) == KEYS


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from([0, 1000, 1001]),
        st.sampled_from(["take", "tell", "full"]),
    ),
    max_size=300,
)


@settings(deadline=None)
@given(EVENTS)
def test_whatever_happens_all_is_told_to_the_last_unit(events: list[tuple[int, int, str]]) -> None:
    ledger, taker = Ledger(keys=RESERVED + 10), Taker()
    offered: Counter[tuple[object, ...]] = Counter()
    now = 0.0
    for program, uid, what in events:
        if what == "take":
            one = verdict(program, uid=uid)
            offered[one.sha256, one.uid] += 1
            ledger.take(one)
        elif what == "full":
            taker.full = not taker.full
        else:
            now += program
            ledger.tell(taker, now)
    taker.full = False
    ledger.tell(taker, now, all_now=True)
    told = taker.occurrences()
    assert told.total() == offered.total()
    assert told.pop(("others",), 0) == ledger.crowded
    assert all(told[key] <= offered[key] for key in told)


def test_a_million_denials_need_the_memory_of_a_thousand() -> None:
    ledger, taker = Ledger(), Taker()

    def flood(count: int) -> None:
        for i in range(count):
            ledger.take(verdict(i % 3000, uid=1000 + i % 7))

    flood(6000)
    ledger.tell(taker, 1.0)
    tracemalloc.start()
    flood(60_000)
    grown_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown_bytes < 200_000
    ledger.tell(taker, 10.0)
    assert taker.occurrences().total() == 66_000
