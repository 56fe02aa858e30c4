"""sd_notify(3): tell systemd that link or guard is ready, alive or stopping; without systemd,
nothing.

NOTIFY_SOCKET is systemd's own way to say where; it is read once, at construction, and taken out of
nobody's environment. The socket is connected then: later nothing is opened or looked up, which
guard relies on, and so does its memory on ``_socket``. Datagrams that cannot be sent are dropped:
systemd's watchdog draws the right conclusion from silence.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket


class Notifier:
    """One datagram socket, or none. Never blocks; one thread."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._socket: socket | None = None
        if not address:
            return
        made = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        try:
            made.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            made.close()  # nobody listens there
        else:
            self._socket = made

    def tell(self, state: str) -> None:
        """Send ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1`` or ``STATUS=...``."""
        if self._socket is not None:
            try:
                self._socket.send(state.encode())
            except OSError:
                return

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
