"""What a broker that collects its small packets waits for: the kernel's acknowledgement."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from edgewarden.link import session
from edgewarden.link.dial import acknowledge_at_once
from edgewarden.link.session import Session
from tests.waiting import until

CONNACK = b"\x20\x03\x00\x00\x00"
"""MQTT 5.0 section 3.2: session not present, success, no properties."""

PUBLISH = b"\x30\x05\x00\x01w\x00x"
"""Section 3.3: QoS 0, topic w, no properties, payload x."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection that have asked and answered."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        theirs, _ = server.accept()
        with theirs:
            yield ours, theirs


def puts_off(ours: socket.socket) -> bool:
    """Whether the kernel waits for something to send with an acknowledgement."""
    return not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)


def test_the_kernel_no_longer_puts_an_acknowledgement_off(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    for _ in range(100):  # which side asks is found out by the kernel, some rounds later
        theirs.send(b"?")
        ours.recv(1)
        ours.send(b"!")
        theirs.recv(1)
        if puts_off(ours):
            break
    assert puts_off(ours)
    acknowledge_at_once(ours)
    assert not puts_off(ours)
    assert ours.fileno() >= 0, "it is still ours"


def test_what_is_read_before_connack_is_acknowledged_at_once_and_nothing_later(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    told: list[socket.socket] = []
    heard: list[bytes] = []
    monkeypatch.setattr(session, "acknowledge_at_once", told.append)

    async def play() -> None:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        one = Session(
            ours, "gw", keepalive_s=30, window=20, will=("w", b""),
            on_acked=lambda *_: None, on_message=lambda _, payload: heard.append(payload),
        )  # fmt: skip
        waiting = asyncio.create_task(one.connect("localhost", 1))
        assert (await loop.sock_recv(theirs, 4096))[:1] == b"\x10"
        await loop.sock_sendall(theirs, CONNACK[:2])
        await until(lambda: told)
        await loop.sock_sendall(theirs, CONNACK[2:])
        await waiting
        told.clear()
        await loop.sock_sendall(theirs, PUBLISH)
        await until(lambda: heard)
        one.abort("seen")
        assert told == []

    asyncio.run(play())
