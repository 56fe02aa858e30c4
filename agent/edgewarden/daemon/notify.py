"""sd_notify(3): tell systemd that link is ready, alive or stopping. Without systemd it does
nothing.

NOTIFY_SOCKET is systemd's own way to say where; it is read once, at construction, and taken out of
nobody's environment. Datagrams that cannot be sent are dropped: systemd's watchdog draws the right
conclusion from silence.
"""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """One datagram socket, or none. Never blocks; the loop's thread."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def tell(self, state: str) -> None:
        """Send ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1`` or ``STATUS=...``."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(state.encode(), self._address)

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
