"""U4: an uninstall puts USB back without gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.plugs.memory import BEFORE_NAME
from edgewarden.plugs.restore import put_back
from tests.plugs.plugged import BOOT, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "tree")
    boot = made.tree.proc / "sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text(BOOT + "\n")
    (tmp_path / "policy").mkdir()
    yield made
    made.close()


def left_by_gate(world: World, tmp_path: Path) -> Path:
    world.tree.plug("keyboard", "1-1.4")
    world.look()
    path = tmp_path / "policy" / BEFORE_NAME
    path.write_bytes(world.kept.files[BEFORE_NAME])
    return path


def test_u4_an_uninstall_puts_back_and_leaves_no_file(world: World, tmp_path: Path) -> None:
    path = left_by_gate(world, tmp_path)
    assert world.tree.defaults() == {"usb1": "2", "usb2": "2"}
    assert put_back(str(tmp_path), world.view) == []
    assert world.tree.defaults() == {"usb1": "1", "usb2": "1"}
    assert world.tree.authorized()["1-1.4"] == "1"
    assert not path.exists()


def test_u4_where_gate_never_changed_anything_nothing_is_touched(
    world: World, tmp_path: Path
) -> None:
    assert put_back(str(tmp_path), world.view) == []


def test_u4_a_damaged_file_touches_nothing(world: World, tmp_path: Path) -> None:
    path = left_by_gate(world, tmp_path)
    path.write_bytes(path.read_bytes() + b"default usb9 1\n")
    with pytest.raises(WireRefusal):
        put_back(str(tmp_path), world.view)
    assert world.tree.defaults() == {"usb1": "2", "usb2": "2"}


def test_u4_what_another_boot_left_is_only_cleared_away(world: World, tmp_path: Path) -> None:
    path = left_by_gate(world, tmp_path)
    (world.tree.proc / "sys/kernel/random/boot_id").write_text("another\n")
    assert put_back(str(tmp_path), world.view) == []
    assert world.tree.defaults() == {"usb1": "2", "usb2": "2"}
    assert not path.exists()
