"""What is left of faulty settings: every sound key of a plain section, and all the faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.probe.disk import Disk
from edgewarden.settings.lenient import read_leniently
from edgewarden.settings.schema import Settings


def test_sound_settings_are_taken_whole(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    port = '[[serial]]\nname = "gps"\nport = "/dev/x"\nformat = "nmea"\n'
    file.write_text('[paths]\nrun = "/srv/run"\n' + port)
    found = read_leniently(str(file), Disk())
    assert found.faults == ()
    assert found.settings.paths.run == "/srv/run"
    assert [port.name for port in found.settings.serial] == ["gps"]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('[hosst]\n[paths]\nstate = "/srv/state"\n', "/srv/state"),
        ('[paths]\nstate = "/srv/state"\nrum = "/x"\n', "/srv/state"),
        ('[paths]\nstate = "/srv/state"\n[host\n', "/srv/state"),
        ("[paths]\nstate = 7\n", "/var/lib/edgewarden"),
        ('[paths]\nstate = "srv"\n', "/var/lib/edgewarden"),
        ('[paths]\nstate = "/srv/../etc"\n', "/var/lib/edgewarden"),
        ("paths = 7\n", "/var/lib/edgewarden"),
        ("\x00", "/var/lib/edgewarden"),
    ],
)
def test_of_faulty_ones_the_sound_keys_are_left(tmp_path: Path, text: str, state: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    found = read_leniently(str(file), Disk())
    assert found.faults
    assert found.settings.paths.state == state
    assert found.settings.paths.run == "/run/edgewarden"


def test_a_later_file_wins_and_an_unsound_key_in_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "e.toml").write_text('[paths]\nstate = "/a"\nrun = "/a-run"\n[hosst]\n')
    (tmp_path / "conf.d" / "10-b.toml").write_text('[paths]\nstate = "/b"\nrun = 0\n')
    found = read_leniently(str(tmp_path / "e.toml"), Disk())
    assert (found.settings.paths.state, found.settings.paths.run) == ("/b", "/a-run")
    assert len(found.faults) == 2


def test_no_file_is_all_defaults_and_one_fault(tmp_path: Path) -> None:
    found = read_leniently(str(tmp_path / "nowhere.toml"), Disk())
    assert found.settings == Settings()
    assert len(found.faults) == 1


def test_half_a_port_is_no_port(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('[hosst]\n[[serial]]\nname = "gps"\nport = "/dev/x"\nformat = "nmea"\n')
    assert read_leniently(str(file), Disk()).settings.serial == ()
