"""Waiting for a port that is not there, or not the one it was.

Decides when it is worth trying again. Leaves to others opening it (opening.py) and how long to wait
when nothing happens (portlife.py's backoff).

Rules, in order:

1. A port is known by what its path leads to: inode, device number and the time of its last change.
   Another one than was known is worth a try at once; udev makes the stable names only after owner
   and group are set.
2. The folder of the path is watched (inotify); where it is not there, the nearest one above that
   is: udev takes /dev/serial/by-path away with its last port. Nothing is asked of the disk
   meanwhile.
3. Where the kernel gives no watch, the path is looked at every ``POLL_S``.

    await plugged_in("/dev/serial/by-path/...", known, 30.0)    # True: try now
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from edgewarden.errors import HardwareFault
from edgewarden.kernel import inotify

POLL_S = 5.0
"""Without a watch: a technician who plugs a sensor in looks at the screen about that long."""

Identity = tuple[int, int, int]
"""Inode, device number, time of the last change."""


def identity(where: str | int) -> Identity | None:
    """What a path or an open descriptor leads to; None for nothing."""
    try:
        status = os.stat(where)
    except OSError:
        return None
    return status.st_ino, status.st_rdev, status.st_ctime_ns


async def plugged_in(path: str, known: Identity | None, timeout_s: float) -> bool:
    """Wait until ``path`` leads to something other than ``known``.

    Returns:
        True as soon as it does; False when the time is over.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not _other(path, known):
                await _something(path, lambda: _other(path, known))
            return True
    return False


def _other(path: str, known: Identity | None) -> bool:
    now = identity(path)
    return now is not None and now != known


async def _something(path: str, other: Callable[[], bool]) -> None:
    """Return when something happened to the path, or a poll is due."""
    folder, name = _nearest(path)
    try:
        fd = inotify.open_folder(folder)
    except HardwareFault:
        await asyncio.sleep(POLL_S)
        return
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        for event in inotify.events(fd):
            if event.name == name or event.mask & inotify.IN_IGNORED:
                woken.set()

    loop.add_reader(fd, look)
    try:
        # What happened between the look at the path and the watch.
        if not other() and _nearest(path) == (folder, name):
            await woken.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _nearest(path: str) -> tuple[str, str]:
    """The nearest folder above ``path`` that is there, and the name in it that leads there."""
    folder, name = os.path.split(path)
    while not os.path.isdir(folder) and folder != "/":
        folder, name = os.path.split(folder)
    return folder, name
