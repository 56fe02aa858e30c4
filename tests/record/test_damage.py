"""Acceptance 10 of the data plane: a disk that alters bytes costs the rows it altered, and nothing
that was altered is ever given out.

One file of a spool that a power cut left is damaged at a time, by a seed: 1 to 1000 bytes flipped,
a part zeroed, the end cut off. ``--runs 1000`` is the full count.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgewarden.ports import Loss, Stored
from edgewarden.record import rows as rows_module
from edgewarden.record.patience import LOOKS, Patience
from edgewarden.record.reader import salvage
from edgewarden.record.rows import FORMAT, FORMATS
from edgewarden.record.segment import (
    Segment,
    parse_name,
    remove_files,
    segment_name,
    side_files,
)
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.wire.record import NO_PREDECESSOR, RecordClass, record_hash
from tests.record.records import fill, made

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)
CAP = 4 << 20
EVERYTHING = 1 << 30
FORMATS_BEFORE = [found for found in FORMATS if found != FORMAT]


@dataclass(frozen=True, slots=True)
class Left:
    """What a power cut left: the folder, and what was durable in it."""

    state: Path
    records: dict[int, dict[int, Stored]]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Several segments of bulk, one of each other class, logs not yet copied into the files."""
    folder = tmp_path_factory.mktemp("spool")
    spool = DiskSpool(folder / "living", CAP)
    records: dict[int, dict[int, Stored]] = {c: {} for c in (ALARM, AUDIT, BULK)}
    for i in range(60):
        for c, size in ((BULK, 9000 + i), (ALARM, 200 + i), (AUDIT, 2900)):
            (one,) = fill(spool, c, 1, size=size, packs=c == AUDIT)
            records[c][one.seq] = one
    shutil.copytree(folder / "living", folder / "state" / FOLDER)
    spool.close()
    return Left(folder / "state", records)


def spoil(folder: Path, chance: random.Random) -> str:
    """Damage one file as a disk does; what was done."""
    files = sorted(
        f for f in folder.rglob("*") if f.is_file() and f.name != "ballast" and f.stat().st_size
    )
    path = chance.choice([f for f in files if f.name not in ("lock",)])
    data = bytearray(path.read_bytes())
    how = chance.choice(["flip", "flip", "flip", "zero", "cut"])
    if how == "flip":
        for _ in range(chance.choice([1, 1, 2, 10, 100, 1000])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "zero":
        at = chance.randrange(len(data))
        size = min(chance.choice([1, 512, 4096, 1 << 20]), len(data) - at)
        data[at : at + size] = bytes(size)
    else:
        del data[chance.randrange(len(data)) :]
    path.write_bytes(data)
    return f"{how} in {path.relative_to(folder)}"


def covered(losses: list[Loss], c: int) -> set[int]:
    return {
        seq for loss in losses if loss.record_class == c for seq in range(loss.first, loss.last + 1)
    }


def drain(spool: DiskSpool, c: int) -> list[Stored]:
    """As the link does: a few at a time, from where it is."""
    found: list[Stored] = []
    while more := spool.peek(c, found[-1].seq if found else 0, 7, 64 << 10):
        found += more
    return found


def cases(left: Left, tmp_path: Path, count: int) -> Iterator[tuple[str, Path]]:
    for seed in range(count):
        state = tmp_path / str(seed)
        shutil.copytree(left.state, state)
        yield f"seed {seed}: {spoil(state / FOLDER, random.Random(seed))}", state
        shutil.rmtree(state)


def test_a10_nothing_altered_is_given_out_and_what_is_missing_is_told(
    left: Left, tmp_path: Path, runs: int
) -> None:
    for what, state in cases(left, tmp_path, 5 * runs):
        spool = DiskSpool(state / FOLDER, CAP)  # it starts, always
        for c in left.records:
            drain(spool, c)
        spool.close()  # before anything of it was told
        spool = DiskSpool(state / FOLDER, CAP)
        for c, written in left.records.items():
            found = drain(spool, c)
            assert [r.seq for r in found] == sorted({r.seq for r in found}), what
            assert all(written[r.seq] == r for r in found), f"{what}: altered, or never written"
            missing = set(written) - {r.seq for r in found}
            assert missing <= covered(spool.losses(), c), f"{what}: class {c} lost silently"
            assert spool.heads()[c][0] >= max(written), f"{what}: a number may be used twice"
        for loss in spool.losses():  # told, once
            spool.put_gap(made(spool, AUDIT), loss)
        before = {c: drain(spool, c) for c in left.records}
        assert spool.losses() == [], what
        spool.close()
        again = DiskSpool(state / FOLDER, CAP)
        assert {c: drain(again, c) for c in left.records} == before, what
        assert again.losses() == [], f"{what}: told twice"
        again.close()


def spoilt(left: Left, folder: Path, at: int, bit: int) -> DiskSpool:
    """A spool, opened, of which one bit of an alarm segment is another."""
    shutil.copytree(left.state / FOLDER, folder)
    (path,) = (folder / "alarm").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return DiskSpool(folder, CAP)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """One alarm segment at rest: what it holds is in the file."""
    folder = tmp_path_factory.mktemp("closed")
    spool = DiskSpool(folder / FOLDER, CAP)
    records = {one.seq: one for one in fill(spool, ALARM, 12, size=200)}
    spool.close()
    return Left(folder, {ALARM: records})


HEAD = [(at, bit) for at in (16, 17, 18, 19, 20, 44, 45, 46, 47, 59, 63, 95) for bit in range(8)]
"""What SQLite's own head says of the file: page size, who may write, format, encoding, version."""


@pytest.mark.parametrize("place", ["head", "schema"])
def test_a10_a_bit_of_what_sqlite_says_of_the_file_holds_up_nothing(
    closed: Left, tmp_path: Path, place: str
) -> None:
    """A version that it does not know it calls another matter than damage, and so the spool did
    not open, or took the disk for read-only, for good."""
    (path,) = (closed.state / FOLDER / "alarm").glob("*.seg")
    text = path.read_bytes().index(b"CREATE TABLE record")
    spots = HEAD if place == "head" else [(text + n, 7) for n in range(len(b"CREATE TABLE record"))]
    for n, (at, bit) in enumerate(spots):
        spool = spoilt(closed, tmp_path / str(n), at, bit)
        found = drain(spool, ALARM)
        assert all(closed.records[ALARM][r.seq] == r for r in found), (at, bit)
        missing = closed.records[ALARM].keys() - {r.seq for r in found}
        assert missing <= covered(spool.losses(), ALARM), (at, bit)
        (again,) = fill(spool, ALARM, 1)
        assert again.seq > 12, (at, bit)
        spool.close()
        shutil.rmtree(tmp_path / str(n))


def test_a10_a_record_that_a_flipped_bit_calls_text_costs_itself(tmp_path: Path) -> None:
    """The bit is in the row's head, the bytes are what they were; a strict reader called the whole
    file ill at each look, and the class waited for ever."""
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, ALARM, 4)
    spool.put([Stored(ALARM, 5, b"\xff\xfe" * 40)])
    records += fill(spool, ALARM, 4)
    spool.close()
    (path,) = (tmp_path / "alarm").glob("*.seg")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE record SET data = CAST(data AS TEXT) WHERE seq = 5")
    db.close()
    again = DiskSpool(tmp_path, CAP)
    assert drain(again, ALARM) == records
    assert covered(again.losses(), ALARM) == {5}
    again.close()


def test_a10_a_flipped_bit_costs_one_row(left: Left, tmp_path: Path, runs: int) -> None:
    chance = random.Random(11)
    for i in range(runs):
        state = tmp_path / str(i)
        shutil.copytree(left.state, state)
        path = sorted((state / FOLDER / "bulk").glob("*.seg"))[0]
        one = left.records[BULK][chance.randrange(1, 20)]
        whole, start = path.read_bytes(), one.data[:40]
        assert start in whole
        # Everywhere: pages that were split keep what has moved to another one.
        path.write_bytes(whole.replace(start, start[:20] + b"," + start[21:]))
        spool = DiskSpool(state / FOLDER, CAP)
        assert [r.seq for r in drain(spool, BULK)] == [s for s in range(1, 61) if s != one.seq]
        (loss,) = spool.losses()
        assert (loss.first, loss.last) == (one.seq, one.seq)
        assert loss.reason == "segment damaged"
        spool.close()
        shutil.rmtree(state)


def test_a10_without_the_checksum_altered_records_are_given_out(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the damage of the first test does reach what is read."""
    monkeypatch.setattr(rows_module, "row_sum", lambda seq, data: 0)
    monkeypatch.setattr(
        rows_module,
        "_QUERIES",
        {key: query.replace("sum", "0") for key, query in rows_module._QUERIES.items()},
    )
    altered = 0
    for _, state in cases(left, tmp_path, 40):
        spool = DiskSpool(state / FOLDER, CAP)
        for c, written in left.records.items():
            altered += sum(written.get(r.seq) != r for r in drain(spool, c))
        spool.close()
    assert altered


def test_a10_the_dead_agents_spool_says_the_same(left: Left, tmp_path: Path, runs: int) -> None:
    """What `spool export` writes, without a repair: good rows, and a word for the others."""
    for what, state in cases(left, tmp_path, 2 * runs):
        for c in RecordClass:
            found = list(salvage(state, c))
            rows = [one for one in found if isinstance(one, Stored)]
            assert all(left.records[c].get(r.seq) == r for r in rows), what


@pytest.mark.parametrize("cut", [0, 32, 4096, 20_000])
def test_a10_a_log_that_was_cut_short_takes_no_number_back(
    left: Left, tmp_path: Path, cut: int
) -> None:
    """SQLite reads it as if its last commits had never been; the heads say otherwise."""
    state = tmp_path / "state"
    shutil.copytree(left.state, state)
    for log in (state / FOLDER / "alarm").glob("*-wal"):
        log.write_bytes(log.read_bytes()[:cut])
    for index in (state / FOLDER / "alarm").glob("*-shm"):
        index.unlink()
    spool = DiskSpool(state / FOLDER, CAP)
    assert spool.heads()[ALARM][0] == 60
    found = drain(spool, ALARM)
    assert {r.seq for r in found} | covered(spool.losses(), ALARM) >= set(range(1, 61))
    spool.close()


@pytest.mark.parametrize("field", ["acked", "gone", "head"])
def test_a10_a_flipped_bit_in_a_mark_accepts_no_record_for_the_broker(
    left: Left, tmp_path: Path, field: str
) -> None:
    """A mark that says more than it did would drop records as accepted or told, or skip numbers."""
    state = tmp_path / "state"
    shutil.copytree(left.state, state)
    (path,) = (state / FOLDER / "alarm").glob("*.seg")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"UPDATE mark SET {field} = {field} + 64 WHERE class = ?", (ALARM,))
    db.close()
    spool = DiskSpool(state / FOLDER, CAP)
    found = drain(spool, ALARM)
    assert all(left.records[ALARM][r.seq] == r for r in found)
    missing = set(range(1, 61)) - {r.seq for r in found}
    assert missing <= covered(spool.losses(), ALARM), "lost silently"
    assert len(list(path.parent.glob("*.bad"))) == 1, "the file is set aside"
    spool.close()


def test_a10_the_heads_alone_know_what_a_log_forgot(tmp_path: Path) -> None:
    """No other class has committed since: nothing else says how far it went."""
    spool = DiskSpool(tmp_path / "living", CAP)
    records = fill(spool, ALARM, 20)
    shutil.copytree(tmp_path / "living", tmp_path / "left")
    spool.close()
    (log,) = (tmp_path / "left" / "alarm").glob("*-wal")
    log.write_bytes(b"")
    again = DiskSpool(tmp_path / "left", CAP)
    assert again.heads()[ALARM] == (20, record_hash(records[-1].data))
    assert covered(again.losses(), ALARM) == set(range(1, 21))
    assert fill(again, ALARM, 1)[0].seq == 21
    again.close()


@pytest.mark.parametrize("before", FORMATS_BEFORE)
def test_a_segment_of_before_is_read_and_not_appended_to(tmp_path: Path, before: int) -> None:
    """What the versions before wrote."""
    spool = DiskSpool(tmp_path, CAP)
    records = fill(spool, ALARM, 3, size=2000, packs=True)
    spool.ack(ALARM, 1)
    spool.close()
    (path,) = (tmp_path / "alarm").glob("*.seg")
    as_before(path, before)
    again = DiskSpool(tmp_path, CAP)
    assert again.state()[ALARM].acked == 1
    assert drain(again, ALARM) == records[1:]
    records += fill(again, ALARM, 2)
    assert drain(again, ALARM) == records[1:]
    again.ack(ALARM, 4)
    fill(again, BULK, 1)
    names = sorted(p.name for p in (tmp_path / "alarm").glob("*.seg"))
    assert [parse_name(name)[0] for name in names if parse_name(name)] == [4], "drained, and gone"  # type: ignore[index]
    again.close()


@pytest.mark.parametrize("before", FORMATS_BEFORE)
def test_what_a_power_cut_left_of_before_is_read(tmp_path: Path, before: int) -> None:
    """With a log that was not copied yet, and its index as a file."""
    spool = DiskSpool(tmp_path / FOLDER, CAP)
    records = fill(spool, ALARM, 9)
    spool.close()
    (path,) = (tmp_path / FOLDER / "alarm").glob("*.seg")
    as_before(path, before, power_cut=True)
    assert [r for r in salvage(tmp_path, RecordClass.ALARM) if isinstance(r, Stored)] == records
    again = DiskSpool(tmp_path / FOLDER, CAP)
    assert drain(again, ALARM) == records
    assert fill(again, ALARM, 1)[0].seq == 10
    again.close()


@pytest.mark.parametrize("before", FORMATS_BEFORE)
def test_an_empty_segment_of_before_is_made_anew(tmp_path: Path, before: int) -> None:
    spool = DiskSpool(tmp_path, CAP)
    spool.close()
    path = tmp_path / "alarm" / segment_name(1, NO_PREDECESSOR)
    Segment.create(path, {ALARM: rows_module.Mark()}).close()
    as_before(path, before)
    again = DiskSpool(tmp_path, CAP)
    (one,) = fill(again, ALARM, 1)
    again.close()
    assert one.seq == 1
    third = DiskSpool(tmp_path, CAP)
    assert drain(third, ALARM) == [one]
    third.close()


def as_before(path: Path, before: int, *, power_cut: bool = False) -> None:
    """Write a segment of alarms anew as a version before did, in its own words."""
    db = sqlite3.connect(path, isolation_level=None)
    marks = rows_module.read_marks(db, ALARM)
    rows = list(rows_module.read_rows(db, ALARM, 0, EVERYTHING))
    db.close()
    remove_files(path)
    old = sqlite3.connect(path, isolation_level=None)
    sums = before == rows_module.FORMAT_MARKS_APART
    last = ", sum INTEGER NOT NULL)" if sums else ")"
    for statement in (
        "PRAGMA journal_mode=WAL",
        "BEGIN",
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, data BLOB NOT NULL" + last,
        "CREATE TABLE mark (class INTEGER PRIMARY KEY, head INTEGER NOT NULL, hash BLOB NOT NULL,"
        " acked INTEGER NOT NULL, gone INTEGER NOT NULL, evicted INTEGER NOT NULL" + last,
        f"PRAGMA user_version={before}",
        "COMMIT",
    ):
        old.execute(statement)
    for row in rows:
        values = (row.seq, row.data, rows_module.row_sum(row.seq, row.data))
        old.execute(
            "INSERT INTO record VALUES (?, ?" + (", ?)" if sums else ")"), values[: 2 + sums]
        )
    for c, mark in marks.items():
        said = (c, mark.head, mark.digest, mark.acked, mark.gone, mark.evicted)
        said = (*said, rows_module.mark_sum(c, mark))[: 6 + sums]
        old.execute(f"INSERT INTO mark VALUES ({', '.join('?' * len(said))})", said)
    left = {file: file.read_bytes() for file in (path, *side_files(path))}
    old.close()
    if power_cut:
        for file, data in left.items():
            file.write_bytes(data)


def test_a_file_is_waited_for_by_commits_and_not_by_looks() -> None:
    patience = Patience()
    assert all(patience.lasts(1, 7) for _ in range(10 * LOOKS)), "a disk that takes nothing"
    assert [patience.lasts(1, 7 + n) for n in range(1, LOOKS)] == [True] * (LOOKS - 2) + [False]
    assert patience.lasts(8, 100), "another file begins anew"
