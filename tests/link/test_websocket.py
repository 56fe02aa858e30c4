"""Frames, both ways; what is refused. The real peer is Mosquitto: tests/system/test_ways.py."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections import deque

import pytest

from edgewarden.link.websocket import MAX_WAITING_BYTES, WebSocket, upgrade

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FakeTls:
    """An SSLSocket without a network: reads come from chunks, writes are taken room bytes at a
    time."""

    def __init__(self, incoming: bytes = b"", *, room: int = 1 << 30, ended: bool = False) -> None:
        self.incoming = bytearray(incoming)
        self.room = room
        self.ended = ended
        self.sent = bytearray()
        self.asked: deque[int] = deque()
        self.closed = False

    def recv(self, count: int) -> bytes:
        self.asked.append(count)
        if not self.incoming:
            if self.ended:
                return b""
            raise ssl.SSLWantReadError
        got = bytes(self.incoming[:count])
        del self.incoming[:count]
        return got

    def send(self, data: bytes) -> int:
        if self.room == 0:
            raise ssl.SSLWantWriteError
        took = min(self.room, len(data))
        self.room -= took
        self.sent += data[:took]
        return took

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _: float | None) -> None: ...

    def pending(self) -> int:
        return len(self.incoming)

    def close(self) -> None:
        self.closed = True


def made(tls: FakeTls) -> WebSocket:
    return WebSocket(tls, lambda n: b"\x01\x02\x03\x04"[:n])  # type: ignore[arg-type]


def unmasked(frame: bytes) -> tuple[int, bytes, bytes]:
    """(first byte, payload, rest) of a client's frame."""
    length, at = frame[1] & 0x7F, 2
    assert frame[1] & 0x80, "a client masks"
    if length == 126:
        length, at = int.from_bytes(frame[2:4], "big"), 4
    elif length == 127:
        length, at = int.from_bytes(frame[2:10], "big"), 10
    key, body = frame[at : at + 4], frame[at + 4 : at + 4 + length]
    return frame[0], bytes(b ^ key[i % 4] for i, b in enumerate(body)), frame[at + 4 + length :]


@pytest.mark.parametrize("size", [1, 3, 125, 126, 65535, 65536, 70001])
def test_what_is_sent_is_one_masked_binary_frame(size: int) -> None:
    tls, data = FakeTls(), bytes(i % 251 for i in range(size))
    assert made(tls).send(data) == size
    assert unmasked(bytes(tls.sent)) == (0x82, data, b"")
    assert data not in tls.sent or size < 4


def test_a_frame_that_does_not_fit_is_finished_by_the_same_call_again() -> None:
    tls = FakeTls(room=7)
    wire = made(tls)
    with pytest.raises(ssl.SSLWantWriteError):
        wire.send(b"0123456789")
    tls.room = 1 << 30
    assert wire.send(b"0123456789") == 10
    assert unmasked(bytes(tls.sent)) == (0x82, b"0123456789", b""), "once, whole"


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"\x82\x05", 5),
        (b"\x82\x7e\x01\x00", 256),
        (b"\x82\x7f" + bytes(5) + b"\x01\x00\x00", 65536),
    ],
)
def test_a_payload_is_read_as_far_as_asked_for(head: bytes, size: int) -> None:
    tls = FakeTls(head + b"x" * size + b"\x82\x01y")
    wire, got = made(tls), bytearray()
    while len(got) < size:
        got += wire.recv(3)
    assert got == b"x" * size
    assert wire.recv(100) == b"y"


def test_nothing_is_read_ahead() -> None:
    tls = FakeTls(b"\x82\x05hello\x82\x01y")
    wire = made(tls)
    assert wire.recv(2) == b"he"
    assert list(tls.asked) == [2, 2]
    assert wire.pending() == len(b"llo\x82\x01y")


def test_a_head_that_comes_byte_by_byte_is_put_together() -> None:
    tls = FakeTls()
    wire = made(tls)
    for byte in b"\x82\x7e\x00\x02h":
        with pytest.raises(ssl.SSLWantReadError):
            wire.recv(10)
        tls.incoming.append(byte)
    assert wire.recv(10) == b"h"


def test_parts_of_a_message_are_one_stream() -> None:
    wire = made(FakeTls(b"\x02\x02he\x00\x02ll\x80\x01o"))
    assert b"".join(wire.recv(9) for _ in range(3)) == b"hello"


def test_a_ping_is_answered_masked_and_between_whole_frames() -> None:
    tls = FakeTls(b"\x89\x03abc\x82\x02hi", room=4)
    wire = made(tls)
    with pytest.raises(ssl.SSLWantWriteError):
        wire.send(b"data")
    assert wire.recv(9) == b"hi"
    tls.room = 1 << 30
    assert wire.send(b"data") == 4
    first, payload, rest = unmasked(bytes(tls.sent))
    assert (first, payload) == (0x82, b"data")
    assert unmasked(rest) == (0x8A, b"abc", b"")


def test_a_close_is_answered_and_ends_it() -> None:
    tls = FakeTls(b"\x88\x02\x03\xe8")
    with pytest.raises(ConnectionError, match="closed the WebSocket: 1000"):
        made(tls).recv(9)
    assert unmasked(bytes(tls.sent)) == (0x88, b"\x03\xe8", b"")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\x03\xf1too big", "closed the WebSocket: 1009 too big$"),
        (b"\x03\xf0\x1b[2Jno\xff", "closed the WebSocket: 1008 \\[2Jno"),
        (b"", "closed the WebSocket$"),
        (b"\x03", "closed the WebSocket$"),
    ],
)
def test_why_it_was_closed_is_told(payload: bytes, words: str) -> None:
    """status said that the session ended, and not that a load balancer found it too big."""
    with pytest.raises(ConnectionError, match=words):
        made(FakeTls(b"\x88" + bytes([len(payload)]) + payload)).recv(9)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x85\x01\x02\x03\x04hello",  # masked by a server
        b"\xc2\x01x",  # a reserved bit
        b"\x81\x01x",  # text
        b"\x83\x01x",  # reserved opcode
        b"\x89\x7e\x00\x80" + bytes(128),  # a control frame that is too long
        b"\x09\x01x",  # a control frame in parts
    ],
)
def test_what_no_server_may_send_ends_the_connection(frame: bytes) -> None:
    with pytest.raises(ConnectionError):
        made(FakeTls(frame)).recv(100)


def test_the_end_inside_a_frames_head_is_an_error() -> None:
    with pytest.raises(ConnectionAbortedError):
        made(FakeTls(b"\x82", ended=True)).recv(10)


def test_a_flood_of_pings_is_bounded_in_memory_and_in_one_call() -> None:
    wire = made(FakeTls(b"\x89\x00" * 1000))
    with pytest.raises(BlockingIOError):
        wire.recv(1)
    flooded = made(FakeTls((b"\x89\x7d" + bytes(125)) * 5000, room=0))
    with pytest.raises(ConnectionError):  # noqa: PT012 - the call it happens in does not matter
        for _ in range(100):
            try:
                flooded.recv(1)
            except BlockingIOError:
                continue
    assert len(flooded._out) <= MAX_WAITING_BYTES


# --- the handshake -------------------------------------------------------------------------------

KEY = base64.b64encode(b"k" * 16)
ACCEPT = base64.b64encode(hashlib.sha1(KEY + GUID).digest()).decode()


def shaken(answer: str, host: str = "broker.example", port: int = 443) -> tuple[WebSocket, FakeTls]:
    tls = FakeTls(answer.replace("\n", "\r\n").encode(), ended=True)
    return upgrade(tls, host, port, "/mqtt", lambda n: b"k" * n, lambda: 5.0), tls  # type: ignore[arg-type]


def test_the_upgrade_asks_for_mqtt() -> None:
    good = (
        f"HTTP/1.1 101 Switching\nUPGRADE: websocket\nSec-Websocket-Accept: {ACCEPT}\n"
        "sec-websocket-protocol: mqtt\n\n"
    )
    wire, tls = shaken(good)
    asked = tls.sent.decode()
    assert asked.startswith("GET /mqtt HTTP/1.1\r\nHost: broker.example\r\n")
    assert f"Sec-WebSocket-Key: {KEY.decode()}\r\n" in asked
    assert asked.endswith("Sec-WebSocket-Protocol: mqtt\r\n\r\n")
    assert wire.pending() == 0
    assert "Host: [::1]:8443\r\n" in shaken(good, "::1", 8443)[1].sent.decode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("HTTP/1.1 404 Not Found\n\n", "404 Not Found"),
        ("HTTP/1.1 200 OK\n\n", "200"),
        ("HTTP/1.1 101 S\nSec-WebSocket-Accept: x\nSec-WebSocket-Protocol: mqtt\n\n", "another"),
        (f"HTTP/1.1 101 S\nSec-WebSocket-Accept: {ACCEPT}\n\n", "does not speak mqtt"),
        ("220 mail.example ESMTP\n\n", "no WebSocket"),
        ("HTTP/1.1 101 S\n", "closed"),
    ],
)
def test_another_answer_is_refused(answer: str, words: str) -> None:
    with pytest.raises(ConnectionError, match=words):
        shaken(answer)
