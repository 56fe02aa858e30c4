"""The disk and the board, real ones: files people write, folders, memory, heat."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.probe import host
from edgewarden.probe.disk import Disk, filesystem_bytes, room
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.files import read_loaded, read_policy, read_settings, settings_files


def test_files_are_found_in_the_order_in_which_later_ones_win(tmp_path: Path) -> None:
    main = tmp_path / "edgewarden.toml"
    main.write_text("[host]\nperiod_s = 5\n")
    drop_ins = tmp_path / "conf.d"
    drop_ins.mkdir()
    for name, period in (("20-b", 7), ("10-a", 6), ("5-c", 8), ("30-d.bak", 9)):
        (drop_ins / f"{name}.toml").write_text(f"[host]\nperiod_s = {period}\n")
    (drop_ins / "20-b.toml~").write_text("nonsense")
    found = [Path(name).name for name in settings_files(str(main), Disk())]
    assert found == ["edgewarden.toml", "10-a.toml", "20-b.toml", "30-d.bak.toml"]
    assert read_settings(str(main), Disk()).host.period_s == 9


def test_a_file_that_cannot_be_read_is_one_fault_among_the_others(tmp_path: Path) -> None:
    main = tmp_path / "edgewarden.toml"
    main.write_text("[host]\nperiod_s = 0\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-a.toml").mkdir()
    (tmp_path / "conf.d" / "20-b.toml").write_bytes(b"# ok\n\xff\n")
    os.mkfifo(tmp_path / "conf.d" / "30-c.toml")
    with pytest.raises(SettingsFaults) as caught:
        read_loaded(str(main), Disk())
    found = [(Path(f.file).name, f.line, f.code) for f in caught.value.faults]
    assert found == [
        ("10-a.toml", 0, "EW-SET-011"),
        ("20-b.toml", 2, "EW-SET-011"),
        ("30-c.toml", 0, "EW-SET-011"),
        ("edgewarden.toml", 2, "EW-SET-005"),
    ]


def test_a_missing_file_is_a_fault_not_the_defaults(tmp_path: Path) -> None:
    with pytest.raises(SettingsFaults, match="No such file"):
        read_settings(str(tmp_path / "edgewarden.toml"), Disk())
    with pytest.raises(SettingsFaults, match="No such file"):
        read_policy(str(tmp_path / "policy.toml"), Disk())


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    assert len(Disk().fetch(str(tmp_path / "big"), 10)) == 11


def test_a_file_beyond_the_limit_is_told_by_its_size(tmp_path: Path) -> None:
    main = tmp_path / "edgewarden.toml"
    main.write_text("#" + "\u00e9" * 40_000)  # the limit falls inside a character
    with pytest.raises(SettingsFaults, match="more than 65536 bytes"):
        read_settings(str(main), Disk())


def test_a_folder_that_is_none_says_why(tmp_path: Path) -> None:
    assert Disk().names(str(tmp_path / "nowhere")) == []
    (tmp_path / "file").touch()
    with pytest.raises(HardwareFault, match="Not a directory"):
        Disk().names(str(tmp_path / "file"))


def test_rooms(tmp_path: Path) -> None:
    assert not room(str(tmp_path / "nowhere")).exists
    seen = room(str(tmp_path))
    assert seen.exists
    assert seen.free_bytes > 0
    assert not seen.writable_by_others
    tmp_path.chmod(0o777)
    assert room(str(tmp_path)).writable_by_others
    assert not room("/dev/null").exists


def test_how_large_a_filesystem_is(tmp_path: Path) -> None:
    """Of a folder that is not there yet, that of the one it will lie in."""
    said = os.statvfs(tmp_path)
    size = said.f_blocks * said.f_frsize
    assert size > 0
    assert filesystem_bytes(str(tmp_path)) == filesystem_bytes(str(tmp_path / "spool")) == size
    assert filesystem_bytes(str(tmp_path / "no" / "spool")) is None
    assert filesystem_bytes("/proc/self") is None, "nobody says"


def test_memory_is_the_kernels_word(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   42 kB\n")
    assert host.available_bytes(meminfo) == 42 * 1024
    meminfo.write_text("MemTotal: 100 kB\n")
    assert host.available_bytes(meminfo) is None
    meminfo.write_text("MemAvailable: much\n")
    assert host.available_bytes(meminfo) is None
    real = host.available_bytes()
    assert real is not None
    assert real > 0


def test_the_hottest_zone_counts_and_a_sleeping_one_does_not(tmp_path: Path) -> None:
    assert host.hottest_mc(tmp_path) is None
    for name, text in (("0", "41000\n"), ("1", "62000\n"), ("2", "")):
        (tmp_path / f"thermal_zone{name}").mkdir()
        (tmp_path / f"thermal_zone{name}" / "temp").write_text(text)
    assert host.hottest_mc(tmp_path) == 62000


def test_a_folder_of_nobody_is_told_from_others(tmp_path: Path) -> None:
    assert not host.is_orphaned(str(tmp_path))
    assert not host.is_orphaned(str(tmp_path / "absent"))


@pytest.mark.needs("root")
def test_a_folder_whose_owner_is_gone_is_orphaned(tmp_path: Path) -> None:
    os.chown(tmp_path, 987654, -1)
    assert host.is_orphaned(str(tmp_path))
