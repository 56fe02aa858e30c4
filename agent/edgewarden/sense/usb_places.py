"""Where things are: serial ports by their place, and the USB devices nobody may take away.

What this decides: a serial port's place is named as udev names it below /dev/serial/by-path; and
which USB devices carry the system (``find_pins``):

- boot_disk: what is mounted or swapped on, except below the places for removable disks; through
  partitions, RAID, LVM and dm-crypt, and every disk of a btrfs. Where the root filesystem has no
  block device (an overlay), everything mounted counts. Devices that the caller names count as well.
- uplink: network interfaces with a default route or one through a gateway; through bridges, bonds
  and VLANs.
- console: what /sys/class/tty/console/active names.

What may carry the system and cannot be traced to a device is named in ``unknown``, and whoever
would deny a device must take it into account: a root filesystem on the network or on nothing that
can be seen; a PPP interface, which has no device in sysfs; and, where no route leads over hardware
(no cable, no lease, a tunnel alone), every USB network adapter.

What it leaves to others: that pinned devices are not touched (judge/peripherals.py).

    find_pins(tree).ports == {"2-1": "boot_disk"}
"""

from __future__ import annotations

import os

from edgewarden.wire.peripherals import PortFacts, is_port_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgewarden.sense.usb import SysTree

MAX_TABLE_BYTES = 1 << 20
"""Of mountinfo and of a routing table; beyond it the answer is "unknown", not a guess."""
MAX_STEPS = 64
"""Devices followed for one name; RAID on LVM on four disks needs a dozen."""
MAX_TTYS = 1024
REMOVABLE_PLACES = ("/media/", "/mnt/", "/run/media/")
NETWORK_FILESYSTEMS = frozenset(("nfs", "nfs4", "cifs", "9p", "virtiofs", "ceph"))
VIRTUAL = "/virtual/"
"""Below it sysfs keeps devices without hardware."""
# <linux/route.h>, <linux/ipv6_route.h>; <linux/if_arp.h>
RTF_GATEWAY = 0x2
ARPHRD_PPP = "512"


class Pins:
    """What carries the system.

    Attributes:
        ports: USB port -> boot_disk, uplink or console.
        unknown: names of which it could not be found out.
    """

    __slots__ = ("ports", "unknown")

    def __init__(self) -> None:
        self.ports: dict[str, str] = {}
        self.unknown: list[str] = []

    def add(self, port: str, why: str) -> None:
        if port:
            self.ports.setdefault(port, why)


def usb_port_of(path: str) -> str:
    """The USB device that a path of sysfs leads through, the last one; "" without one."""
    return next((part for part in reversed(path.split("/")) if is_port_path(part)), "")


def find_pins(tree: SysTree, disks: Sequence[str] = ()) -> Pins:
    """The USB devices that carry the system now.

    Args:
        disks: major:minor of what else must stay.
    """
    pins = Pins()
    _add_disks(tree, pins)
    for number in disks:
        _add_block(tree, f"dev/block/{number}", pins)
    _add_uplinks(tree, pins)
    for name in tree.text(tree.sys_fd, "class/tty/console/active").split():
        pins.add(usb_port_of(tree.link(f"class/tty/{name}")), "console")
    return pins


def _add_disks(tree: SysTree, pins: Pins) -> None:
    mounts = []
    root_kind = ""
    on_hardware = False
    table = tree.text(tree.proc_fd, "self/mountinfo", MAX_TABLE_BYTES)
    for line in table.splitlines():
        before, _, after = line.partition(" - ")  # proc(5): optional fields end with a hyphen
        fields, behind = before.split(), after.split()
        if len(fields) >= 5 and len(behind) >= 2:
            mounts.append((fields[4], fields[2], behind[1]))
            if fields[4] == "/":
                root_kind = behind[0]
    if not mounts:
        pins.unknown.append("mounts")
    bare_root = not any(where == "/" and not dev.startswith("0:") for where, dev, _ in mounts)
    for where, device, source in mounts:
        if where.startswith(REMOVABLE_PLACES) and not bare_root:
            continue
        start = f"dev/block/{device}"
        if device.startswith("0:"):  # btrfs, overlay: an anonymous number; the source may be a disk
            start = f"class/block/{source.removeprefix('/dev/')}" if "/dev/" in source else ""
        found = _add_block(tree, start, pins)
        on_hardware |= found and (bare_root or where == "/")
    if mounts and (not on_hardware or root_kind in NETWORK_FILESYSTEMS):
        pins.unknown.append("/")
    for filesystem in tree.names("fs/btrfs"):  # mountinfo names one device of each
        for name in tree.names(f"fs/btrfs/{filesystem}/devices"):
            _add_block(tree, f"class/block/{name}", pins)
    for line in tree.text(tree.proc_fd, "swaps", MAX_TABLE_BYTES).splitlines()[1:]:
        name = line.split(maxsplit=1)[0] if line.split() else ""
        if name.startswith("/dev/"):
            _add_block(tree, f"class/block/{name.removeprefix('/dev/')}", pins)


def _add_block(tree: SysTree, start: str, pins: Pins) -> bool:
    """Pin what a block device lies on; whether that is hardware."""
    waiting = [start] if start and ".." not in start else []
    on_hardware = False
    for _ in range(MAX_STEPS):
        if not waiting:
            break
        path = tree.link(waiting.pop())
        if path:
            on_hardware |= VIRTUAL not in path
            pins.add(usb_port_of(path), "boot_disk")
            waiting += [f"class/block/{name}" for name in tree.names(f"{path}/slaves")]
    return on_hardware


def _add_uplinks(tree: SysTree, pins: Pins) -> None:
    on_hardware = False
    for start in sorted(_routed(tree)):
        waiting, seen = [start], {start}
        for _ in range(MAX_STEPS):
            if not waiting:
                break
            name = waiting.pop()
            path = tree.link(f"class/net/{name}")
            on_hardware |= bool(path) and VIRTUAL not in path
            pins.add(usb_port_of(path), "uplink")
            if tree.text(tree.sys_fd, f"class/net/{name}/type") == ARPHRD_PPP:
                pins.unknown.append(name)
                on_hardware = True  # its modem, wherever that is
            for entry in tree.names(path) if path else []:
                lower = entry.removeprefix("lower_")
                if lower != entry and lower not in seen:
                    seen.add(lower)
                    waiting.append(lower)
    if not on_hardware:
        adapters = (n for n in tree.names("class/net") if usb_port_of(tree.link(f"class/net/{n}")))
        pins.unknown += adapters


def _routed(tree: SysTree) -> set[str]:
    """Interfaces through which more than their own network is reached."""
    found = set()
    for line in tree.text(tree.proc_fd, "net/route", MAX_TABLE_BYTES).splitlines()[1:]:
        fields = line.split()  # Iface Destination Gateway Flags RefCnt Use Metric Mask ...
        if len(fields) >= 8 and (
            _has(fields[3], RTF_GATEWAY) or (fields[1], fields[7]) == ("0" * 8, "0" * 8)
        ):
            found.add(fields[0])
    for line in tree.text(tree.proc_fd, "net/ipv6_route", MAX_TABLE_BYTES).splitlines():
        fields = line.split()  # destination, its length, source, length, gateway, ..., flags, name
        if len(fields) == 10 and (
            _has(fields[8], RTF_GATEWAY) or (fields[0], fields[1]) == ("0" * 32, "00")
        ):
            found.add(fields[9])
    return {name for name in found if name != "lo" and "/" not in name and ".." not in name}


def _has(text: str, flag: int) -> bool:
    try:
        return bool(int(text, 16) & flag)
    except ValueError:
        return False


def serial_ports(tree: SysTree) -> list[PortFacts]:
    """Every serial node that has hardware behind it, at most MAX_TTYS."""
    found = []
    for node in tree.names("class/tty")[:MAX_TTYS]:
        path = tree.link(f"class/tty/{node}")
        if not path or VIRTUAL in path:
            continue
        if node.startswith("ttyS") and tree.text(tree.sys_fd, f"{path}/type") == "0":
            continue  # PORT_UNKNOWN, <linux/serial_core.h>: a number without a UART
        driver = _driver_above(tree, path)
        parts = path.split("/")
        interface = next((p for p in reversed(parts) if is_port_path(p.partition(":")[0])), "")
        found.append(
            PortFacts(
                node,
                by_path(tree, path),
                driver,
                usb_port_of(path),
                interface if ":" in interface else "",
            )
        )
    return found


def _driver_above(tree: SysTree, path: str) -> str:
    """The driver of the nearest device above that has one.

    The ports that serial_base makes of every UART since Linux 6.5 have drivers of their own.
    """
    node = os.path.dirname(path)
    while node.startswith("devices/"):
        if _subsystem(tree, node) == "serial-base":
            node = os.path.dirname(node)
            continue
        driver = os.path.basename(tree.link(f"{node}/driver"))
        if driver:
            return driver
        node = os.path.dirname(node)
    return ""


def by_path(tree: SysTree, path: str) -> str:
    """The name udev gives a serial device below by-path (systemd's path_id and 60-serial.rules).

    Args:
        path: of sysfs, below its root: ``devices/platform/...``.
    """
    parts: list[str] = []
    number = ""
    node = path
    while node.startswith("devices/"):
        subsystem = _subsystem(tree, node)
        name = os.path.basename(node)
        if subsystem == "usb-serial" and not number:
            number = tree.text(tree.sys_fd, f"{node}/port_number")
        if subsystem == "usb" and "-" in name:
            parts.insert(0, f"usb-0:{name.partition('-')[2]}")
        elif subsystem in ("pci", "platform"):
            parts.insert(0, f"{subsystem}-{name}")
        if subsystem in ("usb", "pci", "platform"):  # only the lowest of each kind is named
            while _subsystem(tree, os.path.dirname(node)) == subsystem:
                node = os.path.dirname(node)
        node = os.path.dirname(node)
    return "-".join([*parts, f"port{number}"] if number else parts)


def _subsystem(tree: SysTree, path: str) -> str:
    return os.path.basename(tree.link(f"{path}/subsystem"))


def usbguard_pid(tree: SysTree) -> int:
    """The process of usbguard's daemon, 0 without one.

    Anybody may call a process so; only root's is taken for it.
    """
    try:
        names = os.listdir(tree.proc_fd)
    except OSError:
        return 0
    for name in names:
        if not name.isdigit() or tree.text(tree.proc_fd, f"{name}/comm") != "usbguard-daemon":
            continue
        try:
            if os.stat(name, dir_fd=tree.proc_fd).st_uid == 0:
                return int(name)
        except OSError:
            continue
    return 0
