"""The clock that link goes by: boots in 1970, ten years ahead, steps, and signed time."""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.timekeeper import (
    AGAIN_S,
    BUILT_UTC_S,
    FIRST_RETRY_S,
    KEEP_EVERY_S,
    LAST_RETRY_S,
    STEPPED_CODE,
    Timekeeper,
)
from edgewarden.errors import PeerUnavailable
from edgewarden.trust import time_file
from edgewarden.wire.facts import Event
from edgewarden.wire.record import RecordClass
from edgewarden.wire.timing import ANCHOR_CODE, Moment
from tests.fakes.clock import FakeClock

S = 10**9
NOW = (BUILT_UTC_S + 30 * 86_400) * S
YEAR_S = 365 * 86_400.0


class Board(FakeClock):
    """A board whose boots have names."""

    boot = bytes(16)

    def boot_id(self) -> bytes:
        return self.boot

    def reboot(self, wall_ns: int = 0) -> None:
        self.boot_ns, self.wall_ns, self.boot = S, wall_ns, os.urandom(16)
        self.uncertainty_ms, self.state = None, "unsynced"

    def synchronise(self, wall_ns: int = NOW) -> None:
        self.wall_ns, self.uncertainty_ms, self.state = wall_ns, 20, "ntp"


class Rig:
    def __init__(self, state: Path, clock: Board | None = None) -> None:
        self.state = state
        self.board = clock or Board(boot_ns=S)
        self.events: list[Event] = []
        self.signed: Moment | None = None
        self.steps: list[int] = []
        self.start()

    def start(self) -> None:
        self.keeper = Timekeeper(self.board, self.state, self._fetch, self._take)
        self.keeper.on_step.append(self.steps.append)

    def _fetch(self) -> Moment:
        if self.signed is None:
            raise PeerUnavailable("nobody", code="EW-HOST-022")
        return self.signed

    def _take(self, event: Event, record_class: RecordClass) -> None:
        assert record_class is RecordClass.AUDIT
        self.events.append(event)

    def ask(self) -> None:
        assert self.keeper.wants_signed(False)
        self.keeper.asked(self.keeper.fetch())

    def codes(self) -> list[str]:
        return [event.code for event in self.events]


def test_the_boot_clock_alone_is_the_one_of_every_look(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.board.step_wall(5.0)
    rig.board.advance(3.0)
    assert rig.keeper.mono_ns() == rig.keeper.now().boot_ns == rig.board.boot_ns
    system = SystemClock()
    before, alone, after = system.now().boot_ns, system.mono_ns(), system.now().boot_ns
    assert before <= alone <= after


def test_a_first_boot_in_1970_is_at_least_the_build(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    now = rig.keeper.now()
    assert now.wall_ns >= BUILT_UTC_S * S
    assert (now.uncertainty_ms, now.state) == (None, "unsynced")
    assert rig.keeper.verify_at() is not None


def test_the_next_boot_in_1970_begins_where_the_last_ended(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.board.synchronise()
    rig.keeper.tick()
    rig.board.advance(KEEP_EVERY_S + 1)
    rig.keeper.tick()
    rig.board.reboot()
    rig.start()
    assert rig.keeper.floor_utc_s() >= (NOW / 1e9) + KEEP_EVERY_S
    at = rig.keeper.verify_at()
    assert at is not None
    assert at >= NOW // S + KEEP_EVERY_S


def test_signed_time_ends_1970(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.signed = Moment(rig.board.boot_ns, NOW, 40)
    rig.ask()
    rig.board.advance(100)
    now = rig.keeper.now()
    assert (now.wall_ns, now.state) == (NOW + 100 * S, "signed")
    assert rig.keeper.verify_at() == NOW // S + 100
    assert rig.codes() == [ANCHOR_CODE]
    assert rig.events[0].detail["utc_ns"] == NOW


def test_signed_time_ends_ten_years_ahead_and_leaves_no_trace_of_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Board(boot_ns=S, wall_ns=NOW + round(10 * YEAR_S) * S))
    for _ in range(3):
        rig.board.advance(KEEP_EVERY_S + 1)
        rig.keeper.tick()
    rig.signed = Moment(rig.board.boot_ns, NOW, 40)
    rig.ask()
    assert rig.keeper.now().wall_ns == NOW
    rig.board.reboot()
    rig.start()
    assert rig.keeper.floor_utc_s() < NOW / 1e9 + 10


def test_a_restart_in_the_same_boot_knows_the_signed_moment(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.signed = Moment(rig.board.boot_ns, NOW, 40)
    rig.ask()
    rig.board.advance(50)
    rig.start()
    assert rig.keeper.now().state == "signed"
    rig.board.reboot()
    rig.start()
    assert rig.keeper.now().state == "unsynced"


def test_a_false_time_server_is_contradicted_and_set_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.board.synchronise(NOW + round(10 * YEAR_S) * S)
    rig.keeper.tick()
    assert rig.keeper.now().state == "ntp"
    assert not rig.keeper.wants_signed(False) or rig.codes()  # the step itself asks
    rig.signed = Moment(rig.board.boot_ns, NOW, 40)
    assert rig.keeper.wants_signed(True)  # the broker's certificate has "ended"
    rig.keeper.asked(rig.keeper.fetch())
    assert (rig.keeper.now().wall_ns, rig.keeper.now().state) == (NOW, "signed")
    assert rig.keeper.verify_at() == NOW // S
    assert rig.keeper.floor_utc_s() <= NOW / 1e9


def test_a_step_is_told_and_asks_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.board.synchronise()
    rig.start()
    rig.keeper.tick()
    assert not rig.keeper.wants_signed(False)
    for seconds in (-YEAR_S, 20 * YEAR_S):
        rig.board.step_wall(seconds)
        rig.keeper.tick()
        assert rig.steps[-1] == seconds * S
        assert rig.events[-1].code == STEPPED_CODE
        assert rig.events[-1].detail["by_ms"] == seconds * 1000
        assert rig.keeper.wants_signed(False)
    count = len(rig.events)
    rig.board.advance(1)
    rig.keeper.tick()
    assert len(rig.events) == count


def test_without_an_answer_it_asks_ever_more_slowly_and_never_gives_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    waits = []
    for _ in range(10):
        rig.ask()
        waited = 0
        while not rig.keeper.wants_signed(False):
            rig.board.advance(1)
            waited += 1
        waits.append(waited)
    assert waits[0] == FIRST_RETRY_S
    assert waits[-1] == LAST_RETRY_S
    assert rig.keeper.fault is not None
    rig.signed = Moment(rig.board.boot_ns, NOW, 40)
    rig.ask()
    assert rig.keeper.fault is None
    assert not rig.keeper.wants_signed(True)
    rig.board.advance(AGAIN_S)
    assert rig.keeper.wants_signed(False)


def test_nobody_to_ask(tmp_path: Path) -> None:
    keeper = Timekeeper(Board(boot_ns=S), tmp_path, None, lambda *_: None)
    assert not keeper.wants_signed(True)


def test_an_anchor_is_told_once_a_boot(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.keeper.tick()
    assert rig.codes() == []
    rig.board.advance(30)
    rig.board.synchronise()
    for _ in range(3):
        rig.keeper.tick()
    assert rig.codes() == [STEPPED_CODE, ANCHOR_CODE]
    assert rig.events[1].detail["source"] == "ntp"


def test_a_damaged_or_a_full_disk_costs_the_floor_and_nothing_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.board.synchronise()
    rig.keeper.tick()
    rig.keeper.keep()
    path = tmp_path / time_file.FOLDER / time_file.NAME
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:5] + b"\xff" + whole[6:], bytes(9000)):
        path.write_bytes(damaged)
        rig.start()
        assert rig.keeper.now().state == "ntp"
    path.unlink()
    path.mkdir()  # a rename onto it fails
    rig.keeper.keep()
    assert rig.keeper.now().state == "ntp"
