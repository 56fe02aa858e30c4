"""Peers by name, from a DNS server to the packet: resolver, link's refresh, gate, nftables; each of
them real, in network namespaces of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.settings.schema import Network
from edgewarden.wire.network_table import NAMES_NAME, NetworkTable
from tests.system.exec_world import AGENT
from tests.system.net_world import ALLOWED, OTHER, PEER, PEER6, UID, NetWorld, net_world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "nft", "net-namespaces")

BY_NAME = f"""
[[egress]]
name = "cloud"
uid = {UID}
host = "api.example.org"
protocol = "tcp"
port = {ALLOWED}
"""
PROGRAM = Path(__file__).with_name("named_peers.py")
REFUSED = "EHOSTUNREACH"


class Named(NetWorld):
    """A gateway whose resolver asks the test's DNS server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.records = self.state / "records.json"
        self.resolv_conf = self.state / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {PEER}\noptions timeout:1 attempts:1\n")
        self.asker: subprocess.Popen[str] | None = None

    def says(self, **records: list[str]) -> None:
        """What api.example.org is from now on; without records it does not exist."""
        new = self.records.with_suffix(".new")
        new.write_text(json.dumps({"api.example.org": records} if records else {}))
        new.rename(self.records)

    def start(self, name: str, *words: object) -> subprocess.Popen[str]:
        command = self.inside(name, sys.executable, str(PROGRAM), *map(str, words))
        made = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(AGENT)},
        )  # fmt: skip
        self._servers.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        return made

    def reaches(self, address: str) -> bool:
        return self.connect_says("tcp", address, ALLOWED) == ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Named]:
    with net_world(tmp_path, Named) as made:
        made.says(A=[PEER])
        made.serve(PEER, OTHER, PEER6, ports=[ALLOWED])
        made.start(made.peer, "serve", PEER, made.records)
        made.write(BY_NAME, Network(dns_refresh_s=1))
        made.start_gate()
        assert made.mode("enforce").ok
        made.asker = made.start(made.gateway, "ask", made.run, made.resolv_conf)
        yield made


def test_what_dns_says_is_let_through_and_nobody_else(world: Named) -> None:
    wait_until(lambda: world.reaches(PEER))
    assert world.connect_says("tcp", OTHER, ALLOWED) == REFUSED
    assert not world.reaches(PEER6)
    world.says(A=[OTHER], AAAA=[PEER6])
    wait_until(lambda: world.reaches(OTHER))
    wait_until(lambda: world.reaches(PEER6))
    assert world.reaches(PEER), "an answer is kept for dns_keep_s"


def test_a_name_without_an_answer_is_told_and_what_was_known_stays(world: Named) -> None:
    wait_until(lambda: world.reaches(PEER))
    world.says()
    assert world.asker is not None
    assert world.asker.stdout is not None
    assert world.asker.stdout.readline() == "EW-NET-039\n"
    assert world.reaches(PEER)


def test_a_server_that_lies_opens_nothing_of_this_host(world: Named) -> None:
    facts = world.connect("gate-facts.sock")
    many = [f"10.77.1.{i}" for i in range(1, 40)]
    world.says(A=["127.0.0.1", "224.0.0.9", "0.0.0.0"], AAAA=["::1", "::ffff:127.0.0.1"])
    world.wait_for_alarm(facts, "EW-NET-037")
    world.says(A=many)
    wait_until(lambda: "10.77.1." in world.nft("list", "set", "inet", "edgewarden", "h0v4"))
    listed = world.nft("list", "set", "inet", "edgewarden", "h0v4")
    assert "127.0.0.1" not in listed
    assert "224." not in listed
    assert listed.count("expires") <= 16
    assert "elements" not in world.nft("list", "set", "inet", "edgewarden", "h0v6")


def test_names_go_on_when_gate_refuses_a_new_table(world: Named) -> None:
    """Review B, M4: link answered for the table that gate had refused, and every name lapsed."""
    wait_until(lambda: world.reaches(PEER))
    path = world.state / "policy" / "network.table"
    good = NetworkTable.load(path.read_bytes())
    values = [getattr(good, name) for name in NetworkTable.fields]  # type: ignore[attr-defined]
    path.write_bytes(
        NetworkTable(good.generation + 1, *values[1:-1], "chain x { nonsense }").dump()
    )
    assert not world.reload().ok
    world.says(A=[OTHER])
    wait_until(lambda: world.reaches(OTHER))


def test_a_new_policys_names_are_asked_for_and_a_killed_gate_hears_them_again(
    world: Named,
) -> None:
    wait_until(lambda: world.reaches(PEER))
    world.write(BY_NAME.replace("api.", "other."), Network(dns_refresh_s=1))
    assert world.reload().ok
    wait_until(lambda: not world.reaches(PEER))
    world.write(BY_NAME, Network(dns_refresh_s=1))
    assert world.reload().ok
    wait_until(lambda: world.reaches(PEER))
    world.kill_gate()
    world.start_gate()
    wait_until(lambda: world.reaches(PEER))


def test_the_names_in_use_may_be_read_by_link_and_written_by_nobody(world: Named) -> None:
    status = (world.run / NAMES_NAME).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o644, 0)
    names = NetworkTable.load((world.run / NAMES_NAME).read_bytes())
    assert names.hosts == ("api.example.org",)
    assert (names.body, names.units, names.counters) == ("", (), ())


def test_gate_makes_that_file_readable_whatever_its_umask(world: Named) -> None:
    world.kill_gate()
    (world.run / NAMES_NAME).unlink()
    before = os.umask(0o077)  # as edgewarden-gate.service has it
    with contextlib.ExitStack() as stack:
        stack.callback(os.umask, before)
        world.start_gate()
        wait_until((world.run / NAMES_NAME).exists)
    assert (world.run / NAMES_NAME).stat().st_mode & 0o777 == 0o644
