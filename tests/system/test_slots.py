"""What a stranger's slot stands for: a connection that our service holds, no longer and no shorter.

A slot that outlives its connection locks honest strangers out; one that ends before it lets an
attacker take the places that are reserved for enrolled devices. See peers/limits.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.peers.limits import RESET_S
from edgewarden.settings.schema import Network
from tests.system.net_world import GATEWAY, NetWorld, net_world
from tests.system.test_floods import DEVICE, PLAIN, STRANGER, broker, elements, publish
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "nft", "net-namespaces", "mosquitto")]

SLOTS = 12
COLLECTED = 5
"""Tries, two seconds apart: the kernel collects what has ended each second, on a machine that
stands still later. A slot that is not given back stays for the ten minutes of IDLE_S."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NetWorld]:
    with net_world(tmp_path) as made, broker(made, tmp_path / "broker"):
        made.write("", Network(limits="on", enrolled=(DEVICE,), unknown_slots=SLOTS))
        made.start_gate()
        assert made.mode("enforce").ok
        yield made


@contextlib.contextmanager
def ended(world: NetWorld, how: str) -> Iterator[None]:
    """A stranger's session that has ended like this, or says so."""
    command = world.tool(world.peer, "end", GATEWAY, PLAIN, STRANGER, how)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "done\n"
            yield
        finally:
            stranger.kill()
            stranger.communicate(timeout=60)


def held(world: NetWorld) -> int:
    """Connections that the broker holds."""
    listed = subprocess.run(
        world.inside(world.gateway, "ss", "-Htn", "state", "established", f"( sport = :{PLAIN} )"),
        check=True,
        capture_output=True,
        text=True,
    )
    return len(listed.stdout.splitlines())


def test_three_times_as_many_sessions_as_slots_one_after_another(world: NetWorld) -> None:
    for _ in range(3):
        seen = []
        while len(seen) < COLLECTED and (not seen or seen[-1]["ok"] < SLOTS):
            seen.append(publish(world, STRANGER, PLAIN, SLOTS))
            time.sleep(2)
        assert seen[-1]["ok"] == SLOTS, seen
        wait_until(lambda: elements(world, "slots") == 0)


@pytest.mark.parametrize("how", ["fin", "reset", "garbage"])
def test_a_session_that_has_ended_has_no_slot(world: NetWorld, how: str) -> None:
    with ended(world, how):
        wait_until(lambda: held(world) == 0, 60)
        wait_until(lambda: elements(world, "slots") == 0, 60)


@pytest.mark.parametrize("how", ["fin-hole", "rst-ahead", "rst-behind"])
def test_who_only_says_that_it_has_ended_keeps_its_slot(world: NetWorld, how: str) -> None:
    with ended(world, how):
        assert held(world) == 1, "the broker does not believe it"
        time.sleep(2 * RESET_S)
        assert (held(world), elements(world, "slots")) == (1, 1)
