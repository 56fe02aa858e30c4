"""Folders that need not be looked into: their file, and when it is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.baseline.folders import (
    FULL_EVERY_S,
    MAGIC,
    Folder,
    Folders,
    database_stamps,
    stamp_of,
    steady_devices,
    usable,
)
from edgewarden.baseline.paths import Paths
from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import seal

NOW_NS = 1_700_000_000 * 10**9
ODD = "/usr/lib/a b\n\udcff"
SAMPLE = Folders(
    NOW_NS,
    ((1, 2, 3, 4), ()),
    {
        "": Folder((1, 2, 3, 4), ("usr",), ("bin",)),
        "/usr/bin": Folder((1, 7, -3, 4), (), ("ls", "x\n")),
        ODD: Folder((1, 8, 3, 4), ("one", "two"), ()),
        "/empty": Folder((1, 9, 3, 4), (), ()),
    },
)


def test_what_is_written_is_read_back() -> None:
    assert Folders.load(SAMPLE.dump()) == SAMPLE
    assert Folders.load(Folders(0, ((), ()), {}).dump()) == Folders(0, ((), ()), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SAMPLE.dump()[:-1],
        SAMPLE.dump() + b"x",
        seal(MAGIC, b""),
        seal(MAGIC, b"full x\0\0\0\0\0\0"),
        seal(MAGIC, b"full 1\0\0\0\0\0\0/usr\0001 2 3\0000\0\0"),
        seal(MAGIC, b"full 1\0\0\0\0\0\0/usr\0001 2 3 4\0009\0\0"),
        seal(MAGIC, b"full 1\0\0\0\0\0\0/usr\0001 2 3 4\0000"),
    ],
)
def test_a_torn_or_strange_file_is_refused(data: bytes) -> None:
    with pytest.raises(WireRefusal):
        Folders.load(data)


def test_it_is_used_for_a_week_and_while_dpkgs_own_files_stand() -> None:
    database = SAMPLE.database
    assert usable(SAMPLE, database, now_ns=NOW_NS + 5) == SAMPLE.folders
    week_ns = FULL_EVERY_S * 10**9
    assert usable(SAMPLE, database, now_ns=NOW_NS + week_ns) == {}
    assert usable(SAMPLE, database, now_ns=NOW_NS - week_ns) == {}, "a clock that was set back"
    assert usable(SAMPLE, ((1, 2, 3, 5), ()), now_ns=NOW_NS) == {}, "a diversion"
    assert usable(SAMPLE, ((1, 2, 3, 4), (1, 2, 3, 4)), now_ns=NOW_NS) == {}, "an override"
    assert usable(None, database, now_ns=NOW_NS) == {}


def test_the_stamps_of_dpkgs_own_files(tmp_path: Path) -> None:
    assert database_stamps(Paths(str(tmp_path))) == ((), ())
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    diversions = tmp_path / "var/lib/dpkg/diversions"
    diversions.touch()
    assert database_stamps(Paths(str(tmp_path))) == (stamp_of(os.lstat(diversions)), ())


def test_filesystems_whose_folders_tell() -> None:
    text = (
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "23 22 0:30 / /x rw shared:1 - btrfs /dev/vdb rw\n"
        "24 22 0:31 / /y rw - overlay overlay rw\n"
        "broken\n"
    )
    assert steady_devices(text) == {os.makedev(254, 0)}
