"""What waits for link: alarms never lost, totals exact, the rest bounded; a real socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.gate.facts import AGAIN_S, FLUSH_S, ROUTINE_FACTS, FactsOut
from edgewarden.gate.sockets import listen
from edgewarden.wire import local
from edgewarden.wire.local import Alarm, AnyMessage, ExecVerdict, GateStats, ProcBatch, ProcEntry
from tests.gate.test_ledger import verdict


class Line:
    """FactsOut and the client at its other end."""

    def __init__(self, path: Path) -> None:
        self.out = FactsOut(listen(str(path), owner_uid=os.getuid()), {os.getuid()})
        self.path = path
        self.client: socket.socket | None = None

    def connect(self) -> None:
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.connect(str(self.path))
        self.client.setblocking(False)
        assert self.out.accept()

    def heard(self) -> list[AnyMessage]:
        assert self.client is not None
        found = []
        while True:
            try:
                found.append(local.parse(self.client.recv(4096), *local.FACTS))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.out.drop_client()
        self.out.listener.close()
        if self.client is not None:
            self.client.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "s")
    yield made
    made.close()


def stats(allowed: int) -> GateStats:
    return GateStats("learn", "T0", "none", *[False] * 3, *[0] * 4, allowed, *[0] * 13)


def test_process_totals_stay_exact_while_nobody_listens(line: Line) -> None:
    entries = tuple(ProcEntry("exec", pid, 0, 1) for pid in range(40))
    for _ in range(1000):
        line.out.put(ProcBatch(3, 2, 1, False, entries))
    line.connect()
    line.out.flush(1.0)
    [batch] = line.heard()
    assert isinstance(batch, ProcBatch)
    assert (batch.forks, batch.execs, batch.exits) == (3000, 2000, 1000)
    assert batch.resync
    assert len(batch.entries) == local.MAX_BATCH


def test_of_statistics_the_newest_is_told(line: Line) -> None:
    line.out.put(stats(1))
    line.out.put(stats(2))
    line.connect()
    line.out.flush(1.0)
    assert line.heard() == [stats(2)]


def sized(allowed: int, boot_ns: int) -> GateStats:
    """As a gate says it: its size and the time are other ones each time."""
    return GateStats(
        "learn", "T0", "none", *[False] * 3, *[0] * 4, allowed, *[0] * 10, boot_ns, 7, boot_ns
    )


def test_what_the_client_knows_wakes_it_once_a_minute(line: Line) -> None:
    line.connect()
    for second, allowed in ((0, 1), (10, 1), (20, 2), (30, 2), (79, 2), (80, 2), (90, 2)):
        line.out.tell([sized(allowed, second)], float(second))
        line.out.flush(float(second))
    assert line.heard() == [sized(1, 0), sized(2, 20), sized(2, 80)]
    assert AGAIN_S == 60


def test_a_client_that_came_anew_knows_nothing(line: Line) -> None:
    for second in range(2):
        line.connect()
        line.out.tell([sized(1, second)], float(second))
        line.out.flush(float(second))
        assert line.heard() == [sized(1, second)]
        line.out.drop_client()
        assert line.client is not None
        line.client.close()


def test_routine_gives_way_and_is_counted_and_alarms_stay(line: Line) -> None:
    line.out.put(verdict(1))
    for i in range(ROUTINE_FACTS + 10):
        line.out.put(verdict(i, decision="allow"))
    line.out.put(Alarm("EW-EXEC-004", 5, "gate was ended", 5))
    assert line.out.dropped == 10
    line.connect()
    heard: list[AnyMessage] = []
    for second in range(20):
        line.out.flush(float(second))
        heard += line.heard()
    assert heard[:2] == [verdict(1), Alarm("EW-EXEC-004", 5, "gate was ended", 5)]
    allowed = [one for one in heard if isinstance(one, ExecVerdict) and one.decision == "allow"]
    assert len(allowed) == ROUTINE_FACTS
    assert not line.out.waiting


def test_an_alarm_is_due_at_once_the_rest_together(line: Line) -> None:
    line.connect()
    assert not line.out.due(1.0)
    line.out.put(verdict(1, decision="allow"))
    assert not line.out.due(1.0)
    assert line.out.due(1.0 + FLUSH_S)
    line.out.put(verdict(2))
    assert line.out.due(1.0)


def test_a_full_socket_is_asked_for_room_and_not_tried_in_circles(line: Line) -> None:
    line.connect()
    for i in range(2000):
        line.out.put(Alarm("EW-EXEC-004", 5, "x" * 200 + str(i % 300), 5))
    line.out.flush(1.0)
    assert line.out.waiting
    assert not line.out.due(1e9)
    heard: list[AnyMessage] = []
    now = 2.0
    while line.out.waiting or len(heard) < 300:
        heard += line.heard()
        now += 1.0
        line.out.flush(now)
        assert now < 100
    assert sum(isinstance(one, Alarm) for one in heard) == 300


def test_a_client_that_went_costs_nothing_that_waits(line: Line) -> None:
    line.connect()
    assert line.client is not None
    line.client.close()
    line.out.put(verdict(1))
    line.out.flush(1.0)
    assert line.out.fileno() == -1
    line.connect()
    line.out.flush(2.0)
    assert line.heard() == [verdict(1)]
