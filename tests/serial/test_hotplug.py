"""Waiting for a port: on a real folder, by real inotify."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.kernel import inotify
from edgewarden.serial import hotplug
from edgewarden.serial.hotplug import identity, plugged_in
from tests.waiting import until

LONG_S = 60.0


def wait_while(path: Path, act: Callable[[], None], timeout_s: float = LONG_S) -> bool:
    """Start waiting for ``path`` as it is now, act once the watch stands, return what came."""

    async def scenario() -> bool:
        watching = set(os.listdir("/proc/self/fd"))
        waiting = asyncio.create_task(plugged_in(str(path), identity(str(path)), timeout_s))
        await until(lambda: set(os.listdir("/proc/self/fd")) - watching)
        act()
        return await asyncio.wait_for(waiting, 20)

    return asyncio.run(scenario())


def test_a_port_that_appears_is_seen_at_once(tmp_path: Path) -> None:
    port = tmp_path / "port"
    assert wait_while(port, lambda: port.symlink_to("/dev/null"))


def test_a_folder_that_appears_with_it(tmp_path: Path) -> None:
    """/dev/serial/by-path is not there while nothing is plugged in."""
    port = tmp_path / "serial" / "by-path" / "port"

    def plug() -> None:
        port.parent.mkdir(parents=True)
        port.symlink_to("/dev/null")

    assert wait_while(port, plug)


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    port = tmp_path / "by-path" / "port"
    port.parent.mkdir()

    def plug() -> None:
        port.parent.rmdir()
        port.parent.mkdir()
        port.symlink_to("/dev/null")

    assert wait_while(port, plug)


def test_a_port_that_was_exchanged_is_another_one(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.write_text("")

    def exchange() -> None:
        other = tmp_path / "new"
        other.write_text("")
        other.rename(port)

    assert wait_while(port, exchange)


def test_leave_to_open_it_is_worth_a_try(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.write_text("")
    assert wait_while(port, lambda: port.chmod(0o600))


def test_other_names_and_the_port_itself_are_not_worth_a_try(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.write_text("")
    assert not wait_while(port, lambda: (tmp_path / "other").write_text("") and None, 0.3)


def test_what_came_before_the_watch_is_not_missed(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.write_text("")
    assert asyncio.run(plugged_in(str(port), None, LONG_S))


def test_what_comes_between_the_look_and_the_watch_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, watch = tmp_path / "port", inotify.open_folder

    def late(path: str) -> int:
        if not port.exists():
            port.write_text("")
        return watch(path)

    monkeypatch.setattr(inotify, "open_folder", late)
    assert asyncio.run(asyncio.wait_for(plugged_in(str(port), None, LONG_S), 20))


def test_without_a_watch_the_path_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str) -> int:
        raise HardwareFault("no more watches")

    monkeypatch.setattr(inotify, "open_folder", refused)
    monkeypatch.setattr(hotplug, "POLL_S", 0.01)
    port = tmp_path / "port"

    async def scenario() -> bool:
        waiting = asyncio.create_task(plugged_in(str(port), None, LONG_S))
        await asyncio.sleep(0)
        port.write_text("")
        return await asyncio.wait_for(waiting, 20)

    assert asyncio.run(scenario())


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "nowhere", Path("/dev/null")):
        with pytest.raises(HardwareFault):
            inotify.open_folder(str(path))
    assert len(os.listdir("/proc/self/fd")) == before
