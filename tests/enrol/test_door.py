"""Strangers who are slow do not keep an honest gateway out: real sockets, from 127.0.0.x."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.desk.door import Door, source_of
from tests.enrol.fleet_service import FleetService, made_ago, standing_service
from tests.waiting import wait_until

PATIENCE_S = 60.0
NOT_BY_TIME_S = 600.0
"""For ask_s where it is not what is tried: on a slow machine it would cut those who are held."""
HEAD = b"POST /v1/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n"
ANYBODY = ssl.create_default_context()
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    return made_ago(tmp_path_factory.mktemp("fleet") / "fleet")


class Strangers:
    """Connections that are held; which, and how far each went."""

    def __init__(self, url: str) -> None:
        self._to = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self.held: list[socket.socket] = []

    def plain(self, n: int) -> socket.socket | None:
        """A connection from 127.0.0.n that says nothing; None when it was closed at once."""
        made = socket.create_connection(self._to, PATIENCE_S, (f"127.0.0.{n}", 0))
        self.held.append(made)
        return made

    def silent(self, n: int) -> socket.socket | None:
        """TLS, and nothing of a request."""
        made = self.plain(n)
        assert made is not None
        with contextlib.suppress(OSError):
            self.held[-1] = ANYBODY.wrap_socket(made)
            return self.held[-1]
        return None

    def slow(self, n: int) -> socket.socket | None:
        """A request whose body does not come."""
        made = self.silent(n)
        if made is not None:
            with contextlib.suppress(OSError):  # cut meanwhile
                made.sendall(HEAD)
        return made

    def close(self) -> None:
        for one in self.held:
            one.close()


@contextlib.contextmanager
def strangers(service: FleetService) -> Iterator[Strangers]:
    made = Strangers(service.url)
    try:
        yield made
    finally:
        made.close()


def ended(connection: socket.socket, within_s: float) -> bool:
    """Whether the other end lets go of a connection, with an answer or without."""
    connection.settimeout(within_s)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            try:
                if not connection.recv(4096):
                    return True
            except TimeoutError:
                return False
        return False
    return True


def test_slow_bodies_of_a_few_addresses_keep_nobody_out(
    folder: FleetFolder, tmp_path: Path
) -> None:
    """Five addresses, four requests each: more than the service once had places."""
    with standing_service(folder) as service, strangers(service) as those:
        for n in range(20):
            those.slow(2 + n % 5)
        began = time.monotonic()
        assert service.enrol(tmp_path, "gw-a").device == "gw-a"
        print(f"enrolled in {time.monotonic() - began:.2f} s")


@pytest.mark.parametrize("kind", [Strangers.plain, Strangers.silent, Strangers.slow])
def test_more_addresses_than_connections_keep_nobody_out(
    folder: FleetFolder, tmp_path: Path, kind: Callable[[Strangers, int], socket.socket | None]
) -> None:
    context = folder.enroll_context()
    door = Door(context, connections=40, per_source=4, ask_s=NOT_BY_TIME_S)
    with standing_service(folder, door=door) as service, strangers(service) as those:
        for n in range(160):
            kind(those, 2 + n % 50)
        began = time.monotonic()
        assert service.enrol(tmp_path, f"gw-{kind.__name__}").device
        print(f"enrolled in {time.monotonic() - began:.2f} s, {dict(door.turned_away)}")
        assert door.turned_away["made room"] > 100


def test_one_address_has_its_share(folder: FleetFolder) -> None:
    door = Door(folder.enroll_context(), per_source=4, ask_s=NOT_BY_TIME_S)
    with standing_service(folder, door=door) as service, strangers(service) as those:
        first = [those.silent(9) for _ in range(4)]
        assert all(first)
        fifth = those.plain(9)
        assert fifth is not None
        assert ended(fifth, PATIENCE_S), "closed at once"
        assert those.silent(10), "another is not concerned"
        one = first[0]
        assert one is not None
        one.close()
        wait_until(lambda: bool(those.silent(9)), 60)


@pytest.mark.parametrize("kind", [Strangers.plain, Strangers.silent, Strangers.slow])
def test_who_does_not_come_to_the_point_is_cut(
    folder: FleetFolder, kind: Callable[[Strangers, int], socket.socket | None]
) -> None:
    door = Door(folder.enroll_context(), ask_s=1.0)
    with standing_service(folder, door=door) as service, strangers(service) as those:
        one = kind(those, 9)
        # Where it came no further than into TLS, the machine stood still for that second.
        assert one is None or ended(one, PATIENCE_S)
        wait_until(lambda: not door.guests)


def test_one_connection_carries_one_request(folder: FleetFolder) -> None:
    with standing_service(folder) as service, strangers(service) as those:
        one = those.silent(9)
        assert one is not None
        one.sendall(b"GET /v1/ca HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended(one, PATIENCE_S)


def test_room_is_made_by_whoever_has_most(folder: FleetFolder) -> None:
    context = folder.enroll_context()
    door = Door(context, connections=6, per_source=4, ask_s=NOT_BY_TIME_S)
    with standing_service(folder, door=door) as service, strangers(service) as those:
        alone = [those.silent(n) for n in (2, 3)]
        many = [those.silent(4) for _ in range(4)]
        for n in (5, 6, 7):
            assert those.silent(n)
        wait_until(lambda: sum(ended(one, 0.1) for one in many if one) >= 3)
        gone = [ended(one, 0.1) for one in many if one]
        assert sum(gone) == 3
        assert gone[0], "who came first goes first"
        assert not any(ended(one, 0.1) for one in alone if one)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_who_is_counted_as_one(address: str, source: str) -> None:
    assert source_of(address) == source
