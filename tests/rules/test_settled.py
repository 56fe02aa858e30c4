"""The leftover check itself: whatever a test leaves behind, it must see."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests import features, settled


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "SETTLE_S", 0.05)


def test_sees_a_child_and_an_orphan() -> None:
    before = settled.look()
    child = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(AssertionError, match=r"children: \d+ sleep 60"):
            settled.check(before)
    finally:
        child.kill()
        child.wait()
    script = "sleep 60 >/dev/null 2>&1 & echo $!"
    orphan = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    pid = int(orphan.stdout)
    try:
        with pytest.raises(AssertionError, match=f"children: {pid} sleep 60"):
            settled.check(before)
    finally:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    settled.SETTLE_S = 60.0
    settled.check(before)


def test_sees_a_thread() -> None:
    before = settled.look()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-over")
    thread.start()
    try:
        with pytest.raises(AssertionError, match="threads: left-over"):
            settled.check(before)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_sees_a_listening_socket(family: socket.AddressFamily, tmp_path: Path) -> None:
    before = settled.look()
    address = ("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s")
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        with pytest.raises(AssertionError, match="listening: "):
            settled.check(before)
    settled.check(before)


@pytest.mark.needs("root")
def test_sees_a_mount(tmp_path: Path) -> None:
    before = settled.look()
    subprocess.run(["mount", "-t", "tmpfs", "ew-test", str(tmp_path)], check=True)
    try:
        with pytest.raises(AssertionError, match=f"mounts: {tmp_path}"):
            settled.check(before)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.needs("fanotify-permission")
def test_sees_a_fanotify_group() -> None:
    import ctypes
    import os

    before = settled.look()
    group = ctypes.CDLL(None).fanotify_init(features.FAN_CLOEXEC, os.O_RDONLY)
    assert group >= 0
    try:
        with pytest.raises(AssertionError, match="fanotify_groups: fd"):
            settled.check(before)
    finally:
        os.close(group)
