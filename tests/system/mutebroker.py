"""A peer that speaks just enough MQTT 5 to count what a client sends before any acknowledgement.

Mosquitto acknowledges too fast for that. This one answers CONNECT and SUBSCRIBE and nothing else;
``kick()`` ends all connections; ``shout()`` sends raw bytes to the client.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

# MQTT 5.0 §2.1.2
_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8


class MuteBroker:
    """A context manager; ``published`` counts PUBLISH packets of each connection.

    Args:
        cert, key, ca: as a broker has them.
        receive_maximum: told in CONNACK.
    """

    def __init__(self, cert: Path, key: Path, ca: Path, receive_maximum: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._receive_maximum = receive_maximum
        self._connections: list[ssl.SSLSocket] = []
        self.published: list[int] = []
        self.closed: list[bool] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> MuteBroker:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(60)
        self.kick()
        for thread in self._threads:
            thread.join(60)

    def kick(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: that takes TLS away from the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def shout(self, data: bytes) -> None:
        """Send raw bytes on the latest connection."""
        with contextlib.suppress(OSError):
            self._connections[-1].sendall(data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    connection = self._context.wrap_socket(plain, server_side=True)
                    number = len(self.published)
                    self.published.append(0)
                    self.closed.append(False)
                    self._connections.append(connection)
                    thread = threading.Thread(target=self._serve, args=(connection, number))
                    self._threads.append(thread)
                    thread.start()

    def _serve(self, connection: ssl.SSLSocket, number: int) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            stream = connection.makefile("rb")
            with stream:
                while head := stream.read(1):
                    body = stream.read(_length(stream.read))
                    self._answer(connection, number, head[0] >> 4, body)
        self.closed[number] = True

    def _answer(self, connection: ssl.SSLSocket, number: int, kind: int, body: bytes) -> None:
        if kind == _CONNECT:
            maximum = b"\x21" + self._receive_maximum.to_bytes(2, "big")
            connection.sendall(b"\x20\x06\x00\x00\x03" + maximum)
        elif kind == _SUBSCRIBE:
            topics = 2
            connection.sendall(
                b"\x90" + bytes([3 + topics]) + body[:2] + b"\x00" + b"\x01" * topics
            )
        elif kind == _PUBLISH:
            self.published[number] += 1


def _length(read: object) -> int:
    """Variable byte integer, MQTT 5.0 §1.5.5."""
    value, shift = 0, 0
    while True:
        if not (head := read(1)):  # type: ignore[operator]
            raise EOFError("it hung up in the middle of a packet")
        byte = head[0]
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return value
