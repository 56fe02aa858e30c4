"""Whose facts the stored bytes are: every byte once, names bounded, and only what is durable."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgewarden.ports import Loss
from edgewarden.record.journal import Introduction, Journal, SpoolFull
from edgewarden.record.segment import DiskFull
from edgewarden.record.spool import DiskSpool
from edgewarden.record.wear import (
    AGENT,
    EVIDENCE,
    JOURNAL,
    MAX_NAMES,
    OTHER,
    Wear,
    collector_of,
    weights,
)
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock
from tests.fakes.spool import MemorySpool

KEY = FileSigner.generate()
WHO = Introduction(FileSigner.generate(), (b"leaf",), "1")


def event(kind: OCSF = OCSF.HEALTH, **detail: Plain) -> Event:
    return Event(kind, 1, Severity.LOW, 1, detail)


def reading(source: str, name: str = "t") -> Reading:
    return Reading(source, name, "Cel", 1.5, 1)


class World:
    """A journal that counts, on a spool in memory."""

    def __init__(self) -> None:
        self.spool, self.wear = MemorySpool(), Wear()
        self.journal = Journal(self.spool, "gw-demo", FakeClock(), KEY, self.wear)
        self.journal.introduce(WHO)

    def stored(self) -> int:
        """Bytes of every record on the spool."""
        found = 0
        for c in RecordClass:
            found += sum(len(r.data) for r in self.spool.peek(c, 0, 1000, 1 << 30))
        return found


def test_what_is_packed_on_the_disk_is_counted_as_it_lies_there(tmp_path: Path) -> None:
    """Else the records alone would be more than the kernel counts for all of it."""
    spool, wear = DiskSpool(tmp_path, 4 << 20), Wear()
    journal = Journal(spool, "gw-demo", FakeClock(), KEY, wear)
    journal.introduce(WHO)
    signed = 0
    for n in range(4):
        seq = journal.batch([reading("gps", f"channel-{i % 20}") for i in range(200 * n)], [], {})
        signed += len(spool.peek(RecordClass.BULK, seq - 1, 1, 1 << 20)[0].data)
    spool.close()
    lying = 0
    for path in tmp_path.rglob("*.seg"):
        with closing(sqlite3.connect(path)) as db:
            lying += db.execute("SELECT sum(length(data)) FROM record").fetchone()[0]
    counted = wear.snapshot()
    assert sum(counted.values()) == lying
    assert 0 < counted["gps"] < signed / 3


def test_every_byte_of_every_record_is_somebodys() -> None:
    world = World()
    chance = random.Random(6)
    world.journal.event(RecordClass.ALARM, event(OCSF.DETECTION_FINDING))
    world.journal.attestation(bytes(32), world.journal.heads())
    world.journal.evidence(b"e" * 900)
    world.journal.end_of_memory(b"kid", (1, bytes(32)), [b"r" * 50], more=False)
    for _ in range(40):
        sources = [f"s{chance.randrange(9)}" for _ in range(chance.randrange(1, 60))]
        events = [event(OCSF.NETWORK_ACTIVITY, action="x")] * chance.randrange(3)
        world.journal.batch([reading(s) for s in sources], events, {"shed": 1})
    by = world.wear.snapshot()
    assert sum(by.values()) == world.stored()
    assert by[EVIDENCE] > 900
    assert by[JOURNAL] > 0
    assert {"s0", "s8", "network", "findings"} <= set(by)


def test_a_batch_is_shared_by_what_each_brought() -> None:
    world = World()
    world.journal.batch([reading("gps")] * 90 + [reading("host")] * 10, [], {})
    by = world.wear.snapshot()
    assert by["gps"] == pytest.approx(9 * by["host"], rel=0.01)


def test_a_batch_of_counters_alone_is_the_agents() -> None:
    world = World()
    before = world.stored()
    world.journal.batch([], [], {"bulk_dropped": 7})
    assert world.wear.snapshot()[AGENT] == world.stored() - before > 0


def test_what_the_disk_refused_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    before = world.wear.snapshot()

    def refuse(*_: object) -> None:
        raise DiskFull("full")

    monkeypatch.setattr(world.spool, "put", refuse)
    monkeypatch.setattr(world.spool, "lend_ballast", lambda: False)
    monkeypatch.setattr(world.spool, "victim", lambda _: None)
    with pytest.raises(SpoolFull):
        world.journal.event(RecordClass.ALARM, event())
    assert world.wear.snapshot() == before


def test_a_gap_record_is_the_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    before, stored = world.wear.snapshot()[JOURNAL], world.stored()
    loss = Loss(int(RecordClass.BULK), 2, 3, bytes(32), bytes(32), "damage")
    monkeypatch.setattr(world.spool, "losses", lambda: [loss])
    world.journal.explain_losses()
    assert world.wear.snapshot()[JOURNAL] - before == world.stored() - stored > 0


def test_names_from_outside_cost_no_memory() -> None:
    wear = Wear()
    for i in range(5000):
        wear.add({f"device:{i}": 3, "gps": 1}, 1000)
    by = wear.snapshot()
    assert len(by) == MAX_NAMES + 1
    assert sum(by.values()) == 5_000_000
    assert by[OTHER] > 4000 * 700
    assert by["gps"] == 1_250_000


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (event(OCSF.PROCESS_ACTIVITY, action="denied", rule="default"), "exec"),
        (event(OCSF.PROCESS_ACTIVITY, processes=[]), "processes"),
        (event(OCSF.PERIPHERAL_ACTIVITY, peripheral_device={"class": "USB device", "name": "x"}),
         "peripherals"),
        (event(OCSF.PERIPHERAL_ACTIVITY, peripheral_device={"class": "serial", "name": "gps"}),
         "gps"),
        (event(OCSF.DETECTION_FINDING, peripheral_device={"class": "modbus", "name": "plc"}),
         "plc"),
        (event(OCSF.DETECTION_FINDING, peripheral_device={"class": "serial", "name": 7}),
         "findings"),
        (event(OCSF.NETWORK_ACTIVITY), "network"),
        (event(OCSF.CONFIG_STATE), "settings"),
        (event(OCSF.HEALTH, what="x"), "agent"),
        (event(OCSF.EVENT_LOG_ACTIVITY), "agent"),
    ],
)  # fmt: skip
def test_who_an_event_is_counted_for(one: Event, name: str) -> None:
    assert collector_of(one) == name
    assert list(weights([], [one])) == [name]
