"""What link may say about names, and every bound of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edgewarden.network.names import (
    ANSWERS_AT_ONCE,
    ANSWERS_PER_S,
    MIN_KEEP_S,
    Names,
)
from edgewarden.wire.local import NameAnswer, encode
from edgewarden.wire.local_network import MAX_ADDRESSES
from edgewarden.wire.network_table import NetworkTable

TABLE = NetworkTable(5, 1, 3600, 60, ("a.example.org", "b.example.org"), (), (), "x")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def names(clock: Clock) -> Iterator[Names]:
    with socket.socket() as listener:
        yield Names(listener, {0}, clock)


def answer(*addresses: str, host: int = 0, keep_s: int = 300, generation: int = 5) -> NameAnswer:
    version = 6 if ":" in addresses[0] else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    raw = tuple(socket.inet_pton(family, a) for a in addresses)
    return NameAnswer(host, generation, version, keep_s, raw)


def test_an_answer_is_taken_and_kept(names: Names, clock: Clock) -> None:
    (change,) = names.take(answer("10.0.0.1"), TABLE)
    assert (change.host, change.version, change.address, change.keep_s) == (0, 4, "10.0.0.1", 300)
    assert change.fresh
    (again,) = names.take(answer("10.0.0.1"), TABLE)
    assert not again.fresh
    clock.now += 100
    assert names.standing() == {0: [(4, "10.0.0.1", 200)]}
    clock.now += 300
    assert names.standing() == {0: []}


@pytest.mark.parametrize(("said", "kept"), [(0, MIN_KEEP_S), (1, MIN_KEEP_S), (10**9, 3600)])
def test_the_time_is_bounded(names: Names, said: int, kept: int) -> None:
    (change,) = names.take(answer("10.0.0.1", keep_s=said), TABLE)
    assert change.keep_s == kept


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.1.1.1", "240.0.0.1",
     "255.255.255.255", "::", "::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_an_address_that_is_no_peer_is_refused(names: Names, address: str) -> None:
    assert names.take(answer(address), TABLE) == []
    assert names.refused == 1


def test_another_table_and_another_name_are_refused(names: Names) -> None:
    assert names.take(answer("10.0.0.1", generation=4), TABLE) == []
    assert names.take(answer("10.0.0.1", host=2), TABLE) == []
    assert names.refused == 2


def test_a_name_has_so_many_addresses_and_the_oldest_makes_room(names: Names, clock: Clock) -> None:
    for i in range(MAX_ADDRESSES):
        names.take(answer(f"10.0.0.{i + 1}"), TABLE)
        clock.now += 0.1
    (change,) = names.take(answer("10.0.1.1"), TABLE)
    assert change.dropped == "10.0.0.1"
    assert len(names.standing()[0]) == MAX_ADDRESSES
    (other,) = names.take(answer("fd00::1"), TABLE)
    assert other.dropped == "", "the other family counts by itself"


def test_answers_are_rationed(names: Names, clock: Clock) -> None:
    taken = sum(bool(names.take(answer("10.0.0.1"), TABLE)) for _ in range(ANSWERS_AT_ONCE * 2))
    assert taken == ANSWERS_AT_ONCE
    clock.now += 2
    taken = sum(bool(names.take(answer("10.0.0.1"), TABLE)) for _ in range(100))
    assert taken == int(2 * ANSWERS_PER_S)


def test_a_move_can_be_taken_back(names: Names) -> None:
    names.take(answer("10.0.0.1", host=0), TABLE)
    before = names.known()
    names.move_to(TABLE.hosts, ("c.example.org",))
    assert names.standing() == {}
    names.back_to(before)
    assert names.standing() == {0: [(4, "10.0.0.1", 300)]}


def test_what_is_known_of_a_name_goes_on_under_its_new_number(names: Names) -> None:
    names.take(answer("10.0.0.1", host=0), TABLE)
    names.take(answer("10.0.0.2", host=1), TABLE)
    names.move_to(TABLE.hosts, ("b.example.org", "c.example.org"))
    assert names.standing() == {0: [(4, "10.0.0.2", 300)]}


def test_one_answer_is_taken_a_time_so_that_nobody_holds_gate_up(names: Names) -> None:
    names.client, link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with link:
        said = ("192.0.2.1", "192.0.2.2")
        for address in said:
            link.send(encode(answer(address)))
        assert [[c.address for c in names.hear(TABLE)] for _ in said] == [[a] for a in said]
        assert names.hear(TABLE) == []
        assert names.fileno() >= 0
    assert names.hear(TABLE) == []
    assert names.fileno() < 0
