"""link and DNS names: asks for what the table names, tells gate, and tells a new gate again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.link.names import NameRefresh, TableFile
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.local import NameAnswer, parse
from edgewarden.wire.local_network import MAX_ADDRESSES
from edgewarden.wire.network_table import EMPTY, NetworkTable
from tests.fakes.clock import FakeClock

TABLE = NetworkTable(4, 1, 3600, 60, ("a.example.org", "b.example.org"), (), (), "x")


class Gate:
    """A listener that keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.client: socket.socket | None = None
        self.worlds: list[World] = []
        self._listen()

    def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.listener.setblocking(False)

    def told(self) -> list[NameAnswer]:
        if self.client is None:
            self.client, _ = self.listener.accept()
            self.client.setblocking(False)
        found = []
        while True:
            try:
                data = self.client.recv(4096)
            except BlockingIOError:
                return found
            if not data:
                return found
            found.append(parse(data, NameAnswer))

    def restart(self) -> None:
        self.close()
        self._listen()

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
        self.listener.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate-names.sock")
    yield made
    for world in made.worlds:
        world.names._drop()
    made.close()


class World:
    def __init__(self, gate: Gate, table: NetworkTable = TABLE) -> None:
        gate.worlds.append(self)
        self.answers: dict[tuple[str, int], list[str]] = {
            ("a.example.org", socket.AF_INET): ["192.0.2.1", "192.0.2.2", "192.0.2.1"],
            ("b.example.org", socket.AF_INET6): ["2001:db8::1"],
        }
        self.asked: list[str] = []
        self.events: list[Event] = []
        self.table = table
        self.names = NameRefresh(
            lambda: self.table, self.resolve, str(gate.path), self.take, FakeClock()
        )

    async def resolve(self, name: str, family: int) -> list[str]:
        self.asked.append(name)
        if (name, family) not in self.answers:
            raise OSError("no answer")
        return self.answers[name, family]

    def take(self, fact: Event | Reading) -> None:
        assert isinstance(fact, Event)
        self.events.append(fact)


def test_every_name_is_asked_for_and_told(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate)
        await world.names.look()
        assert gate.told() == [
            NameAnswer(0, 4, 4, 3600, (b"\xc0\0\x02\x01", b"\xc0\0\x02\x02")),
            NameAnswer(1, 4, 6, 3600, (bytes.fromhex("20010db8") + bytes(11) + b"\x01",)),
        ]
        await world.names.look()
        assert gate.told() == [], "nothing is due"
        assert len(world.asked) == 4
        assert world.events == []

    asyncio.run(scene())


def test_a_new_gate_is_told_everything_again_without_asking_dns(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate)
        await world.names.look()
        assert len(gate.told()) == 2
        gate.restart()
        await world.names.look()
        assert len(gate.told()) == 2
        assert len(world.asked) == 4

    asyncio.run(scene())


def test_a_new_policy_is_asked_about_at_once(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate)
        await world.names.look()
        gate.told()
        world.table = NetworkTable(5, 1, 3600, 60, ("b.example.org",), (), (), "x")
        await world.names.look()
        assert [(a.host, a.generation) for a in gate.told()] == [(0, 5)]

    asyncio.run(scene())


def test_a_name_without_an_answer_is_a_finding_once(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate)
        del world.answers["a.example.org", socket.AF_INET]
        for _ in range(3):
            world.names._due_s = 0.0
            await world.names.look()
        assert [event.code for event in world.events] == ["EW-NET-039"]
        assert "a.example.org" in str(world.events[0].detail["title"])

    asyncio.run(scene())


def test_no_more_addresses_are_told_than_a_message_holds(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate)
        many = [f"192.0.2.{i}" for i in range(1, 60)]
        world.answers["a.example.org", socket.AF_INET] = many
        await world.names.look()
        assert len(gate.told()[0].addresses) == MAX_ADDRESSES

    asyncio.run(scene())


def test_without_names_nobody_is_asked_or_told(gate: Gate) -> None:
    async def scene() -> None:
        world = World(gate, EMPTY)
        await world.names.look()
        with pytest.raises(BlockingIOError):
            gate.told()
        assert world.asked == []

    asyncio.run(scene())


def test_the_table_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "network.table"
    file = TableFile(path)
    assert file.read() == EMPTY
    path.write_bytes(TABLE.dump())
    assert file.read() == TABLE
    fresh = tmp_path / "new"
    fresh.write_bytes(NetworkTable(5, 1, 3600, 60, (), (), (), "x").dump())
    fresh.rename(path)
    assert file.read().generation == 5
    path.write_bytes(b"damaged and longer")
    assert file.read() == EMPTY
