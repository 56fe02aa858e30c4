"""Which adapter an open port leads to: by what is open, never by its name."""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.sense.adapter import adapter_of
from hw.rigs.usbtree import UsbTree
from tests.sense.usbtrees import plugged, view

PI = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0"


def asked(tree: UsbTree, node: str) -> str:
    """The tree's port under the number of /dev/null, which is open in its place."""
    number = os.stat("/dev/null").st_rdev
    link = tree.sys / "dev/char" / f"{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    if node:
        link.symlink_to(os.path.relpath((tree.sys / "class/tty" / node).resolve(), link.parent))
    with view(tree) as made, open("/dev/null", "rb") as file:
        return adapter_of(file.fileno(), made)


def test_an_adapter_is_named_with_its_place(tmp_path: Path) -> None:
    tree = plugged(tmp_path, ("ftdi", "1-1.2"), ("ublox", "1-1.3"), ("ch340", "1-1.1"))
    assert asked(tree, "ttyUSB0") == f"0403:6001 serial A100Y922 at {PI}:1.2:1.0-port0"
    assert asked(tree, "ttyACM0") == f"1546:01a7 serial none at {PI}:1.3:1.0"
    assert asked(tree, "ttyUSB1") == f"1a86:7523 serial none at {PI}:1.1:1.0-port0"


def test_a_port_of_the_board_is_its_place(tmp_path: Path) -> None:
    assert asked(plugged(tmp_path), "ttyAMA0") == "platform-fe201000.serial"


def test_what_sysfs_does_not_know_is_nothing(tmp_path: Path) -> None:
    tree = plugged(tmp_path)
    assert asked(tree, "") == ""
    assert asked(tree, "tty1") == ""
    ours, its = os.openpty()
    assert adapter_of(its) == ""
    os.close(ours)
    os.close(its)
    with open(__file__, "rb") as file:
        assert adapter_of(file.fileno()) == ""
