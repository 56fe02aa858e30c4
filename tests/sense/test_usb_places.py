"""Serial ports by their place, and what of USB carries the system (U3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.sense.usb_places import find_pins, serial_ports, usbguard_pid
from hw.rigs.usbtree import SD_MOUNTS, USB_MOUNTS, UsbTree
from tests.sense.usbtrees import plugged, view

PI = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0"


def pins(tree: UsbTree) -> dict[str, str]:
    with view(tree) as made:
        return find_pins(made).ports


@pytest.fixture
def full(tmp_path: Path) -> UsbTree:
    return plugged(tmp_path, ("ftdi", "1-1.2"), ("ublox", "1-1.3"), ("disk", "2-1"), ("nic", "2-2"))


def test_ports_are_named_as_udev_names_them(full: UsbTree) -> None:
    with view(full) as made:
        found = {p.node: p for p in serial_ports(made)}
    assert set(found) == {"ttyAMA0", "ttyUSB0", "ttyACM0"}
    usb, acm, board = found["ttyUSB0"], found["ttyACM0"], found["ttyAMA0"]
    assert (usb.path, usb.driver) == (f"{PI}:1.2:1.0-port0", "ftdi_sio")
    assert (usb.device, usb.interface) == ("1-1.2", "1-1.2:1.0")
    assert (acm.path, acm.driver, acm.device) == (f"{PI}:1.3:1.0", "cdc_acm", "1-1.3")
    assert (board.path, board.driver, board.device) == (
        "platform-fe201000.serial",
        "uart-pl011",
        "",
    )


def test_the_place_stays_when_the_number_changes(full: UsbTree) -> None:
    full.unplug("1-1.2")
    full.plug("cp210x", "1-1.4")
    full.plug("ftdi", "1-1.2")
    with view(full) as made:
        found = {p.path: p.node for p in serial_ports(made)}
    assert found[f"{PI}:1.2:1.0-port0"] == "ttyUSB2"


def test_u3_nothing_of_usb_is_pinned_where_nothing_hangs_on_it(full: UsbTree) -> None:
    assert pins(full) == {}


def test_u3_the_boot_disk_is_found(full: UsbTree) -> None:
    full.mounts(USB_MOUNTS)
    assert pins(full) == {"2-1": "boot_disk"}


def test_u3_through_encryption_and_volumes(full: UsbTree) -> None:
    for name, number, below in (("dm-0", "253:0", "sda2"), ("dm-1", "253:1", "dm-0")):
        place = f"devices/virtual/block/{name}"
        (full.sys / place / "slaves" / below).mkdir(parents=True)
        for link in (f"dev/block/{number}", f"class/block/{name}"):
            (full.sys / link).symlink_to(f"../../{place}")
    full.mounts(SD_MOUNTS.replace("179:2", "253:1"))
    assert pins(full) == {"2-1": "boot_disk"}


def test_u3_a_circle_of_devices_ends(full: UsbTree) -> None:
    place = "devices/virtual/block/dm-0"
    (full.sys / place / "slaves" / "dm-0").mkdir(parents=True)
    for link in ("dev/block/253:0", "class/block/dm-0"):
        (full.sys / link).symlink_to(f"../../{place}")
    full.mounts(SD_MOUNTS.replace("179:2", "253:0"))
    assert pins(full) == {}


def test_u3_btrfs_is_found_by_its_source_and_swap_by_its_name(full: UsbTree) -> None:
    line = "22 1 0:33 /@ / rw - btrfs /dev/sda2 rw\n"
    full.mounts(line)
    assert pins(full) == {"2-1": "boot_disk"}
    full.mounts(SD_MOUNTS)
    (full.proc / "swaps").write_text("Filename\tType\tSize\n/dev/sda1\tpartition\t1\n")
    assert pins(full) == {"2-1": "boot_disk"}


def test_u3_a_removable_disk_is_not_pinned_unless_the_root_has_no_disk(full: UsbTree) -> None:
    stick = "40 22 8:1 / /media/stick rw - vfat /dev/sda1 rw\n"
    full.mounts(SD_MOUNTS + stick)
    assert pins(full) == {}
    disk, none = "179:2 / / rw,noatime - ext4 /dev/root", "0:50 / / rw - overlay overlay"
    overlay = SD_MOUNTS.replace(disk, none)
    full.mounts(overlay + stick)
    assert pins(full) == {"2-1": "boot_disk"}


def test_u3_the_uplink_is_found_in_both_families(full: UsbTree) -> None:
    full.routes("eth1")
    assert pins(full) == {"2-2": "uplink"}
    full.routes()
    zero = "0" * 32
    line = f"{zero} 00 {zero} 00 fe80{'0' * 28} 00000400 00000001 00000000 00000003     eth1\n"
    (full.proc / "net" / "ipv6_route").write_text(line)
    assert pins(full) == {"2-2": "uplink"}


def test_u3_a_route_through_a_gateway_is_an_uplink_below_a_tunnel(full: UsbTree) -> None:
    full.network("wg0", kind=65534)
    full.routes("wg0")
    route = full.proc / "net" / "route"
    gateway = "eth1\t0A00000A\t0101A8C0\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    route.write_text(route.read_text() + gateway)
    assert pins(full) == {"2-2": "uplink"}


def test_u3_through_a_bridge_and_a_vlan(full: UsbTree) -> None:
    full.network("vlan7", lower=("eth1",))
    full.network("br0", lower=("vlan7", "eth0"))
    full.routes("br0")
    assert pins(full) == {"2-2": "uplink"}


def test_u3_a_ppp_uplink_is_said_to_be_unknown(full: UsbTree) -> None:
    full.network("ppp0", kind=512)
    full.routes("ppp0")
    with view(full) as made:
        found = find_pins(made)
    assert (found.ports, found.unknown) == ({}, ["ppp0"])


def test_u3_the_console_is_found(full: UsbTree) -> None:
    full.console("tty1", "ttyUSB0")
    assert pins(full) == {"1-1.2": "console"}


@pytest.mark.parametrize(
    "text", ["", "garbage\n", "1 2 3\n", "Iface\n\n\t\n", "a b c d e f g h i\n"]
)
def test_u3_odd_tables_pin_nothing_and_raise_nothing(full: UsbTree, text: str) -> None:
    full.mounts(text)
    for name in ("net/route", "net/ipv6_route", "swaps"):
        (full.proc / name).write_text(text)
    with view(full) as made:
        assert find_pins(made).ports == {}
        assert find_pins(made).unknown == ["mounts", "eth1"]


@pytest.mark.parametrize("routed", [(), ("wg0",)])
def test_u3_without_a_route_a_usb_network_adapter_may_be_the_uplink(
    full: UsbTree, routed: tuple[str, ...]
) -> None:
    """No cable, no lease yet, or a tunnel's route alone: nobody can tell."""
    full.network("wg0", kind=65534)
    full.routes(*routed)
    with view(full) as made:
        found = find_pins(made)
    assert (found.ports, found.unknown) == ({}, ["eth1"])


@pytest.mark.parametrize(
    "root",
    ["0:50 / / rw - overlay overlay", "0:31 / / rw - zfs tank/root", "7:0 / / rw - ext4 /dev/loop0",
     "0:33 / / rw - bcachefs /dev/sda1:/dev/sdb1"],
)  # fmt: skip
def test_u3_a_root_that_lies_on_nothing_visible_is_said_to_be_unknown(
    full: UsbTree, root: str
) -> None:
    full.disk("loop0", "7:0", "devices/virtual", {})
    full.mounts(f"22 1 {root} rw\n23 22 0:21 / /sys rw - sysfs sysfs rw\n")
    with view(full) as made:
        assert find_pins(made).unknown == ["/"]


def test_u3_a_root_on_the_network_is_said_to_be_unknown(full: UsbTree) -> None:
    boot = "24 22 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw\n"
    full.mounts(f"22 1 0:20 / / rw - nfs4 10.0.0.1:/srv/pi rw\n{boot}")
    with view(full) as made:
        assert find_pins(made).unknown == ["/"]


def test_u3_every_disk_of_a_btrfs_of_several_is_found(full: UsbTree) -> None:
    """mountinfo names one of them."""
    full.mounts("22 1 0:30 / / rw - btrfs /dev/mmcblk0p2 rw\n")
    devices = full.sys / "fs/btrfs/0b1c/devices"
    devices.mkdir(parents=True)
    for name in ("mmcblk0p2", "sda2"):
        (devices / name).symlink_to(f"../../../../class/block/{name}")
    assert pins(full) == {"2-1": "boot_disk"}


def test_u3_the_disk_of_our_own_state_is_found_wherever_it_is_mounted(full: UsbTree) -> None:
    full.mounts(SD_MOUNTS + "30 22 8:1 / /mnt/ssd rw - ext4 /dev/sda1 rw\n")
    assert pins(full) == {}
    with view(full) as made:
        assert find_pins(made, ("8:1",)).ports == {"2-1": "boot_disk"}


@pytest.mark.needs("root")
def test_only_roots_usbguard_is_believed(full: UsbTree) -> None:
    full.process(77, "usbguard-daemon")
    full.process(78, "usbguard")
    os.chown(full.proc / "77", 1000, 1000)
    with view(full) as made:
        assert usbguard_pid(made) == 0
        os.chown(full.proc / "77", 0, 0)
        assert usbguard_pid(made) == 77
