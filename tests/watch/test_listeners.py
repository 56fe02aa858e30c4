"""New listeners: baseline, expected, restarts, ephemeral UDP, a crowd."""

from __future__ import annotations

import tracemalloc

from edgewarden.judge.describe import describe
from edgewarden.watch.listeners import (
    MAX_KNOWN,
    OWNERS_PER_LOOK,
    SETTLED_S,
    Expected,
    Listeners,
)
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.processes import Listener, Process
from tests.steps import calls

EPHEMERAL = range(32768, 61000)
SSH = Listener("tcp", "0.0.0.0", 22, 0, 100)
WEB = Listener("tcp", "0.0.0.0", 8080, 1000, 101)
SERVER = Process(pid=7, start_ticks=1, comm="web", ppid=1, uid=1000, euid=1000, command="web")


class Looks:
    def __init__(self, *expected: Expected, first: tuple[Listener, ...] = (SSH,)) -> None:
        self.listeners = Listeners(expected, EPHEMERAL)
        self.at_s = 0.0
        [self.baseline] = self.see(*first)

    def see(self, *found: Listener, after_s: float = 2, who: Process | None = None) -> list[Event]:
        self.at_s += after_s
        return list(self.listeners.see(int(self.at_s * 1e9), found, lambda _: who))


def test_the_first_look_is_a_baseline() -> None:
    looks = Looks()
    assert looks.baseline.class_uid is OCSF.NETWORK_ACTIVITY
    assert looks.baseline.detail["baseline"] == 1
    assert looks.see(SSH) == []


def test_a_new_one_is_told_once_with_its_process() -> None:
    looks = Looks()
    [found] = looks.see(SSH, WEB, who=SERVER)
    assert (found.code, found.severity_id) == ("EW-PROC-007", Severity.MEDIUM)
    assert found.detail["endpoint"] == {
        "protocol": "tcp",
        "ip": "0.0.0.0",
        "port": 8080,
        "owner_uid": 1000,
    }
    assert found.detail["process"]["pid"] == 7  # type: ignore[index,call-overload]
    assert "0.0.0.0:8080" in describe(found)
    assert looks.see(SSH, WEB) == []
    assert looks.see(SSH) == []
    assert looks.see(SSH, WEB) == []  # a restart


def test_what_cannot_be_seen_is_said() -> None:
    [found] = Looks().see(SSH, WEB)
    assert "not visible" in str(found.detail["program"])


def test_another_user_on_the_same_port_is_another_listener() -> None:
    [found] = Looks().see(Listener("tcp", "0.0.0.0", 22, 1000, 5))
    assert found.code == "EW-PROC-007"


def test_only_this_machine_is_low() -> None:
    for address in ("127.0.0.1", "::1"):
        [found] = Looks().see(Listener("tcp", address, 80, 0, 5))
        assert found.severity_id == Severity.LOW


def test_expected_ones_are_no_finding() -> None:
    looks = Looks(
        Expected(name="web", protocol="tcp", port=8080, address="0.0.0.0", uid=1000),
        Expected(name="ntp", protocol="udp", port=123),
    )
    assert looks.see(SSH, WEB, Listener("udp", "::", 123, 0, 6)) == []
    [elsewhere] = looks.see(SSH, Listener("tcp", "::", 8080, 1000, 8))
    assert elsewhere.code == "EW-PROC-007"
    [other] = looks.see(SSH, Listener("tcp", "0.0.0.0", 8080, 0, 7))
    assert other.code == "EW-PROC-007"


def test_a_resolvers_port_is_told_only_when_it_stays() -> None:
    looks = Looks()
    passing = Listener("udp", "0.0.0.0", 40000, 0, 9)
    assert looks.see(SSH, passing) == []
    assert looks.see(SSH) == []
    assert looks.see(SSH, passing) == []
    assert looks.see(SSH, passing, after_s=SETTLED_S - 1) == []
    assert len(looks.see(SSH, passing)) == 1
    low = Listener("udp", "0.0.0.0", 500, 0, 9)
    assert len(looks.see(SSH, passing, low)) == 1


def crowd(count: int, uid: int = 0, port: int = 1) -> list[Listener]:
    return [Listener("tcp", "0.0.0.0", port + i, uid, i) for i in range(count)]


def test_a_crowd_is_counted_and_memory_bounded() -> None:
    looks = Looks(first=())
    many = crowd(MAX_KNOWN + 50)
    events = looks.see(*many)
    assert len(events) == MAX_KNOWN + 1
    assert (events[-1].severity_id, events[-1].detail["repeated"]) == (Severity.HIGH, 50)
    assert looks.see(*many) == [], "each once, however often it is looked at"
    [more] = looks.see(*many, Listener("tcp", "::", 1, 0, 1))
    assert more.detail["repeated"] == 1


def ports(events: list[Event]) -> list[object]:
    return [e.detail["endpoint"]["port"] for e in events if "endpoint" in e.detail]  # type: ignore[index,call-overload]


def test_a_user_with_many_listeners_hides_nobody_elses() -> None:
    looks = Looks(first=())
    many = crowd(5000, uid=1000, port=10_000)
    looks.see(*many)
    assert ports(looks.see(*many, WEB, SSH)) == [22]
    assert ports(looks.see(*many, SSH, Listener("tcp", "0.0.0.0", 4444, 33, 9))) == [4444]
    assert calls(lambda: looks.see(*many, SSH)) < 8 * len(many), "not a few steps for each"


def test_who_is_gone_makes_room() -> None:
    """A service that listens on another port each time does not fill the table for ever."""
    looks = Looks(first=())
    for start in range(1, 20_000, 100):
        events = looks.see(SSH, *crowd(100, uid=1000, port=start + 100))
        assert {e.detail["endpoint"]["owner_uid"] for e in events} <= {0, 1000}  # type: ignore[index,call-overload]
    assert looks.listeners.crowded == 0
    assert looks.see(SSH) == [], "who is there is not forgotten"


def test_what_is_remembered_of_one_is_small() -> None:
    looks = Looks(first=())
    tracemalloc.start()
    try:
        looks.see(*(Listener("tcp", f"10.0.{i >> 8}.{i}", 2000 + i, 0, i) for i in range(1000)))
        looks.see()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 1000 < 150


def test_owners_are_looked_for_a_bounded_number_of_times() -> None:
    asked = []
    listeners = Listeners((), EPHEMERAL)
    list(listeners.see(0, (), lambda _: None))
    list(listeners.see(1, crowd(200, uid=1000), lambda one: asked.append(one)))  # type: ignore[func-returns-value]
    assert len(asked) == OWNERS_PER_LOOK


def test_an_address_that_only_begins_like_loopback_is_not() -> None:
    [found] = Looks().see(Listener("tcp", "::1:0:0:1", 80, 0, 5))
    assert found.severity_id == Severity.MEDIUM
    [mapped] = Looks().see(Listener("tcp", "::ffff:127.0.0.1", 80, 0, 5))
    assert mapped.severity_id == Severity.LOW


def test_what_is_the_same_again_is_not_compared_again() -> None:
    looks = Looks()
    same = (SSH, WEB)
    assert len(looks.see(*same, who=SERVER)) == 1
    found = tuple(same)

    def see() -> list[Event]:
        return list(looks.listeners.see(9, found, lambda _: None))

    assert see() == []
    assert calls(see) < 10
    assert looks.see(WEB) == []
    assert looks.see(*same) == [], "nor told again"


def test_a_port_that_settles_is_told_where_nothing_else_changes() -> None:
    looks = Looks()
    found = (SSH, Listener("udp", "0.0.0.0", 40_000, 1000, 5))
    told = [list(looks.listeners.see(int(at * 1e9), found, lambda _: None)) for at in (0, 2, 40)]
    assert [len(one) for one in told] == [0, 0, 1]
