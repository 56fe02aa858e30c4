"""One session against a peer that answers what the test says, byte by byte, without TLS."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Awaitable, Callable

import pytest

from edgewarden.errors import PeerFault
from edgewarden.link.session import MQTT_5, MQTT_311, Ending, Session, Terms
from tests.waiting import until

CONNACK = b"\x20\x03\x00\x00\x00"
"""MQTT 5.0 section 3.2: session not present, success, no properties."""
PINGREQ = b"\xc0\x00"
WAIT_S = 60.0
SEED = 6255

Play = Callable[[Session, "Peer"], Awaitable[None]]


class Peer:
    """The other end of the connection, and what the event loop was told went wrong."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.defects: list[dict[str, object]] = []

    async def heard(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.connection, 4096)

    async def says(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.connection, data)


@pytest.fixture
def play() -> Callable[..., list[object]]:
    """Run a test's part with a session on one end; return what reached the loop as a defect."""

    def run(part: Play, *, keepalive_s: int = 30, protocol: int = MQTT_5) -> list[object]:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as ours,
        ):
            theirs, _ = server.accept()
            with theirs:
                peer = Peer(theirs)

                async def whole() -> None:
                    loop = asyncio.get_running_loop()
                    loop.set_exception_handler(lambda _, context: peer.defects.append(context))
                    ours.setblocking(False)
                    theirs.setblocking(False)
                    one = Session(
                        ours, "gw", keepalive_s=keepalive_s, window=20, will=("w", b""),
                        on_acked=lambda *_: None, on_message=lambda *_: None, protocol=protocol,
                    )  # fmt: skip
                    try:
                        async with asyncio.timeout(WAIT_S):
                            await part(one, peer)
                    finally:
                        one.abort("seen")

                asyncio.run(whole())
        return list(peer.defects)

    return run


async def connected(one: Session, peer: Peer, answer: bytes = CONNACK) -> Terms:
    waiting = asyncio.create_task(one.connect("localhost", 1))
    assert (await peer.heard())[:1] == b"\x10"
    await peer.says(answer)
    return await waiting


async def ending(one: Session, peer: Peer, packet: bytes) -> Ending:
    await connected(one, peer)
    await peer.says(packet)
    return await one.ended


@pytest.mark.parametrize(
    "packet",
    [
        b"\x40\x01\x00",  # PUBACK of one byte
        b"\x40\x00",
        b"\x40\x03\x00\x01\x80",  # a PUBACK's property length is missing, which is allowed
        b"\x90\x01\x00",  # SUBACK of one byte
        b"\x90\x04\x00\x01\x00\x55",  # SUBACK with a code that does not exist
        b"\x32\x01\x00",  # PUBLISH without a topic
        b"\x32\x05\x00\xff\x41\x00\x00",  # PUBLISH with a topic longer than the packet
        b"\x30\x05\x00\x01w\x01\xff",  # PUBLISH with a property that does not exist
        b"\xe0\x01\x55",  # DISCONNECT with a code that does not exist
        b"\xe0\x02\x00\x05",  # DISCONNECT with properties that are not there
        b"\xf0\x00",  # AUTH, which nobody asked for
        b"\xb0\x02\x00\x01",
    ],
    ids=lambda packet: packet.hex(),
)
def test_a_packet_that_is_none_ends_the_session_and_is_not_looked_at_again(
    play: Callable[..., list[object]], packet: bytes
) -> None:
    """paho 2.1 raised, kept the packet, and the loop turned over it for ever."""

    async def part(one: Session, peer: Peer) -> None:
        if packet[2:] == b"\x00\x01\x80":
            await connected(one, peer)
            await peer.says(packet + b"\xe0\x00")
            assert (await one.ended).reason == 0
            return
        found = await ending(one, peer, packet)
        assert found.text

    assert play(part) == []


def test_no_bytes_of_a_broker_reach_the_loop_as_a_defect(
    play: Callable[..., list[object]],
) -> None:
    chance = random.Random(SEED)

    def packet() -> bytes:
        kind = chance.choice([2, 3, 4, 5, 6, 7, 9, 11, 13, 14, 15]) << 4
        body = chance.randbytes(chance.randint(0, 12))
        if chance.random() < 0.5:
            body = b"\x00" * chance.randint(0, 3) + body
        return bytes([kind | chance.choice([0, 2, 4, 6]), len(body)]) + body

    for _ in range(150):

        async def part(one: Session, peer: Peer) -> None:
            found = await ending(one, peer, packet() + b"\xe0\x01\x8b")
            assert found.text

        assert play(part) == []


def test_a_refusal_by_311_is_told_at_once(play: Callable[..., list[object]]) -> None:
    """paho would have tried again by an older version, on a socket that it does not have."""

    async def part(one: Session, peer: Peer) -> None:
        with pytest.raises(PeerFault, match="Unsupported protocol version") as caught:
            await connected(one, peer, b"\x20\x02\x00\x01")
        assert "uplink" in caught.value.next_step

    assert play(part, protocol=MQTT_311) == []


def test_the_brokers_shorter_keep_alive_is_kept_to(play: Callable[..., list[object]]) -> None:
    """Otherwise a session that rests ends each time that one and a half of it has gone."""

    async def part(one: Session, peer: Peer) -> None:
        await connected(one, peer, b"\x20\x06\x00\x00\x03\x13\x00\x01")
        await until(lambda: one._misc is not None)
        loop = asyncio.get_running_loop()
        await until(lambda: one._misc.when() - loop.time() <= 0.25, 1.0)  # type: ignore[union-attr]
        assert await peer.heard() == PINGREQ

    assert play(part, keepalive_s=1200) == []


@pytest.mark.parametrize("told", [b"\x13\x00\x00", b"\x13\xff\xff"], ids=["off", "longer"])
def test_a_longer_keep_alive_of_the_brokers_changes_nothing(
    play: Callable[..., list[object]], told: bytes
) -> None:
    """Pings are how we notice that nobody is there: no broker switches that off."""

    async def part(one: Session, peer: Peer) -> None:
        await connected(one, peer, b"\x20\x06\x00\x00\x03" + told)
        assert await peer.heard() == PINGREQ

    assert play(part, keepalive_s=1) == []


def test_a_broker_without_acknowledgements_is_none(play: Callable[..., list[object]]) -> None:
    async def part(one: Session, peer: Peer) -> None:
        with pytest.raises(PeerFault, match="QoS 0 only"):
            await connected(one, peer, b"\x20\x05\x00\x00\x02\x24\x00")

    assert play(part) == []


@pytest.mark.parametrize(("told", "retains"), [(b"\x00", False), (b"\x01", True)])
def test_whether_a_broker_retains_is_its_word(
    play: Callable[..., list[object]], told: bytes, retains: bool
) -> None:
    async def part(one: Session, peer: Peer) -> None:
        terms = await connected(one, peer, b"\x20\x05\x00\x00\x02\x25" + told)
        assert terms == Terms(65535, None, retains)

    assert play(part) == []


def test_a_broker_that_names_another_is_told_with_its_words(
    play: Callable[..., list[object]],
) -> None:
    reference = b"\x1c\x00\x09other.two"
    answer = b"\x00\x9c" + bytes([len(reference)]) + reference

    async def part(one: Session, peer: Peer) -> None:
        with pytest.raises(PeerFault, match=r"Use another server \(0x9c\), .*other.two") as caught:
            await connected(one, peer, b"\x20" + bytes([len(answer)]) + answer)
        assert "[uplink] host" in caught.value.next_step

    assert play(part) == []


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"\xe0\x01\x8b", "0x8b"),
        (b"\xe0\x02\x95\x00", "0x95"),
        (b"\xe0\x07\x97\x05\x1f\x00\x02ab", r"Quota exceeded \(0x97\), in its words: ab"),
    ],
)
def test_what_a_broker_says_at_the_end_is_told(
    play: Callable[..., list[object]], packet: bytes, words: str
) -> None:
    async def part(one: Session, peer: Peer) -> None:
        assert re.search(words, (await ending(one, peer, packet)).text)

    assert play(part) == []
