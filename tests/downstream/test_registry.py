"""Pins on the disk: whole or as before, forward only, and never taken for none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.downstream.lineage import Devices
from edgewarden.downstream.registry import FOLDER, NAME, Registry
from edgewarden.errors import HardwareFault, OurFault, TrustFault

ONE = Devices().pinned("press-1", b"a" * 32, 1)
TWO = ONE.pinned("press-2", b"b" * 32, 2)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert registry.load() == Devices()
    registry.save(ONE)
    registry.save(TWO)
    assert Registry(tmp_path).load() == TWO
    assert (tmp_path / FOLDER / NAME).stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / FOLDER) == [NAME]


def test_no_generation_is_written_twice_or_after_a_later_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.load()
    registry.save(TWO)
    for older in (ONE, TWO):
        with pytest.raises(OurFault):
            registry.save(older)
    again = Registry(tmp_path)
    again.load()
    with pytest.raises(OurFault):
        again.save(ONE)


@pytest.mark.parametrize("data", [b"", b"x", b"\xa0"])
def test_a_damaged_file_is_never_taken_for_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / NAME).write_bytes(data)
    with pytest.raises(TrustFault) as refused:
        Registry(tmp_path).load()
    assert refused.value.code == "EW-DEV-007"
    assert (tmp_path / FOLDER / NAME).read_bytes() == data


def test_a_disk_that_refuses_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.load()
    registry.save(ONE)
    fresh = tmp_path / FOLDER / f".{NAME}"
    fresh.mkdir()  # what is in the way cannot be unlinked, whoever asks
    with pytest.raises(HardwareFault) as refused:
        registry.save(TWO)
    assert refused.value.code == "EW-DEV-008"
    assert Registry(tmp_path).load() == ONE


def test_a_torn_new_file_is_not_the_file(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.load()
    registry.save(ONE)
    (tmp_path / FOLDER / f".{NAME}").write_bytes(b"half")
    again = Registry(tmp_path)
    assert again.load() == ONE
    again.save(TWO)
    assert Registry(tmp_path).load() == TWO
