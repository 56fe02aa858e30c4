"""What is learned allows exactly what is plugged in, and nothing that is changed about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.plugs.learn import NO_DEVICES, refused_here, rules_text
from edgewarden.settings.policy import load_policy
from edgewarden.settings.source import SourceFile
from hw.rigs.usbtree import USB_MOUNTS, UsbTree, records
from tests.plugs.plugged import World, said, table
from tests.sense.usbtrees import view

PLUGGED = [
    ("ftdi", "1-1.2"), ("ublox", "1-1.3"), ("keyboard", "1-1.4"), ("ch340", "1-1.1"),
    ("disk", "2-1"), ("nic", "2-2"), ("cp210x", "2-3"),
]  # fmt: skip


def learned(tree: UsbTree) -> str:
    with view(tree) as made:
        return rules_text(made)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for name, port in PLUGGED:
        made.tree.plug(name, port)
    return made


def test_what_is_learned_is_a_policy_that_allows_all_of_it(world: World) -> None:
    world.table = table(learned(world.tree))
    sight = world.look()
    assert sight.refused == ()
    assert {v.decision for v in sight.verdicts} == {"allow"}
    assert len(world.table.devices) == len(PLUGGED) + 1
    assert len(world.table.ports) == 4
    assert set(world.tree.authorized().values()) == {"1"}
    world.close()


def test_whatever_else_is_plugged_in_is_refused(world: World) -> None:
    world.table = table(learned(world.tree))
    world.look()
    for name, port, changes in (
        ("badusb", "1-1.2", {}),
        ("ftdi", "1-1.2", {"strings": ["FTDI", "FT232R USB UART", "A100Y923"]}),
        ("ftdi", "1-1.3", {}),
        ("ch340", "1-1.1", {"device": [0x0110, 0xFF, 0, 0, 8, 0x0263]}),
    ):
        world.tree.unplug(port)
        world.tree.plug(name, port, **changes)
        assert said(world.look(), port)[0][0] == "deny", (name, changes)
        assert world.tree.authorized()[port] == "0"
    world.close()


def test_people_are_warned_of_what_can_do_harm(world: World) -> None:
    world.tree.routes("eth1")
    text = learned(world.tree)
    blocks = {b.partition('name = "')[2].partition('"')[0]: b for b in text.split("\n\n")}
    assert "# Input device: keep" in blocks["dell-usb-keyboard-1-1.4"]
    assert "# Mass storage: keep" in blocks["usb-to-ata-atapi-bridge-2-1"]
    assert "# Carries the system (uplink)" in blocks["usb-10-100-1000-lan-2-2"]
    assert "#" not in blocks["ft232r-usb-uart-1-1.2"]
    world.close()


def test_odd_strings_make_a_policy_all_the_same(tmp_path: Path) -> None:
    tree = UsbTree(tmp_path)
    names = ["", 'a "quoted"\\ name', "\x1b[31m", "Ünï – 🛠", "x" * 120]
    for number, name in enumerate(names, 1):
        strings = ["", name, name[:60]]
        tree.plug("cp210x", f"2-{number}", strings=strings)
    policy = load_policy(SourceFile("learned", learned(tree)))
    assert len(policy.device) == 1 + len(names)


def test_what_cannot_be_read_is_a_remark(tmp_path: Path) -> None:
    tree = UsbTree(tmp_path, bare=True)
    assert learned(tree) == NO_DEVICES
    tree.plug("ftdi", "1-1", blob=b"short")
    assert learned(tree).startswith("# 0403:6001 at 1-1 cannot be relied on")
    assert load_policy(SourceFile("p", learned(tree))).device == ()
    assert "ftdi" in records()


def test_what_a_policy_would_refuse_here_is_named(world: World) -> None:
    world.tree.mounts(USB_MOUNTS)
    with view(world.tree) as made:
        found = refused_here(table().devices, made)
    world.close()
    assert {line.partition(" ")[0] for line in found} == {"1-1.1", "1-1.4", "2-2", "2-3"}
    assert "1-1.4 (Dell USB Keyboard): no rule speaks of it" in found
