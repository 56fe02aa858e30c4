"""The booted gateway's one refusal that must never be lost; its life is tests/boot's."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw.rigs import booted
from hw.rigs.booted import Booted, RigError


def test_it_never_boots_on_the_hosts_root_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own mount gone wrong: the folder is there, and is the host's."""
    started = []
    monkeypatch.setattr(booted.subprocess, "Popen", lambda *a, **k: started.append(a))
    guest = Booted(tmp_path)
    try:
        guest.root = Path("/")
        with pytest.raises(RigError, match="the host's root filesystem"):
            guest.switch_on()
        assert started == []
    finally:
        guest.folder.rmdir()


def test_nor_with_a_disk_that_is_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Booted(tmp_path, disks=["/srv/apps"])
    try:
        monkeypatch.setattr(guest, "root", Path("/proc"))  # a filesystem of its own, this one
        monkeypatch.setattr(guest, "_disks", lambda: {"/srv/apps": Path("/")})
        with pytest.raises(RigError, match="the host's root filesystem"):
            guest.switch_on()
    finally:
        guest.folder.rmdir()
