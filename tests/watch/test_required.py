"""Required processes: grace, missing and back, restart loops with exact counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.watch.required import Required, Requirement
from edgewarden.wire.facts import Event, Severity
from edgewarden.wire.processes import Delta, Process

BROKER = Requirement(name="broker", unit="mosquitto.service", grace_s=30, restarts=3, within_s=100)


def broker(pid: int, ppid: int = 1, **more: Any) -> Process:
    fields: dict[str, Any] = {"comm": "mosquitto", "unit": "mosquitto.service", "start_ticks": pid}
    fields |= {"uid": 0, "euid": 0}
    return Process(pid=pid, ppid=ppid, **fields | more)


class Board:
    """A machine on which processes come and go."""

    def __init__(self, *requirements: Requirement) -> None:
        self.required = Required(requirements)
        self.present: dict[int, Process] = {}
        self.first = True
        self.at_s = 0.0

    def look(
        self, *present: Process, blinked: tuple[Process, ...] = (), after_s: float = 2
    ) -> list[Event]:
        self.at_s += after_s
        now = {p.pid: p for p in present}
        began = [p for p in now.values() if self.present.get(p.pid) != p]
        ended = [p for p in self.present.values() if now.get(p.pid) != p]
        delta = Delta(
            int(self.at_s * 1e9), self.first, (*began, *blinked), (), (*ended, *blinked), now
        )
        self.present, self.first = now, False
        return list(self.required.see(delta))


def test_it_is_missing_after_its_grace_and_told_once_and_back_again() -> None:
    board = Board(BROKER)
    assert board.look(broker(5)) == []
    assert board.look() == []
    assert board.look(after_s=29) == []
    [missing] = board.look(after_s=1)
    assert (missing.code, missing.severity_id, missing.activity_id) == (
        "EW-PROC-008",
        Severity.HIGH,
        1,
    )
    assert board.required.missing == ["broker"]
    assert board.look(after_s=500) == []
    [back] = board.look(broker(9))
    assert (back.code, back.activity_id, back.detail["away_s"]) == ("EW-PROC-008", 3, 532.0)
    assert board.required.missing == []


def test_what_was_never_there_is_missing_too() -> None:
    board = Board(BROKER)
    assert board.look() == []
    assert [e.code for e in board.look(after_s=30)] == ["EW-PROC-008"]


def test_a_restart_within_the_grace_is_no_finding() -> None:
    board = Board(BROKER)
    board.look(broker(5))
    board.look()
    assert board.look(broker(6)) == []
    assert next(iter(board.required.watched.values())).starts == 1


def test_a_loop_is_told_once_and_closed_with_the_exact_count() -> None:
    board = Board(BROKER)
    board.look(broker(5))
    events = [board.look(broker(10 + i)) for i in range(20)]
    [begun] = [e for looked in events for e in looked]
    assert (begun.code, begun.detail["starts"]) == ("EW-PROC-009", 3)
    assert board.look(broker(29), after_s=90) == []
    [over] = board.look(broker(29), after_s=20)
    assert (over.activity_id, over.detail["starts"]) == (3, 20)


def test_starts_that_lived_between_two_looks_are_counted() -> None:
    board = Board(BROKER)
    board.look()
    [begun, *_] = board.look(blinked=(broker(7), broker(8), broker(9)))
    assert (begun.code, begun.detail["starts"]) == ("EW-PROC-009", 3)


def test_workers_of_a_server_are_no_starts() -> None:
    board = Board(BROKER)
    board.look(broker(5))
    workers = [broker(20 + i, ppid=5) for i in range(9)]
    assert board.look(broker(5), *workers) == []
    assert next(iter(board.required.watched.values())).starts == 0


def test_all_that_is_named_must_fit() -> None:
    both = Requirement(name="b", exe="/usr/sbin/mosquitto", unit="mosquitto.service")
    assert both.fits(broker(5, exe="/usr/sbin/mosquitto"))
    assert not both.fits(broker(5, exe="/tmp/mosquitto"))
    assert not both.fits(broker(5, exe="/usr/sbin/mosquitto", unit="x.service"))
    assert both.fits(broker(5, command="/usr/sbin/mosquitto\0-c"))  # its program is not visible
    assert Requirement(name="b", comm="mosquitto").fits(broker(5, unit=""))


def test_another_users_word_does_not_stand_in_for_a_program_that_was_seen() -> None:
    """Somebody ends the broker's way back and calls a process of his own by its name."""
    one = Requirement(name="b", exe="/usr/sbin/mosquitto", grace_s=30)
    board = Board(one)
    board.look(broker(5, exe="/usr/sbin/mosquitto", uid=117))
    claims = "/usr/sbin/mosquitto\0-c"
    assert board.look(broker(6, command=claims, uid=117), after_s=60) == [], "not visible yet"
    board.look(broker(7, command=claims, uid=1000))
    [missing] = board.look(broker(7, command=claims, uid=1000), after_s=40)
    assert missing.code == "EW-PROC-008"
    [back] = board.look(broker(8, command=claims, uid=0), broker(7, command=claims, uid=1000))
    assert back.activity_id == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.5, 60)), max_size=60))
def test_starts_are_counted_to_the_last_one(steps: list[tuple[int, float]]) -> None:
    board = Board(BROKER)
    board.look(broker(100))
    number, expected, told = 100, 0, 0
    for starts, after_s in steps:
        blinked = tuple(broker(number + i + 1) for i in range(max(0, starts - 1)))
        number += starts
        expected += starts
        events = board.look(broker(number), blinked=blinked, after_s=after_s)
        told += sum(e.code == "EW-PROC-008" for e in events)
    assert next(iter(board.required.watched.values())).starts == expected
    assert told == 0


def test_a_program_that_an_upgrade_replaced_while_it_runs_is_there() -> None:
    by_path = Requirement(name="broker", exe="/usr/sbin/mosquitto", grace_s=30)
    board = Board(by_path)
    board.look(broker(5, exe="/usr/sbin/mosquitto"))
    replaced = broker(5, exe="/usr/sbin/mosquitto (deleted)")
    assert board.look(replaced) == []
    assert board.look(replaced, after_s=60) == []
    assert board.look(broker(9, exe="/usr/sbin/mosquitto")) == []
    [missing] = [*board.look(), *board.look(after_s=31)]
    assert missing.detail["starts"] == 1, "the restart, and not the upgrade"
