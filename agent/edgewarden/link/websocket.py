"""MQTT inside a WebSocket (RFC 6455), for sites that let only that out: a wire for paho.

Decides how bytes are framed and what of the other side's frames is believed. Leaves MQTT to paho
and session.py, TLS to dial.py: this runs inside the verified connection.

* Own and not paho's: that one sends pongs unmasked, which RFC 6455 §5.3 makes the server end the
  connection for, reads an endless head, masks byte by byte (92 ms a MB here, 4 ms as one number),
  and is a private class of two versions.
* Nothing is read ahead: a frame's head is read to the byte, its payload as far as asked for. What
  TLS holds back is what pending() says, and nothing waits here.
* send() takes a message once: until all of its frame is out it raises BlockingIOError, and paho
  comes back with the same bytes.
* Refused, as the end of the connection: masked or text frames, control frames longer than 125
  bytes, reserved bits, an answer without the right key or without the subprotocol mqtt.

    wire = upgrade(tls, "broker.example", 443, "/mqtt", token_bytes, wait)
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Callable
from contextlib import suppress

from edgewarden.link.tunnel import Wait, read_head, status_of

SUBPROTOCOL = "mqtt"
"""MQTT 5.0 §6."""
MAX_WAITING_BYTES = 256 * 1024
"""Our frames not yet taken by the kernel: the longest packet and pongs; more is no peer."""
EMPTY_FRAMES = 64
"""Frames without payload looked at in one call: the loop has others to serve."""

# RFC 6455 §5.2, §1.3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIN, _MASKED = 0x80, 0x80
_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_MAX_CONTROL = 125

TokenBytes = Callable[[int], bytes]


class WebSocket:
    """Looks like a socket to paho and the event loop.

    Args:
        tls: upgraded already; belongs to this object.
        token_bytes: masking keys.
    """

    def __init__(self, tls: ssl.SSLSocket, token_bytes: TokenBytes) -> None:
        self._tls = tls
        self._token_bytes = token_bytes
        self._head = b""
        self._left = 0
        self._out = bytearray()
        self._framed = 0

    def recv(self, count: int) -> bytes:
        """Payload, at most count bytes; b"" when the other side ended it.

        Raises:
            OSError: as the socket; ssl.SSLWantReadError when there is nothing yet.
            ConnectionError: it is no WebSocket as we speak it.
        """
        for _ in range(EMPTY_FRAMES):
            if self._left:
                got = self._tls.recv(min(count, self._left))
                self._left -= len(got)
                return got
            opcode, length = self._next_frame()
            if opcode in (_BINARY, _CONTINUATION):
                self._head, self._left = b"", length
            else:
                self._control(opcode, length)
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Send data as one frame; see the module's docstring for what paho must do."""
        if not self._framed:
            self._push(_frame(_BINARY, data, self._token_bytes(4)))
            self._framed = len(data)
        self._flush()
        sent, self._framed = self._framed, 0
        return sent

    def pending(self) -> int:
        """Bytes that TLS holds back."""
        return self._tls.pending()

    def fileno(self) -> int:
        """Of the socket."""
        return self._tls.fileno()

    def setblocking(self, flag: bool) -> None:
        """As the socket."""
        self._tls.setblocking(flag)

    def close(self) -> None:
        """As the socket."""
        self._tls.close()

    def _next_frame(self) -> tuple[int, int]:
        """(opcode, payload length) when the whole head of a frame is there."""
        self._fill(2)
        first, second = self._head[0], self._head[1]
        if first & 0x70 or second & _MASKED:
            raise ConnectionError("a frame that is masked or has reserved bits")
        opcode, length = first & 0x0F, second & 0x7F
        if opcode >= _CLOSE:
            if length > _MAX_CONTROL or not first & _FIN:
                raise ConnectionError("a control frame that is too long or in parts")
            self._fill(2 + length)
            return opcode, length
        if opcode not in (_BINARY, _CONTINUATION):
            raise ConnectionError(f"a frame with opcode {opcode}")
        more = {126: 2, 127: 8}.get(length, 0)
        self._fill(2 + more)
        return opcode, int.from_bytes(self._head[2:], "big") if more else length

    def _fill(self, count: int) -> None:
        """Have count bytes of head, or raise what the socket says."""
        while len(self._head) < count:
            got = self._tls.recv(count - len(self._head))
            if not got:
                raise ConnectionAbortedError("the connection ended inside a frame")
            self._head += got

    def _control(self, opcode: int, length: int) -> None:
        """Answer ping and close; a close ends it, with the other side's words."""
        payload, self._head = self._head[2 : 2 + length], b""
        if opcode in (_PING, _CLOSE):
            answer = _PONG if opcode == _PING else _CLOSE
            self._push(_frame(answer, payload, self._token_bytes(4)))
            # What is not taken now leaves with the next packet; a ping of ours is never far. And
            # whoever closed may be gone already, which the next read finds.
            with suppress(OSError):
                self._flush()
        if opcode == _CLOSE:
            raise ConnectionAbortedError(f"the other side closed the WebSocket{_told(payload)}")

    def _push(self, frame: bytes) -> None:
        if len(self._out) + len(frame) > MAX_WAITING_BYTES:
            raise ConnectionError("more to answer than can be sent")
        self._out += frame

    def _flush(self) -> None:
        while self._out:
            sent = self._tls.send(self._out)
            del self._out[:sent]


def upgrade(
    tls: ssl.SSLSocket, host: str, port: int, path: str, token_bytes: TokenBytes, wait: Wait
) -> WebSocket:
    """Ask for a WebSocket with MQTT in it. Blocks.

    Raises:
        ConnectionError: the answer is another one; the text says which.
        OSError: as the socket.
    """
    key = base64.b64encode(token_bytes(16))
    name = f"[{host}]" if ":" in host else host
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {name if port == 443 else f'{name}:{port}'}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    ]
    tls.settimeout(wait())
    tls.sendall("\r\n".join([*lines, "", ""]).encode())
    head = read_head(tls, wait)
    status, reason = status_of(head)
    if status != 101:
        raise ConnectionError(f"no WebSocket at {path}: {status} {reason}".rstrip())
    fields = _fields(head)
    wanted = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if fields.get("sec-websocket-accept") != wanted:
        raise ConnectionError("a WebSocket answer to another question")
    if fields.get("sec-websocket-protocol") != SUBPROTOCOL:
        raise ConnectionError("a WebSocket that does not speak mqtt")
    return WebSocket(tls, token_bytes)


def _told(payload: bytes) -> str:
    """§5.5.1: a code and words in a close frame, cut and printable."""
    if len(payload) < 2:
        return ""
    words = payload[2:82].decode("utf-8", "replace")
    return f": {int.from_bytes(payload[:2], 'big')} {''.join(filter(str.isprintable, words))}"


def _fields(head: bytes) -> dict[str, str]:
    """Header fields by lower-case name; of one given twice the last counts."""
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip().lower()] = value.strip()
    return found


def _frame(opcode: int, payload: bytes | bytearray, key: bytes) -> bytes:
    """A whole, masked frame."""
    length = len(payload)
    if length <= _MAX_CONTROL:
        size = bytes([_MASKED | length])
    elif length < 1 << 16:
        size = bytes([_MASKED | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([_MASKED | 127]) + length.to_bytes(8, "big")
    mask = (key * (length // 4 + 1))[:length]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
    return bytes([_FIN | opcode]) + size + key + body
