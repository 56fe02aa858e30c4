"""The settings link runs with: new good ones, else the last good ones, never half of either."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.daemon.config import choose, recheck
from edgewarden.settings.faults import SettingsFaults


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "edgewarden.toml"
    path.parent.mkdir()
    path.write_text(f'[paths]\nstate = "{tmp_path}/state"\n[host]\nperiod_s = 7\n')
    (tmp_path / "state").mkdir()
    return path


def test_good_settings_are_used_and_kept(settings: Path, tmp_path: Path) -> None:
    running = choose(str(settings))
    assert running.settings.host.period_s == 7
    assert running.faults == ()
    [kept] = (tmp_path / "state" / "link" / "last-good").glob("*.toml")
    assert kept.read_bytes() == settings.read_bytes()


def test_broken_settings_fall_back_and_every_fault_is_told(settings: Path) -> None:
    good = choose(str(settings))
    settings.write_text(settings.read_text() + "perod_s = 5\n[uplink]\nport = 0\n")
    running = choose(str(settings))
    assert running.settings == good.settings
    assert running.digest == good.digest
    assert len(running.faults) == 2
    assert "did you mean period_s?" in running.faults[0]


def test_broken_settings_without_a_last_good_one_are_refused(settings: Path) -> None:
    settings.write_text(settings.read_text() + "perod_s = 5\n")
    with pytest.raises(SettingsFaults):
        choose(str(settings))


def test_conf_d_is_kept_in_order(settings: Path) -> None:
    drop = settings.parent / "conf.d"
    drop.mkdir()
    (drop / "10-a.toml").write_text("[host]\nperiod_s = 8\n")
    (drop / "20-b.toml").write_text("[host]\nperiod_s = 9\n")
    assert choose(str(settings)).settings.host.period_s == 9
    (drop / "20-b.toml").write_text("[host]\nperiod_s = no\n")
    assert choose(str(settings)).settings.host.period_s == 9
    (drop / "20-b.toml").unlink()
    assert choose(str(settings)).settings.host.period_s == 8
    (drop / "10-a.toml").write_text("[host\n")
    assert choose(str(settings)).settings.host.period_s == 8


def test_recheck_asks_for_a_restart_only_when_good_settings_differ(settings: Path) -> None:
    running = choose(str(settings))
    assert recheck(str(settings), running) == (False, ())
    settings.write_text(settings.read_text().replace("7", "6"))
    assert recheck(str(settings), running) == (True, ())
    settings.write_text("[host]\nperiod_s = no\n")
    restart, faults = recheck(str(settings), running)
    assert not restart
    assert len(faults) == 1


def test_a_disk_that_refuses_the_copy_does_not_stop_the_start(
    settings: Path, tmp_path: Path
) -> None:
    (tmp_path / "state" / "link").write_text("a file where the folder should be")
    assert choose(str(settings)).settings.host.period_s == 7
