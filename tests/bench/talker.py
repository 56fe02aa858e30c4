"""A quiet sensor board: eight ports that talk once a second, or rarely after SIGUSR1.

    python tests/bench/talker.py DIR [USER]     makes DIR/gps (NMEA), DIR/env1 ... (JSON lines)

The rig of the demo (hw/rigs/board.py) plays a receiver at full speed; a figure called idle wants
one that says a little. What it says is the same recorded, noisy log.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hw.rigs.board import recorded
from hw.rigs.ptys import PtyPort

NAMES = ("gps", *(f"env{n}" for n in range(1, 8)))
FAST_S, SLOW_S = 1.0, 8.0
"""Slow stays under [[serial]] silent_s (10): an idle gateway, not one that raises alarms."""
GPS_BYTES = 240
"""Three or four sentences: what a receiver says each second."""


def main(folder: Path, user: str) -> None:
    """Talk until TERM."""
    pause_s = [FAST_S]
    stopping: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: pause_s.__setitem__(0, SLOW_S))
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    data = recorded()
    with contextlib.ExitStack() as stack:
        gps, *others = (stack.enter_context(PtyPort(folder / name)) for name in NAMES)
        if user:
            for port in (gps, *others):
                shutil.chown(port.link.resolve(), user)
        at, tick = 0, 0
        next_mono = time.monotonic()
        while not stopping:
            gps.send(data[at : at + GPS_BYTES])
            at = at + GPS_BYTES if at + GPS_BYTES < len(data) else 0
            body = {"temperature": round(21 + tick % 7 / 10, 2), "humidity": 45}
            for port in others:
                port.send(json.dumps(body).encode() + b"\n")
            tick += 1
            next_mono += pause_s[0]
            while not stopping and (left := next_mono - time.monotonic()) > 0:
                time.sleep(min(left, 0.5))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
