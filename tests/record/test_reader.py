"""The read side: finds what does not fit, and leaves no trace."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewarden.errors import OperatorFault, TrustFault
from edgewarden.ports import Stored
from edgewarden.record import beside, reader
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.reader import VerifyReport, iterate, salvage, stat, verify
from edgewarden.record.rows import row_sum
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire.cose import Verify
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock
from tests.noise import noise

ALARM, AUDIT, BULK = RecordClass
IDENTITY = FileSigner.generate()
CHAIN = (b"leaf", b"issuing")


def identity_of(chain: tuple[bytes, ...]) -> Verify:
    if chain != CHAIN:
        raise TrustFault("not the chain")
    return verifier_for(IDENTITY.public_key())


def check(state: Path) -> VerifyReport:
    return verify(state, verifier_for, identity_of)


def started(state: Path, cap: int = 4 << 20) -> tuple[DiskSpool, Journal]:
    spool = DiskSpool(state / FOLDER, cap)
    journal = Journal(spool, "gw-demo", FakeClock(), FileSigner.generate())
    journal.introduce(Introduction(IDENTITY, CHAIN, "0"))
    return spool, journal


def event(n: int) -> Event:
    return Event(OCSF.HEALTH, 1, Severity.LOW, 1, {"n": n, "text": "x" * 500})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two starts, a few hundred records, one eviction, some accepted."""
    for start in range(2):
        spool, journal = started(tmp_path, 2 << 20)
        for n in range(100):
            journal.event(ALARM, event(n))
            journal.batch([Reading("s", "n", "", noise(9000, n), 1)], [], {})
        if start == 0:
            spool.ack(ALARM, 40)
        spool.close()
    return tmp_path


def newest(state: Path, record_class: RecordClass) -> Path:
    return max((state / FOLDER / record_class.label).glob("*.seg"))


def change(path: Path, sql: str, *values: object) -> None:
    db = sqlite3.connect(path)
    db.execute(sql, values)
    db.commit()
    db.close()


def picture(state: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(f): (f.stat().st_size, f.stat().st_mtime_ns, f.read_bytes())
        for f in state.rglob("*")
        if f.is_file()
    }


def test_an_honest_spool_verifies(state: Path) -> None:
    report = check(state)
    assert report.ok, report
    alarm, bulk = report.classes[ALARM], report.classes[BULK]
    assert (alarm.first, alarm.last, alarm.records) == (1, 202, 202)
    assert alarm.signed == 202
    assert bulk.gaps[0][0] == 1
    assert bulk.gaps[-1][1] == bulk.first - 1 > 0
    states = stat(state)
    assert (states[ALARM].durable, states[ALARM].acked) == (202, 40)
    assert states[BULK].evicted == bulk.first - 1
    assert [s.seq for s in iterate(state, ALARM)] == list(range(1, 203))


def test_reading_leaves_no_trace(state: Path) -> None:
    before = picture(state)
    assert check(state).ok
    stat(state)
    assert picture(state) == before


def test_a_living_agents_spool_can_be_read(tmp_path: Path) -> None:
    spool, journal = started(tmp_path)
    for n in range(20):
        journal.event(ALARM, event(n))
    assert list((tmp_path / FOLDER / "alarm").glob("*-wal")), "there is a log beside the file"
    assert check(tmp_path).ok
    assert stat(tmp_path)[ALARM].durable == 21
    journal.event(ALARM, event(20))
    assert check(tmp_path).classes[ALARM].last == 22
    spool.close()


@pytest.mark.parametrize("index", ["whole", "gone", "zeroed", "empty"])
def test_what_a_killed_agent_left_can_be_read(tmp_path: Path, index: str) -> None:
    spool, journal = started(tmp_path / "alive")
    for n in range(20):
        journal.event(ALARM, event(n))
    shutil.copytree(tmp_path / "alive", tmp_path / "dead")
    spool.close()
    for file in (tmp_path / "dead").rglob("*-shm"):
        if index == "gone":
            file.unlink()
        elif index != "whole":
            file.write_bytes(bytes(file.stat().st_size if index == "zeroed" else 0))
    before = picture(tmp_path / "dead")
    assert check(tmp_path / "dead").classes[ALARM].last == 21
    assert check(tmp_path / "dead").ok
    assert picture(tmp_path / "dead") == before


def put(path: Path, seq: int, data: bytes) -> None:
    sql = "UPDATE record SET data=?, sum=? WHERE seq=?"
    change(path, sql, data, row_sum(seq, data), seq)


def test_a_changed_byte_is_found(state: Path) -> None:
    with closing(sqlite3.connect(newest(state, ALARM))) as db:
        rows = db.execute("SELECT seq, data FROM record ORDER BY seq LIMIT 1 OFFSET 3")
        seq, data = rows.fetchone()
    changed = bytearray(data)
    changed[-100] ^= 1
    change(newest(state, ALARM), "UPDATE record SET data=? WHERE seq=?", bytes(changed), seq)
    for report in (check(state), verify(state)):
        assert report.classes[ALARM].faults == [
            (seq, f"{seq} to {seq} are damaged without a gap record")
        ]


def test_a_byte_changed_by_somebody_who_knows_the_checksum_is_found(state: Path) -> None:
    with closing(sqlite3.connect(newest(state, ALARM))) as db:
        rows = db.execute("SELECT seq, data FROM record ORDER BY seq LIMIT 1 OFFSET 3")
        seq, data = rows.fetchone()
    changed = bytearray(data)
    changed[-100] ^= 1
    put(newest(state, ALARM), seq, bytes(changed))
    faults = check(state).classes[ALARM].faults
    assert [f[0] for f in faults] == [seq, seq + 1], "itself, and the chain behind it"
    assert "bad_signature" in faults[0][1]
    without_keys = verify(state)
    assert [f[0] for f in without_keys.classes[ALARM].faults] == [seq + 1]


def test_a_removed_record_is_found(state: Path) -> None:
    report = check(state)
    seq = report.classes[ALARM].last - 5
    change(newest(state, ALARM), "DELETE FROM record WHERE seq=?", seq)
    assert check(state).classes[ALARM].faults == [
        (seq, f"{seq} to {seq} are missing without a gap record")
    ]


def test_two_records_that_changed_places_are_found(state: Path) -> None:
    path = newest(state, ALARM)
    db = sqlite3.connect(path)
    rows = db.execute("SELECT seq, data FROM record ORDER BY seq DESC LIMIT 2 OFFSET 2").fetchall()
    db.close()
    (one, data_one), (other, data_other) = rows
    put(path, one, data_other)
    put(path, other, data_one)
    texts = [text for _, text in check(state).classes[ALARM].faults]
    assert any("says it is" in text for text in texts)


def test_a_removed_segment_is_found(state: Path) -> None:
    middle = sorted((state / FOLDER / "bulk").glob("*.seg"))[1]
    middle.unlink()
    faults = check(state).classes[BULK].faults
    assert len(faults) == 1
    assert "missing without a gap record" in faults[0][1]


def test_a_gap_record_that_does_not_meet_the_next_record_is_found(tmp_path: Path) -> None:
    spool, journal = started(tmp_path, 2 << 20)
    for n in range(60):
        journal.batch([Reading("s", "n", "", noise(9000, n), 1)], [], {})
    loss = spool.victim("spool full")
    assert loss is not None
    spool._victim = forged = replace(loss, after=b"\x01" * 32)
    journal._put_gap(forged)
    spool.close()
    faults = check(tmp_path).classes[BULK].faults
    assert faults == [(1, f"1 to {loss.last} are missing without a gap record")]


def test_a_forged_introduction_is_found(state: Path) -> None:
    def nobody(chain: tuple[bytes, ...]) -> Verify:
        return verifier_for(FileSigner.generate().public_key())

    assert not verify(state, verifier_for, nobody).ok


def test_a_damaged_segment_is_named_and_explained_after_the_next_start(state: Path) -> None:
    path = newest(state, ALARM)
    path.write_bytes(bytes(path.stat().st_size))
    assert not check(state).ok
    spool, journal = started(state)
    journal.explain_losses()
    spool.close()
    report = check(state).classes[ALARM]
    assert [name.endswith(".bad") for name in report.bad_segments] == [True]
    assert report.faults == [], "the gap record says what is missing"
    assert report.gaps


def test_no_spool_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault) as caught:
        stat(tmp_path)
    assert caught.value.code == "EW-SPL-005"


class Living:
    """An agent that goes on when a file of its spool is about to be opened by the reader."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool, self.journal = started(state, 2 << 20)
        self.does: Callable[[], None] = lambda: None
        self.at = ""
        self._n = 0
        whole = beside.opened

        def meanwhile(path: Path) -> AbstractContextManager[sqlite3.Connection]:
            if path.parent.name == self.at and path == min(path.parent.glob("*.seg")):
                self.at = ""
                self.does()
            return whole(path)

        monkeypatch.setattr(reader, "opened", meanwhile)

    def write(self, count: int) -> None:
        for _ in range(count):
            self._n += 1
            if not self.spool.room_for(BULK, 12_000):
                loss = self.spool.victim("spool full")
                assert loss is not None
                self.journal._put_gap(loss)
            self.journal.batch([Reading("s", "n", "", noise(9000, self._n), 1)], [], {})

    def leaves(self, upto: int, record_class: RecordClass = BULK) -> None:
        """The broker accepts, and the next commit deletes."""
        self.spool.ack(record_class, upto)
        self.write(1)


@pytest.fixture
def living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Living]:
    agent = Living(tmp_path, monkeypatch)
    yield agent
    agent.spool.close()


@pytest.mark.parametrize("at", ["audit", "alarm", "bulk"])
def test_a_backlog_that_leaves_meanwhile_is_no_fault(
    living: Living, tmp_path: Path, at: str
) -> None:
    living.write(80)
    before = len(list((tmp_path / FOLDER / "bulk").glob("*.seg")))
    living.at, living.does = at, lambda: living.leaves(75)
    report = check(tmp_path)
    assert before > 3 > len(list((tmp_path / FOLDER / "bulk").glob("*.seg")))
    assert report.classes[BULK].faults == []
    assert report.ok
    living.write(60)
    living.at, living.does = "bulk", lambda: living.leaves(130)
    exported = list(salvage(tmp_path, BULK))
    assert [one for one in exported if not isinstance(one, Stored)] == []
    assert exported


def test_records_that_left_between_two_files_are_no_fault(
    living: Living, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is read, then what it and the next ones hold is accepted."""
    living.write(80)
    whole, calls = reader.read_each, [0]

    def then_leaves(*of: Any) -> Iterator[Stored | int]:
        yield from whole(*of)
        calls[0] += of[1] == BULK
        if calls[0] == 1:
            calls[0] += 1
            living.leaves(75)

    monkeypatch.setattr(reader, "read_each", then_leaves)
    report = check(tmp_path)
    assert calls[0] > 2
    assert report.classes[BULK].first == 1
    assert report.classes[BULK].faults == []
    assert report.ok


def test_what_is_evicted_meanwhile_is_explained(living: Living, tmp_path: Path) -> None:
    living.write(100)
    living.at, living.does = "bulk", lambda: living.write(100)
    report = check(tmp_path)
    assert living.spool.state()[BULK].evicted
    assert report.classes[BULK].faults == []
    assert report.ok


def test_what_goes_away_and_was_not_accepted_is_found(living: Living, tmp_path: Path) -> None:
    living.write(80)
    files = sorted((tmp_path / FOLDER / "bulk").glob("*.seg"))

    def somebody_deletes() -> None:
        living.spool.ack(BULK, 3)
        living.write(1)
        files[0].unlink()
        files[2].unlink()

    living.at, living.does = "bulk", somebody_deletes
    faults = check(tmp_path).classes[BULK].faults
    assert [text.partition(" ")[2].partition(" are ")[2] for _, text in faults] == [
        "missing without a gap record"
    ] * 2
    assert faults[0][0] == 4


def test_the_counters_of_a_living_agent_can_be_asked_for(
    living: Living, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is listed may be gone when it is measured, and the newest when it is read."""
    living.write(30)
    listed, left = Path.glob, [1] * 4

    def then_all_leave(folder: Path, pattern: str) -> Iterator[Path]:
        found = list(listed(folder, pattern))
        if folder.name == "bulk" and left:
            left.pop()
            living.write(40)
            living.leaves(living.spool.heads()[BULK][0])
        return iter(found)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", then_all_leave)
        for _ in range(3):
            known = stat(tmp_path)[BULK].durable
    assert left == []
    assert known == living.spool.heads()[BULK][0]
    assert stat(tmp_path)[BULK].durable == living.spool.heads()[BULK][0]
