"""Data plane, acceptance 7: a port that is plugged in and out again and again.

socat makes and removes the pty under one by-id link. After a few turns the backoff is at half a
minute, so an opening within the bounded wait can only have come from the kernel's word that the
link is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from edgewarden.serial.opening import open_port
from edgewarden.serial.portlife import Format, SerialSettings
from tests.serial.ports import running
from tests.serial.test_nmea import GGA, sealed
from tests.steps import wakes
from tests.waiting import until

pytestmark = pytest.mark.alone


@contextlib.contextmanager
def plugged(link: Path) -> Iterator[IO[bytes]]:
    """socat's pty under ``link``; yields what goes to the line."""
    command = ["timeout", "600", "socat", f"pty,raw,echo=0,link={link}", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as far:
        assert far.stdin is not None
        try:
            yield far.stdin
        finally:
            far.terminate()
            far.wait()


def counts() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.needs("socat")
def test_a07_a_port_comes_back_at_once_however_often_it_goes(tmp_path: Path, runs: int) -> None:
    link = tmp_path / "by-id" / "usb-gps"
    link.parent.mkdir()

    async def scenario() -> None:
        async with running(SerialSettings("gps", str(link), Format.NMEA)) as gateway:
            plugged_in, tried = False, 0

            def opener(path: str, line: object) -> object:
                nonlocal tried
                tried += plugged_in and link.exists()  # before that, the backoff's own
                return open_port(path, line)  # type: ignore[arg-type]

            gateway.sensor._opener = opener  # type: ignore[assignment]
            await until(lambda: gateway.state == "reopen")
            absent = counts()
            present = None
            for turn in range(runs):
                plugged_in = True
                with plugged(link) as line:
                    await until(lambda: gateway.state == "open")
                    line.write(sealed(GGA))
                    await until(lambda: gateway.state == "live")
                    assert tried == turn + 1  # one opening for each plug, and it succeeded
                    # Popen and its pipe are the test's own, the same in each turn.
                    present = present or counts()
                    assert counts() == present
                    plugged_in = False
                await until(lambda: gateway.state == "reopen")
                await until(lambda: counts() == absent)
            with wakes() as woken:
                await asyncio.sleep(0.5)
                assert woken() < 60, "busy while the port is away"
        assert gateway.told == ["reopen", *["open", "live", "reopen"] * runs, "closed"]

    asyncio.run(scenario())
