"""A listener for devices in a process of its own, to be started inside a network namespace.

    python tests/system/device_listener.py FOLDER HOST

Prints its port, then five times a second what it knows, as JSON; ends when stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.downstream.world import Devices, listening


async def serve(folder: Path, host: str) -> None:
    loop = asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    devices = Devices.__new__(Devices)  # the files are there
    devices.folder, devices.ca_path, devices.crl = folder, folder / "ca.pem", None
    devices.server = (str(folder / "server.pem"), str(folder / "server.key"))
    async with listening(devices, host=host) as running:
        while not over.done():
            told = {
                "port": running.port,
                "places": [s.place for s in running.desk.where.sessions.values()],
                "readings": running.readings(),
                "codes": running.codes(),
            }
            print(json.dumps(told), flush=True)
            await asyncio.sleep(0.2)


asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
