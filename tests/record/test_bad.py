"""Damaged files that were set aside: how much of them is kept, and that none goes while it is the
only one to know of a loss, or of how far the numbers went."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewarden.ports import Loss
from edgewarden.record import bad as bad_module
from edgewarden.record.bad import KEEP_BAD
from edgewarden.record.quota import MIN_CAP_BYTES, Quotas
from edgewarden.record.segment import SegmentFile, parse_name, segment_name
from edgewarden.record.spool import BAD_PART_OF_QUOTA, DiskSpool
from edgewarden.wire.record import RecordClass
from tests.record.records import fill, made

ALARM, AUDIT, BULK = (int(c) for c in RecordClass)
BEFORE_BYTES = 64 << 20
"""A segment of bulk is then 5.6 MB."""
MB = 1 << 20


def files(folder: Path, c: int, suffix: str) -> list[Path]:
    return sorted((folder / RecordClass(c).label).glob(f"*.{suffix}"))


def spoil(path: Path) -> None:
    """Nothing of it can be read any more."""
    path.write_bytes(b"\xa5" * path.stat().st_size)


def tell(spool: DiskSpool, count: int | None = None) -> list[Loss]:
    """As the journal does in each round, or as far as it came."""
    told = spool.losses()[:count]
    for loss in told:
        spool.put_gap(made(spool, AUDIT), loss)
    return told


def set_aside(folder: Path, c: int, count: int, size_bytes: int = 60_000) -> None:
    """So many whole segments of a class are damaged, found, and told."""
    spool = DiskSpool(folder, BEFORE_BYTES)
    while len(files(folder, c, "seg")) <= count:
        fill(spool, c, 1, size=size_bytes)
    spool.close()
    for path in files(folder, c, "seg")[:count]:
        spoil(path)
    again = DiskSpool(folder, BEFORE_BYTES)
    again.peek(c, 0, 100, 1 << 20)
    tell(again)
    again.close()


def test_a_smaller_cap_takes_records_beside_damaged_files_of_the_larger(tmp_path: Path) -> None:
    """Bounded by their number alone, they kept every reading out for good."""
    set_aside(tmp_path, BULK, 2)
    held = sum(path.stat().st_size for path in files(tmp_path, BULK, "bad"))
    assert held > 2 * MIN_CAP_BYTES
    spool = DiskSpool(tmp_path, MIN_CAP_BYTES)
    for size_bytes in (100, 60_000):
        assert spool.room_for(BULK, size_bytes) or spool.victim("spool full")
    assert files(tmp_path, BULK, "bad") == []
    spool.close()
    again = DiskSpool(tmp_path, MIN_CAP_BYTES)
    assert again.losses() == [], "what was in them was told when they were set aside"
    again.close()


@pytest.mark.parametrize("cap_bytes", [32 * MB, 16 * MB, 8 * MB])
def test_the_oldest_goes_first_and_what_fits_stays(tmp_path: Path, cap_bytes: int) -> None:
    set_aside(tmp_path, BULK, 2)
    sizes = [path.stat().st_size for path in files(tmp_path, BULK, "bad")]
    names = [path.name for path in files(tmp_path, BULK, "bad")]
    bound = Quotas().quota_bytes(cap_bytes, BULK) // BAD_PART_OF_QUOTA
    fits = [sum(sizes[n:]) <= bound for n in range(3)].index(True)
    DiskSpool(tmp_path, cap_bytes).close()
    assert [path.name for path in files(tmp_path, BULK, "bad")] == names[fits:]


@pytest.mark.parametrize("told", [0, 1])
def test_a_loss_outlives_a_power_cut_however_many_files_are_damaged(
    tmp_path: Path, told: int
) -> None:
    """The third one took the first away, and with it all that said what was missing."""
    spool = DiskSpool(tmp_path / "living", MIN_CAP_BYTES)
    fill(spool, BULK, 40, size=60_000)
    spool.close()
    *hit, whole = files(tmp_path / "living", BULK, "seg")[: KEEP_BAD + 3]
    for path in hit:
        spoil(path)
    spool = DiskSpool(tmp_path / "living", MIN_CAP_BYTES)
    behind = spool.peek(BULK, 0, 100, 1 << 20)[0].seq
    assert parse_name(whole.name) == (behind, ANY)
    losses = [*tell(spool, told)]
    shutil.copytree(tmp_path / "living", tmp_path / "left")  # the power goes
    spool.close()
    again = DiskSpool(tmp_path / "left", MIN_CAP_BYTES)
    again.peek(BULK, 0, 100, 1 << 20)
    losses += tell(again)
    numbers = [seq for loss in losses for seq in range(loss.first, loss.last + 1)]
    assert sorted(numbers) == list(range(1, behind))
    assert len(files(tmp_path / "left", BULK, "bad")) == KEEP_BAD
    again.close()


def test_no_number_comes_back_with_a_damaged_newest_file(tmp_path: Path) -> None:
    """Its name alone says how far they went, until a file follows."""
    spool = DiskSpool(tmp_path, BEFORE_BYTES)
    fill(spool, ALARM, 60, size=60_000)
    spool.close()
    spoil(files(tmp_path, ALARM, "seg")[-1])
    for cap_bytes in (BEFORE_BYTES, MIN_CAP_BYTES, MIN_CAP_BYTES):
        spool = DiskSpool(tmp_path, cap_bytes)
        tell(spool)
        head = spool.heads()[ALARM][0]
        assert head > 60
        assert len(files(tmp_path, ALARM, "bad")) == 1
        spool.close()
    spool = DiskSpool(tmp_path, MIN_CAP_BYTES)
    assert fill(spool, ALARM, 1)[0].seq == head + 1
    assert files(tmp_path, ALARM, "bad") == []
    spool.close()
    again = DiskSpool(tmp_path, MIN_CAP_BYTES)
    assert again.heads()[ALARM][0] == head + 1
    assert again.losses() == []
    again.close()


def test_a_file_that_the_disk_does_not_let_go_refuses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_aside(tmp_path, BULK, 2)

    def refused(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(bad_module, "remove_files", refused)
        spool = DiskSpool(tmp_path, MIN_CAP_BYTES)
        fill(spool, ALARM, 2)
        assert len(files(tmp_path, BULK, "bad")) == 2
    fill(spool, ALARM, 1)
    assert files(tmp_path, BULK, "bad") == []
    assert spool.room_for(BULK, 100) or spool.victim("spool full")
    spool.close()


class Life:
    """One class whose files are damaged while it is written and started, with every cap."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.written = set[int]()
        self.told = list[Loss]()
        self.spool = DiskSpool(folder / "0", MIN_CAP_BYTES)
        self.starts = 0

    def write(self) -> None:
        self.written |= {r.seq for r in fill(self.spool, BULK, self.chance.randint(1, 9), 60_000)}

    def damage(self) -> None:
        seen = self.chance.sample(paths := files(self._now, BULK, "seg")[:-1], len(paths))
        for path in seen[: self.chance.randint(0, 3)]:
            spoil(path)

    def look(self) -> None:
        after = 0
        while found := self.spool.peek(BULK, after, 50, 1 << 20):
            after = found[-1].seq

    def tell(self) -> None:
        self.told += tell(self.spool)

    def cut(self) -> None:
        """A power cut: a copy as it is, opened again."""
        self.starts += 1
        shutil.copytree(self._before, self._now)
        self.spool.close()
        shutil.rmtree(self._before)
        self.spool = DiskSpool(self._now, self.chance.choice([MIN_CAP_BYTES, BEFORE_BYTES]))

    @property
    def _now(self) -> Path:
        return self.folder / str(self.starts)

    @property
    def _before(self) -> Path:
        return self.folder / str(self.starts - 1)


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from(["write", "damage", "look", "tell", "cut"]), max_size=30),
    st.integers(0, 1 << 30),
)
@example(["write"] * 5 + ["damage"], 2444).via("two damaged neighbours, told thrice")
def test_whatever_happens_each_loss_is_told_and_the_bound_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    life = Life(tmp_path_factory.mktemp("life"), random.Random(seed))
    for step in ["write", *steps, "look", "tell", "cut", "look", "tell"]:
        getattr(life, step)()
    there = set[int]()
    while found := life.spool.peek(BULK, max(there, default=0), 50, 1 << 20):
        there |= {r.seq for r in found}
    numbers = [seq for loss in life.told for seq in range(loss.first, loss.last + 1)]
    told = set(numbers)
    assert len(told) == len(numbers), "told twice"
    assert there <= life.written
    assert life.written - there <= told, "lost silently"
    assert not there & told, "told as lost, and there"
    held = files(life._now, BULK, "bad")
    assert len(held) <= KEEP_BAD
    life.spool.close()
    spool = DiskSpool(life._now, MIN_CAP_BYTES)
    held_bytes = sum(path.stat().st_size for path in files(life._now, BULK, "bad"))
    assert held_bytes <= Quotas().quota_bytes(MIN_CAP_BYTES, BULK) // BAD_PART_OF_QUOTA
    spool.close()
    shutil.rmtree(life.folder)


def test_what_waits_is_passed_over_and_a_younger_one_goes(tmp_path: Path) -> None:
    found = []
    for n in (1, 10, 20):
        path = (tmp_path / segment_name(n, bytes(32))).with_suffix(".bad")
        path.write_bytes(bytes(100))
        found.append(SegmentFile(path, n, bytes(32), 100))
    bad = bad_module.BadFiles(found, bytes_at_most=200)
    bad.trim(lambda file: file.first == 1)
    assert [file.first for file in bad.files] == [1, 20]
    assert bad.size_bytes() == 200
    assert not found[1].path.exists()
