"""A disk that takes nothing: what goes on in memory, what is lost, what counts as coming back."""

from __future__ import annotations

import contextlib
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest

from edgewarden.errors import EdgewardenError, HardwareFault
from edgewarden.record import intake, memory
from edgewarden.record.intake import Intake
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.keeper import TELL_AGAIN_S, Keeper
from edgewarden.record.memory import MemoryChain
from edgewarden.record.refuge import LOOK_S, Known, Refuge
from edgewarden.record.segment import DiskRefuses
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import MEMORY, Kind, Record, RecordClass, decode_record
from tests.fakes.clock import FakeClock
from tests.fakes.ill_spool import REFUSES, TAKES, TORN, IllSpool

ALARM, AUDIT, BULK = RecordClass
WHO = Introduction(FileSigner.generate(), (b"leaf", b"issuing"), "test")


class Ward:
    """A keeper, its spool, and the disk's health in the test's hands."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.disk = [TAKES]
        self.clock = FakeClock()
        self.intake = Intake(self.clock, 3600, 1 << 16)
        self.key = FileSigner.generate()
        chain = MemoryChain("gw-ill", self.clock, self.key, WHO)
        self.refuge = Refuge(chain, state, self.open_journal, self.clock)
        self.keeper = Keeper(
            lambda: self.open_journal({}), WHO, self.clock, self.intake, self.refuge
        )

    def open_journal(self, known: Known) -> Journal:
        spool = IllSpool(self.state / FOLDER, known, self.disk)
        return Journal(spool, "gw-ill", self.clock, self.key)

    def begin(self) -> Ward:
        self.keeper.open()
        self.work()
        return self

    def work(self, seconds: float = 0, *, force: bool = False) -> None:
        self.clock.advance(seconds)
        self.keeper.work(force=force)
        self.keeper.publish()

    def alarm(self, **detail: Plain) -> None:
        event = Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)
        self.intake.add_event(event, ALARM)

    def waiting(self) -> list[Record]:
        """What is in memory and accepted by nobody."""
        return [
            decode_record(cose.open_envelope(r.data, ContentType.MEMORY).payload)
            for r in self.refuge.chain.rest()
        ]

    def durable(self, c: RecordClass) -> list[Record]:
        found = self.keeper.peek(c, 0, 1000, 1 << 20)
        return [
            decode_record(cose.open_envelope(r.data, ContentType.RECORD).payload) for r in found
        ]

    def whats(self, records: list[Record]) -> list[object]:
        details: list[Any] = [r.body.get("detail", {}) for r in records]
        return [detail.get("what", detail.get("n")) for detail in details]


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path).begin()


def test_facts_go_on_as_a_chain_of_the_report_key(ward: Ward) -> None:
    ward.disk[0] = REFUSES
    ward.alarm(n=1)
    ward.work()
    first, alarm, told = ward.waiting()
    assert (first.kind, first.seq, first.body["key"]) == (
        Kind.REPORT_KEY, 1, ward.key.public_key(),
    )  # fmt: skip
    assert first.body["behind"] == 1, "the introduction of this key is all that audit has"
    assert (alarm.seq, told.seq) == (2, 3)
    assert ward.whats([alarm, told]) == [1, "records are kept in memory only"]
    assert told.body["code"] == "EW-SPL-010"
    assert ward.keeper.memory.since_ns is not None
    assert isinstance(ward.keeper.fault, DiskRefuses)
    assert ward.keeper.state[MEMORY].durable == 3
    heads = {c: ward.keeper.state[c].durable for c in RecordClass}
    assert heads == dict.fromkeys(RecordClass, 1)


def test_a_disk_that_refuses_again_half_way_back_loses_nothing(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first part of the end carries is forgotten here: that part must stay."""
    monkeypatch.setattr("edgewarden.record.refuge.PIECE_BYTES", 1)
    ward.disk[0] = REFUSES
    for n in range(1, 4):
        ward.alarm(n=n)
    ward.work()
    ward.disk[0] = TAKES
    whole = Journal.end_of_memory

    def refuses_the_second(self: Journal, *of: Any, **more: Any) -> int:
        seq = whole(self, *of, **more)
        ward.disk[0] = REFUSES
        return seq

    monkeypatch.setattr(Journal, "end_of_memory", refuses_the_second)
    ward.work(LOOK_S + 1)
    assert ward.keeper.memory.since_ns is not None
    monkeypatch.setattr(Journal, "end_of_memory", whole)
    ward.disk[0] = TAKES
    ward.work(LOOK_S + 1)
    assert ward.keeper.memory.since_ns is None
    carried = [
        decode_record(cose.open_envelope(data, ContentType.MEMORY).payload)
        for record in ward.durable(AUDIT)
        if record.kind == Kind.MEMORY
        for data in record.body["records"]
    ]
    assert [record.seq for record in carried] == list(range(1, len(carried) + 1))
    assert {1, 2, 3} <= set(ward.whats(carried))


def test_no_file_of_the_spool_stays_open(ward: Ward) -> None:
    def held() -> list[str]:
        links = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        return [str(link) for link in links if link.is_relative_to(ward.state)]

    assert held()
    ward.disk[0] = REFUSES
    ward.alarm(n=1)
    ward.work()
    ward.work(LOOK_S)
    assert ward.keeper.peek(AUDIT, 0, 10, 1 << 20)
    assert held() == []


def test_it_comes_back_and_what_nobody_accepted_is_durable(ward: Ward) -> None:
    ward.disk[0] = REFUSES
    for n in range(3):
        ward.alarm(n=n)
    ward.work()
    ward.keeper.ack(MEMORY, 2)
    left = [record.data for record in ward.refuge.chain.rest()]
    ward.disk[0] = TAKES
    ward.work(LOOK_S / 2)
    assert ward.keeper.memory.since_ns is not None, "asked too soon"
    ward.work(LOOK_S)
    assert ward.keeper.fault is None
    assert ward.keeper.memory.since_ns is None
    _, end, back = ward.durable(AUDIT)
    assert end.kind == Kind.MEMORY
    assert end.body["records"] == left
    assert (end.body["key"], end.body["last"], end.body["more"]) == (ward.key.kid, 5, False)
    assert ward.whats([back]) == ["records are durable again"]
    assert ward.refuge.chain.rest() == []
    ward.alarm(n=9)
    ward.work()
    assert ward.whats(ward.durable(ALARM))[-1] == 9


def test_what_a_refused_commit_left_is_not_taken_up(ward: Ward) -> None:
    """Its fact went on in memory; a failed fsync may have kept it from the disk for ever."""
    ward.disk[0] = TORN
    ward.alarm(n="refused")
    ward.work()
    ward.disk[0] = TAKES
    ward.alarm(n="after")
    ward.work(LOOK_S)
    assert ward.whats(ward.durable(ALARM)) == [None, "after"]
    ward.keeper.close()
    again = Ward(ward.state).begin()
    assert ward.whats(again.durable(ALARM))[:2] == [None, "after"]


def test_a_long_chain_goes_to_the_disk_in_parts(ward: Ward) -> None:
    ward.disk[0] = REFUSES
    for n in range(12):
        ward.alarm(n=n, text="x" * 20_000)
    ward.work()
    ward.disk[0] = TAKES
    ward.work(LOOK_S)
    ends = [r for r in ward.durable(AUDIT) if r.kind == Kind.MEMORY]
    parts: list[Any] = [r.body["records"] for r in ends]
    assert sum(map(len, parts)) == 14
    assert [r.body["more"] for r in ends] == [True] * (len(ends) - 1) + [False]
    assert len(ends) > 1


def test_memory_is_bounded_and_what_finds_no_room_is_counted(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_RECORDS", 8)
    monkeypatch.setattr(intake, "MAX_WAITING", 5)
    ward.disk[0] = REFUSES
    ward.alarm(n=0)
    ward.work()
    for n in range(20):
        ward.alarm(n=n)
        ward.work()
    assert len(ward.refuge.chain.rest()) == 8
    lost = ward.keeper.lost()
    assert lost == 21 + 2 - 8 - 5  # facts, introduction and alarm; what is signed, what waits
    ward.disk[0] = TAKES
    ward.work(LOOK_S, force=True)
    back = next(r for r in ward.durable(AUDIT) if r.kind == Kind.EVENT)
    detail: Any = back.body["detail"]
    assert detail["lost"] == lost
    counts: Any = ward.durable(BULK)[-1].body["counts"]
    assert counts == {"alarm_overflow": lost}


def test_bulk_leaves_half_of_it_to_others(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_RECORDS", 8)
    ward.disk[0] = REFUSES
    for _ in range(10):
        ward.intake.add_reading(Reading("s", "n", "", 1.0, 1))
        ward.work(force=True)
    assert len(ward.refuge.chain.rest()) == 4
    ward.alarm(n=1)
    ward.work()
    assert ward.whats(ward.waiting())[-1] == 1


def test_one_alarm_for_a_disk_that_comes_and_goes(ward: Ward) -> None:
    for n in range(5):
        ward.disk[0] = REFUSES
        ward.alarm(n=n)
        ward.work()
        ward.disk[0] = TAKES
        ward.work(LOOK_S)
    told = [r for r in ward.durable(AUDIT) if r.body.get("code") == "EW-SPL-010"]
    assert len(told) == 1
    ward.disk[0] = REFUSES
    ward.alarm(n=9)
    ward.work()
    assert "records are kept in memory only" not in ward.whats(ward.waiting())
    ward.work(TELL_AGAIN_S)  # it stays away: told after all
    assert "records are kept in memory only" in ward.whats(ward.waiting())


def test_another_spool_in_its_place_is_left_alone(ward: Ward) -> None:
    """What lies under a filesystem that is not mounted."""
    ward.alarm(n=1)
    ward.work()
    ward.disk[0] = REFUSES
    ward.alarm(n=2)
    ward.work()
    shutil.move(ward.state / FOLDER, ward.state / "mounted")
    ward.disk[0] = TAKES
    ward.work(LOOK_S)
    assert ward.keeper.memory.since_ns is not None
    assert not (ward.state / FOLDER).exists(), "made a spool where none is"
    DiskSpool(ward.state / FOLDER, 64 << 20).close()
    ward.work(LOOK_S)
    assert isinstance(ward.keeper.fault, HardwareFault)
    assert ward.keeper.fault.code == "EW-SPL-011"
    shutil.rmtree(ward.state / FOLDER)
    shutil.move(ward.state / "mounted", ward.state / FOLDER)
    ward.work(LOOK_S)
    assert ward.keeper.fault is None
    assert ward.whats(ward.durable(ALARM))[:2] == [None, 1]


def test_another_link_on_it_meanwhile_keeps_us_away(ward: Ward) -> None:
    ward.disk[0] = REFUSES
    ward.alarm(n=1)
    ward.work()
    other = DiskSpool(ward.state / FOLDER, 64 << 20)
    ward.disk[0] = TAKES
    ward.work(LOOK_S)
    assert ward.keeper.fault is not None
    assert ward.keeper.fault.code == "EW-SPL-009"
    other.close()
    ward.work(LOOK_S)
    assert ward.keeper.fault is None


def test_what_waits_on_the_disk_is_read_meanwhile(ward: Ward) -> None:
    for n in range(3):
        ward.alarm(n=n)
    ward.work()
    ward.keeper.ack(ALARM, 1)
    ward.disk[0] = TORN
    ward.alarm(n="refused")
    ward.work()
    assert ward.whats(ward.durable(ALARM)) == [0, 1, 2]
    assert len(ward.keeper.peek(ALARM, 0, 2, 1 << 20)) == 2
    assert [r.seq for r in ward.keeper.peek(ALARM, 2, 9, 1)] == [3]
    ward.keeper.ack(ALARM, 3)
    ward.disk[0] = TAKES
    ward.work(LOOK_S)
    assert ward.keeper.state[ALARM].acked == 3


def test_a_start_without_a_disk(tmp_path: Path) -> None:
    first = Ward(tmp_path).begin()
    first.alarm(n=1)
    first.work()
    first.keeper.close()
    ward = Ward(tmp_path)
    ward.disk[0] = REFUSES
    ward.begin()
    assert ward.keeper.state[ALARM].durable == 2
    assert [r.kind for r in ward.waiting()] == [Kind.REPORT_KEY, Kind.EVENT]
    with pytest.raises(EdgewardenError):  # who knows what of its end is on the disk at all
        ward.keeper.peek(ALARM, 0, 10, 1 << 20)
    ward.disk[0] = TAKES
    ward.work(LOOK_S)
    kinds = [r.kind for r in ward.durable(AUDIT)]
    assert kinds == [Kind.REPORT_KEY, Kind.REPORT_KEY, Kind.MEMORY, Kind.EVENT]


def test_a_start_without_disk_and_spool_is_refused(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.disk[0] = REFUSES
    with pytest.raises(DiskRefuses):
        ward.keeper.open()


def test_nothing_is_attested_while_nothing_is_durable(tmp_path: Path) -> None:
    """Evidence names the heads; a start without a disk does not know them."""
    Ward(tmp_path).begin().keeper.close()
    ward = Ward(tmp_path)
    ward.disk[0] = REFUSES
    storage = StorageThread(
        lambda: ward.open_journal({}), WHO, ward.clock,
        bulk_commit_s=10, bulk_commit_bytes=1 << 16, refuge=ward.refuge,
    )  # fmt: skip
    storage.start()
    try:
        with pytest.raises(HardwareFault) as caught:
            storage.heads()
        assert caught.value.code == "EW-SPL-010"
        with pytest.raises(EdgewardenError):
            storage.attest(b"evidence", {}).result(60)
    finally:
        storage.stop()


def test_a_disk_that_is_away_for_long_keeps_no_frame_for_each_round(ward: Ward) -> None:
    """One fault is raised in each round: a traceback goes on where it ended, 0.8 kB more."""
    ward.disk[0] = REFUSES
    ward.alarm(n=0)
    ward.work()
    for _ in range(100):
        ward.work(0.01)
        with contextlib.suppress(EdgewardenError):
            ward.keeper.disk()
        held = ward.keeper.fault
        assert held is not None
        assert len(list(traceback.walk_tb(held.__traceback__))) <= 2
    assert isinstance(held, DiskRefuses)
