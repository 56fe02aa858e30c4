"""sd_notify: datagrams where systemd asks for them, silence elsewhere."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgewarden.daemon.notify import Notifier


def test_tells_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.tell("READY=1")
        assert systemd.recv(64) == b"READY=1"
        notifier.close()


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0ew-test-notify")
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@ew-test-notify")
        notifier = Notifier()
        notifier.tell("WATCHDOG=1")
        assert systemd.recv(64) == b"WATCHDOG=1"
        notifier.close()


@pytest.mark.parametrize("address", ["", "/nonexistent/notify"])
def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    assert notifier.tell("READY=1") is None
    notifier.close()
