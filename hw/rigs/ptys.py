"""Pseudo-terminals that stand for serial ports, and the wire between two of them.

A PtyPort has what a test or a demo needs of a USB serial adapter: a stable path (a symlink), bytes
in and out, and a plug that can be pulled. What nobody reads is dropped, as a UART does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable
from pathlib import Path

READ_BYTES = 4096


class PtyPort:
    """One port. Not plugged in until ``plug()``.

    Args:
        link: the path under which a reader opens it.
    """

    def __init__(self, link: Path) -> None:
        self.link = link
        self.dropped_bytes = 0
        self._master = self._slave = -1

    def __enter__(self) -> PtyPort:
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    @property
    def master(self) -> int:
        """Our end's descriptor; -1 when unplugged."""
        return self._master

    def plug(self) -> None:
        """Make the port appear."""
        self._master, self._slave = os.openpty()
        # Held open, so that the port lives on (and stays raw) between two readers.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.link.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Make it disappear: the path goes, and a reader's descriptor hangs up."""
        if self._master < 0:
            return
        self.link.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def send(self, data: bytes) -> None:
        """Put bytes on the line; drops what does not fit, and everything while unplugged."""
        sent = 0
        if self._master >= 0:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self._master, data)
        self.dropped_bytes += len(data) - sent

    def receive(self) -> bytes:
        """Return what a reader of the port wrote, b"" for nothing."""
        try:
            return os.read(self._master, READ_BYTES)
        except OSError:
            return b""


class Wire:
    """Joins two ports on the running loop, as a cable would.

    Args:
        left, right: the ports; both plugged in.
        to_left: what the wire does to bytes on their way from right to left (noise, loss).
    """

    def __init__(
        self, left: PtyPort, right: PtyPort, to_left: Callable[[bytes], bytes] = lambda b: b
    ) -> None:
        self._left, self._right = left, right
        self.to_left = to_left
        self._fds = (left.master, right.master)

    def __enter__(self) -> Wire:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fds[0], lambda: self._right.send(self._left.receive()))
        loop.add_reader(self._fds[1], lambda: self._left.send(self.to_left(self._right.receive())))
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for fd in self._fds:
            loop.remove_reader(fd)
