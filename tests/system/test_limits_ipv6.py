"""A hold over IPv6 is of a whole /64: the router's, and everybody's who is at the same wire."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.settings.schema import Network
from tests.system.net_world import (
    ALLOWED,
    GATEWAY6,
    OTHER6,
    PEER6,
    NetWorld,
    net_world,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "nft", "net-namespaces")]

SSH, SERVICE = 22, 8883
KNOCKS = 400
"""40 SYNs at once and 20 a second are let in, 50 refusals at once and 10 a second before a hold."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NetWorld]:
    with net_world(tmp_path) as made:
        made.serve(PEER6, ports=[ALLOWED])
        made.serve(GATEWAY6, ports=[SSH, SERVICE], where=made.gateway)
        yield made


def forget_neighbours(world: NetWorld) -> None:
    for name, link in ((world.gateway, "up0"), (world.peer, "gw0")):
        subprocess.run(["ip", "-n", name, "neigh", "flush", "dev", link], check=True)


def test_a_hold_of_a_network_leaves_its_neighbours_to_be_found(world: NetWorld) -> None:
    world.write("", Network(limits="on", hold_s=60))
    world.start_gate()
    assert world.mode("enforce").ok
    knock = world.tool(world.peer, "knock", GATEWAY6, SERVICE, KNOCKS, OTHER6)
    subprocess.run(knock, check=True, capture_output=True)
    wait_until(lambda: "fd77::" in world.nft("list", "set", "inet", "edgewarden", "held6"))
    forget_neighbours(world)
    assert world.connect_says("tcp", GATEWAY6, SSH, uid=0, where=world.peer) == ""
    forget_neighbours(world)
    assert world.connect_says("tcp", PEER6, ALLOWED, uid=0) == ""
    assert world.connect_says("tcp", GATEWAY6, SERVICE, uid=0, where=world.peer) == "TIMEOUT"
