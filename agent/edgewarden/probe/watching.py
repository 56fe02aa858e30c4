"""Following a sensor through link: asks for what is new twice a second, never opens the port.

for said in follow("/run/edgewarden", "gps", 60): said["lines"]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from edgewarden.probe.control import ask_link
from edgewarden.wire.control import Command, Request

EVERY_S = 0.5
"""A person reads no faster, and link keeps 64 reads of a port."""


def follow(run_dir: str, sensor: str, limit_s: float | None) -> Iterator[dict[str, Any]]:
    """Yield link's answers until ``limit_s`` has passed, or for ever.

    Raises:
        what probe/control.py's ask_link raises; control.Refused: no such sensor.
    """
    began_s, after = time.monotonic(), 0
    while True:
        said: dict[str, Any] = ask_link(run_dir, Request(Command.WATCH, b"", sensor, after))
        if said["next"] < after:  # link was started anew and counts from 0
            after = 0
            continue
        after = said["next"]
        yield said
        left_s = EVERY_S
        if limit_s is not None:
            left_s = min(EVERY_S, began_s + limit_s - time.monotonic())
        if left_s <= 0:
            return
        time.sleep(left_s)
