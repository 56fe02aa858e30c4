"""Data plane, acceptance 5: gpsd and we, on the same noisy log.

gpsfake plays hw/rigs/data/nmea-noisy.log to Debian's gpsd over a pty of its own; we read the same
bytes from a pty of ours. gpsd's packet state machine is the field's reference for noise.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgewarden.serial.portlife import Format, SerialSettings
from hw.rigs.board import LOG, recorded
from hw.rigs.ports import free_port
from hw.rigs.ptys import PtyPort
from tests.serial.ports import Running, running
from tests.serial.test_nmea import sealed
from tests.serial.test_serialport import send_all
from tests.waiting import until

SENTENCES, EPOCHS = 400, 100
Place = tuple[float, float]


def told_by_gpsd(folder: Path) -> tuple[list[bytes], set[Place]]:
    """The good sentences that gpsd passed on, and the places of its fixes."""
    log = folder / "noisy.log"
    shutil.copy(LOG, log)
    port = str(free_port())
    # -1: once through; -p: what a watching client is told, on stdout.
    command = ["gpsfake", "-1", "-q", "-p", "-P", port, str(log)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    lines = done.stdout.splitlines()
    reports = [json.loads(line) for line in lines if line.startswith(b"{")]
    fixes = [r for r in reports if r["class"] == "TPV" and r["mode"] >= 2]
    return (
        [line for line in lines if sealed(line[1:].rpartition(b"*")[0]).strip() == line],
        {(round(fix["lat"], 5), round(fix["lon"], 5)) for fix in fixes},
    )


async def told_by_us(folder: Path) -> Running:
    with PtyPort(folder / "gps") as port:
        async with running(SerialSettings("gps", str(port.link), Format.NMEA)) as gateway:
            await until(lambda: gateway.state == "open")
            await send_all(port, recorded())
            await until(lambda: gateway.sensor.snapshot().counters["frames"] >= SENTENCES)
            assert gateway.sensor.snapshot().counters["frames"] == SENTENCES
    return gateway


@pytest.mark.needs("gpsd")
def test_a05_we_get_every_epoch_that_gpsd_gets(tmp_path: Path) -> None:
    sentences, theirs = told_by_gpsd(tmp_path)
    # The peer did its part: it may lose what is beside noise, never most of a log.
    assert len(theirs) >= 0.9 * EPOCHS
    assert len(sentences) >= 0.9 * SENTENCES
    gateway = asyncio.run(told_by_us(tmp_path))
    values = {
        name: [r.value for r in gateway.readings if r.name == name] for name in ("lat", "lon")
    }
    ours = {
        (round(float(lat), 5), round(float(lon), 5))
        for lat, lon in zip(values["lat"], values["lon"], strict=True)
    }
    assert len(ours) == EPOCHS >= len(theirs)
    assert theirs <= ours
    # Nor is there a good sentence that gpsd passed on and we did not count.
    assert len(sentences) <= SENTENCES
