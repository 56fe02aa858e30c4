"""What status says of confinement: what was proved on this boot, and nothing without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.cli.status import _overload, screen
from edgewarden.confine.record import PROVED_NAME, Proved
from edgewarden.daemon.status import confined

BOOT = bytes(range(16))
BOOT_ID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
PROVED = Proved(BOOT_ID, ("mosquitto.service",), ("/run/user: systemd-logind gives the options",))


def test_what_was_proved_on_this_boot_is_told_with_its_gaps(tmp_path: Path) -> None:
    (tmp_path / PROVED_NAME).write_bytes(PROVED.dump())
    assert confined(str(tmp_path), BOOT) == {
        "services": ["mosquitto.service"],
        "gaps": ["/run/user: systemd-logind gives the options"],
    }


@pytest.mark.parametrize("what", ["another boot", "damaged", "nothing"])
def test_without_a_word_of_this_boot_nothing_is_claimed(tmp_path: Path, what: str) -> None:
    data = PROVED.dump()
    if what != "nothing":
        (tmp_path / PROVED_NAME).write_bytes(data[:-1] if what == "damaged" else data)
    boot = bytes(16) if what == "another boot" else BOOT
    assert confined(str(tmp_path), boot) == {"services": [], "gaps": []}


def test_the_screen_names_it_honestly() -> None:
    body = {
        "device": "gw", "version": "1", "verdict": "ok", "reasons": [], "spool": {}, "sensors": {},
        "attestation": {"result": "none", "age_s": None}, "config": None, "footprint": None,
        "identity": {"grade": "G0", "certificate": {"serial": "", "not_after_utc": ""}},
        "clock": {"state": "ntp", "uncertainty_s": 1.0},
        "uplink": {"connected": False, "since_utc": None, "reconnects": 0},
        "enforcement": {
            "exec": {"tier": "T1", "mode": "observe", "allowed": 0, "denied": 0, "would_deny": 0},
            "confinement": {"services": ["mosquitto.service"], "gaps": ["a", "b"]},
        },
    }  # fmt: skip
    (row,) = [row for row in screen(body) if row.startswith("confinement")]
    assert "1 managed service(s) confined by path, 2 open" in row
    assert len(row) <= 80


def test_a_degraded_mode_has_a_row_and_a_normal_one_has_none() -> None:
    seen = {"mode": "sampling", "level": 2, "since_s": 130.0, "sheds": "readings of a channel"}
    assert _overload(seen) == ["overload     sampling for 2 min: readings of a channel"]
    assert _overload({**seen, "level": 0}) == _overload(None) == []
