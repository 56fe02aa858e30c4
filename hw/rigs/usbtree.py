"""A recorded sysfs: a Raspberry Pi 4 with USB devices, in a folder of the caller's own.

    tree = UsbTree(folder)
    tree.plug("ftdi", "1-1.2")
    tree.sys, tree.proc             # what the agent takes for /sys and /proc

The folder holds what the kernel would show: root hubs with ``authorized_default``, devices with
ids, strings and raw descriptors, interface folders while a device is authorised, serial nodes,
block devices, network interfaces, and the links between them. Devices come from
hw/usb/devices.toml, each with its source; the paths are those of a Raspberry Pi 4 as
github.com/systemd/systemd/issues/29201 and github.com/openmediavault/openmediavault/pull/746 show
them.

What a folder cannot do, ``settle()`` does after the agent wrote: a device that became authorised
gets its interfaces and nodes, one that lost it loses them. Every change is also said as the kernel
says it, to each ``listen()``: an ``InjectedUevents`` that the agent's own reader (kernel/uevent.py)
takes for its socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import tomllib
from collections import deque
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parents[1] / "usb" / "devices.toml"
PCI = "devices/platform/scb/fd500000.pcie/pci0000:00/0000:00:00.0/0000:01:00.0"
UART = "devices/platform/soc/fe201000.serial"
SD_CARD = "devices/platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa"
ONBOARD_NIC = "devices/platform/scb/fd580000.ethernet"
_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_USB_SERIAL = ("ftdi_sio", "cp210x", "ch341")

SD_MOUNTS = """\
22 1 179:2 / / rw,noatime - ext4 /dev/root rw
23 22 0:21 / /sys rw - sysfs sysfs rw
24 22 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw
25 22 0:23 / /run rw - tmpfs tmpfs rw
"""
USB_MOUNTS = SD_MOUNTS.replace("179:2", "8:2").replace("179:1 ", "8:1 ").replace("mmcblk0p", "sda")
ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT_ROUTE = "{}\t00000000\t0101A8C0\t0003\t0\t0\t202\t00000000\t0\t0\t0\n"


def records() -> dict[str, dict[str, Any]]:
    """The devices by name."""
    return tomllib.loads(RECORDS.read_text())


def blob_of(record: dict[str, Any]) -> bytes:
    """The ``descriptors`` file of a record."""
    usb, cls, sub, proto, size, release = record["device"]
    vid, pid = record["ids"]
    strings = [i + 1 if text else 0 for i, text in enumerate(record["strings"])]
    configs = record["config"]
    out = _DEVICE.pack(
        18, 1, usb, cls, sub, proto, size, vid, pid, release, *strings, len(configs)
    )  # fmt: skip
    for number, config in enumerate(configs, 1):
        body = b""
        for which, alternate, a, b, c, endpoints in config["interfaces"]:
            body += bytes([9, 4, which, alternate, len(endpoints), a, b, c, 0])
            if a == 0x03:  # HID 1.11 §6.2.1: its own descriptor, 63 bytes of report descriptor
                body += bytes([9, 0x21, 0x10, 0x01, 0, 1, 0x22, 63, 0])
            for address, attributes, packet, interval in endpoints:
                body += struct.pack("<BBBBHB", 7, 5, address, attributes, packet, interval)
        count = len({item[0] for item in config["interfaces"]})
        out += struct.pack(
            "<BBHBBBBB", 9, 2, 9 + len(body), count, number, 0, config["attributes"],
            config["power"],
        ) + body  # fmt: skip
    return out


class InjectedUevents:
    """Stands where the netlink socket stands: messages come out as recvmsg gives the kernel's.

    ``inject`` takes bytes as from any sender, ``drop`` makes the next reading say ENOBUFS.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._waiting: deque[tuple[bytes, tuple[int, int], int] | None] = deque()

    def inject(self, data: bytes, sender: tuple[int, int] = (0, 1), uid: int = 0) -> None:
        self._waiting.append((data, sender, uid))
        self._ring()

    def drop(self) -> None:
        self._waiting.append(None)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is readable already
            self._theirs.send(b"!")

    def fileno(self) -> int:
        return self._ours.fileno()

    def recvmsg(
        self, size: int, _room: int, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        while not self._waiting:
            self._ours.recv(1)  # raises BlockingIOError when it is empty, too
        taken = self._waiting.popleft()
        if taken is None:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        data, sender, uid = taken
        credentials = struct.pack("=III", sender[0], uid, uid)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
        flags = socket.MSG_TRUNC if len(data) > size else 0
        return data[:size], ancillary, flags, sender

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def uevent(action: str, path: str, subsystem: str, **more: str) -> bytes:
    """A message as lib/kobject_uevent.c makes it."""
    pairs = {"ACTION": action, "DEVPATH": f"/{path}", "SUBSYSTEM": subsystem, **more}
    lines = [f"{action}@/{path}", *(f"{k}={v}" for k, v in pairs.items()), "SEQNUM=1"]
    return b"".join(line.encode() + b"\0" for line in lines)


class UsbTree:
    """See the module.

    Args:
        folder: exists, empty.
        bare: without the hub that a Raspberry Pi 4 has at 1-1.
    """

    def __init__(self, folder: Path, *, bare: bool = False) -> None:
        self.sys, self.proc = folder / "sys", folder / "proc"
        self._records = records()
        self._listeners: list[InjectedUevents] = []
        self._places: dict[str, str] = {}
        self._plugged: dict[str, dict[str, Any]] = {}
        self._bound: set[str] = set()
        self._devnum = {"1": 0, "2": 0}
        self._ttys = {"ttyUSB": 0, "ttyACM": 0}
        for name in ("bus/usb/devices", "class/tty", "class/net", "class/block", "dev/block"):
            (self.sys / name).mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "net").mkdir()
        self.mounts(SD_MOUNTS)
        self.routes("eth0")
        self._write(f"{self.proc}/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
        self._board()
        self.plug("root-hub-2", "usb1")
        self.plug("root-hub-3", "usb2")
        if not bare:
            self.plug("via-hub", "1-1")

    # --- what happens -------------------------------------------------------------------------

    def plug(self, name: str, port: str, **changes: Any) -> None:
        """Plug a device in; the kernel authorises it or not by its root hub's default.

        Args:
            changes: fields of the record to change (``strings``, ``ids``, ``config``), or
                ``blob`` for raw descriptors.
        """
        record = {**self._records[name], **changes}
        bus = port.removeprefix("usb").partition("-")[0]
        parent = port.rpartition(".")[0] if "." in port else f"usb{bus}"
        base = PCI if port.startswith("usb") else self._places[parent]
        path = f"{base}/{port}"
        self._places[port], self._plugged[port] = path, record
        self._devnum[bus] += 1
        root = port.startswith("usb")
        allowed = True if root else self.read(f"usb{bus}", "authorized_default") == "1"
        usb, cls, sub, proto, *_ = record["device"]
        vid, pid = record["ids"]
        files = {
            "idVendor": f"{vid:04x}", "idProduct": f"{pid:04x}", "bDeviceClass": f"{cls:02x}",
            "bDeviceSubClass": f"{sub:02x}", "bDeviceProtocol": f"{proto:02x}",
            "devnum": str(self._devnum[bus]), "busnum": bus, "authorized": str(int(allowed)),
            "bcdDevice": f"{record['device'][5]:04x}", "version": f" {usb >> 8:x}.{usb & 255:02x}",
            "removable": "unknown",
        }  # fmt: skip
        for key, value in zip(
            ("manufacturer", "product", "serial"), record["strings"], strict=True
        ):
            if value:
                files[key] = value
        if root:
            files |= {"authorized_default": "1", "interface_authorized_default": "1"}
        for key, value in files.items():
            self._write(f"{self.sys}/{path}/{key}", value + "\n")
        (self.sys / path / "descriptors").write_bytes(record.get("blob") or blob_of(record))
        self._subsystem(path, "bus/usb")
        self._link(f"bus/usb/devices/{port}", path)
        self.say("add", path, "usb", DEVTYPE="usb_device")
        self.settle()

    def unplug(self, port: str) -> None:
        """Pull it out, and what is plugged in behind it."""
        behind = (f"{port}.", f"{port.removeprefix('usb')}-")
        for other in sorted(self._places, key=lambda name: len(self._places[name]), reverse=True):
            if other == port or other.startswith(behind):
                self._unbind(other)
                path = self._places.pop(other)
                self._plugged.pop(other)
                (self.sys / "bus/usb/devices" / other).unlink()
                shutil.rmtree(self.sys / path)
                self.say("remove", path, "usb", DEVTYPE="usb_device")

    def settle(self) -> None:
        """Do what the kernel does after ``authorized`` was written."""
        for port in list(self._places):
            allowed = self.read(port, "authorized") == "1"
            if allowed and port not in self._bound:
                self._bind(port)
            elif not allowed and port in self._bound:
                self._unbind(port)

    def read(self, port: str, name: str) -> str:
        """An attribute of a device."""
        return (self.sys / self._places[port] / name).read_text().strip()

    def authorized(self) -> dict[str, str]:
        """port -> its ``authorized``, root hubs left out."""
        return {p: self.read(p, "authorized") for p in self._places if not p.startswith("usb")}

    def defaults(self) -> dict[str, str]:
        """root hub -> its ``authorized_default``."""
        return {p: self.read(p, "authorized_default") for p in self._places if p.startswith("usb")}

    def listen(self) -> InjectedUevents:
        """Another listener to the kernel's messages."""
        made = InjectedUevents()
        self._listeners.append(made)
        return made

    def say(self, action: str, path: str, subsystem: str, **more: str) -> None:
        """A message to every listener."""
        for listener in self._listeners:
            listener.inject(uevent(action, path, subsystem, **more))

    def mounts(self, text: str) -> None:
        """What is mounted: lines of mountinfo."""
        self._write(f"{self.proc}/self/mountinfo", text)

    def routes(self, *names: str) -> None:
        """Network interfaces with a default route."""
        lines = "".join(DEFAULT_ROUTE.format(name) for name in names)
        self._write(f"{self.proc}/net/route", ROUTE_HEAD + lines)
        self._write(f"{self.proc}/net/ipv6_route", "")

    def console(self, *names: str) -> None:
        """The active consoles, least important first (Documentation/ABI/testing/sysfs-tty)."""
        self._write(f"{self.sys}/class/tty/console/active", " ".join(names) + "\n")

    def process(self, pid: int, comm: str) -> None:
        """A process of /proc."""
        self._write(f"{self.proc}/{pid}/comm", comm + "\n")

    def network(
        self, name: str, path: str = "", kind: int = 1, lower: tuple[str, ...] = ()
    ) -> None:
        """A network interface, at a device or virtual."""
        place = f"{path or 'devices/virtual'}/net/{name}"
        self._write(f"{self.sys}/{place}/type", f"{kind}\n")
        for other in lower:
            target = os.readlink(self.sys / "class/net" / other).removeprefix("../../")
            self._link(f"{place}/lower_{other}", target)
        self._link(f"class/net/{name}", place)

    def disk(self, name: str, number: str, path: str, parts: dict[str, str]) -> None:
        """A block device with partitions: name -> major:minor."""
        base = f"{path}/block/{name}"
        for entry, place in ((number, base), *((n, f"{base}/{p}") for p, n in parts.items())):
            (self.sys / place).mkdir(parents=True, exist_ok=True)
            self._link(f"dev/block/{entry}", place)
            self._link(f"class/block/{os.path.basename(place)}", place)

    # --- how it is made -----------------------------------------------------------------------

    def _board(self) -> None:
        for path, bus in (
            (PCI, "bus/pci"), (os.path.dirname(PCI), "bus/pci"),
            ("devices/platform/scb/fd500000.pcie", "bus/platform"),
            ("devices/platform/scb", "bus/platform"), (UART, "bus/platform"),
            ("devices/platform/soc", "bus/platform"), (ONBOARD_NIC, "bus/platform"),
        ):  # fmt: skip
            (self.sys / path).mkdir(parents=True, exist_ok=True)
            self._subsystem(path, bus)
        self._tty("ttyAMA0", UART, "bus/amba/drivers/uart-pl011")
        self._write(f"{self.sys}/devices/virtual/tty/console/active", "tty0\n")
        self._link("class/tty/console", "devices/virtual/tty/console")
        for name in ("tty0", "tty1"):
            (self.sys / "devices/virtual/tty" / name).mkdir(parents=True)
            self._link(f"class/tty/{name}", f"devices/virtual/tty/{name}")
        self.console("ttyAMA0", "tty1")
        self.disk("mmcblk0", "179:0", SD_CARD, {"mmcblk0p1": "179:1", "mmcblk0p2": "179:2"})
        self.network("eth0", ONBOARD_NIC)

    def _bind(self, port: str) -> None:
        self._bound.add(port)
        record, path = self._plugged[port], self._places[port]
        number = port if "-" in port else f"{port.removeprefix('usb')}-0"
        for which, alternate, a, b, c, _ in record["config"][0]["interfaces"]:
            if alternate:
                continue
            place = f"{path}/{number}:1.{which}"
            files = {"bInterfaceClass": a, "bInterfaceSubClass": b, "bInterfaceProtocol": c}
            for key, value in files.items():
                self._write(f"{self.sys}/{place}/{key}", f"{value:02x}\n")
            self._write(f"{self.sys}/{place}/authorized", "1\n")
            self._subsystem(place, "bus/usb")
            self._link(f"bus/usb/devices/{os.path.basename(place)}", place)
            self.say("add", place, "usb", DEVTYPE="usb_interface")
            driver = record["driver"].get(str(which), "")
            if driver:
                self._link(f"{place}/driver", f"bus/usb/drivers/{driver}", make=True)
                self._node(driver, which, place)
                self.say("bind", place, "usb", DEVTYPE="usb_interface")
        self.say("bind", path, "usb", DEVTYPE="usb_device")

    def _node(self, driver: str, which: int, place: str) -> None:
        """What a driver makes of an interface."""
        if driver in _USB_SERIAL:
            name = f"ttyUSB{self._ttys['ttyUSB']}"
            self._ttys["ttyUSB"] += 1
            self._write(f"{self.sys}/{place}/{name}/port_number", "0\n")
            self._subsystem(f"{place}/{name}", "bus/usb-serial")
            self._tty(name, f"{place}/{name}", f"bus/usb-serial/drivers/{driver}")
        elif driver == "cdc_acm" and which == 0:
            name = f"ttyACM{self._ttys['ttyACM']}"
            self._ttys["ttyACM"] += 1
            self._tty(name, place, "")
        elif driver == "uas":
            host = f"{place}/host0/target0:0:0/0:0:0:0"
            self.disk("sda", "8:0", host, {"sda1": "8:1", "sda2": "8:2"})
        elif driver == "r8152":
            self.network("eth1", place)

    def _tty(self, name: str, path: str, driver: str) -> None:
        (self.sys / path / "tty" / name).mkdir(parents=True)
        self._link(f"{path}/tty/{name}/device", path)
        self._subsystem(f"{path}/tty/{name}", "class/tty")
        if driver:
            self._link(f"{path}/driver", driver, make=True)
        self._link(f"class/tty/{name}", f"{path}/tty/{name}")
        self.say("add", f"{path}/tty/{name}", "tty", DEVNAME=name)

    def _unbind(self, port: str) -> None:
        """Take away what _bind made: interface folders and the links that lead into them."""
        if port not in self._bound:
            return
        self._bound.discard(port)
        path = self._places[port]
        for place in sorted((self.sys / path).glob("*:1.*")):
            inside = str(place.relative_to(self.sys)) + "/"
            for kind in ("class/tty", "class/net", "class/block", "dev/block", "bus/usb/devices"):
                for link in (self.sys / kind).iterdir():
                    if f"{os.readlink(link)}/".removeprefix("../").find(inside) >= 0:
                        if kind == "class/tty":
                            self.say("remove", inside + f"tty/{link.name}", "tty")
                        link.unlink()
            shutil.rmtree(place)
            self.say("unbind", inside[:-1], "usb", DEVTYPE="usb_interface")
            self.say("remove", inside[:-1], "usb", DEVTYPE="usb_interface")

    def _write(self, path: str, text: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    def _subsystem(self, path: str, bus: str) -> None:
        self._link(f"{path}/subsystem", bus, make=True)

    def _link(self, name: str, target: str, *, make: bool = False) -> None:
        """A link of sysfs: relative, like the kernel's."""
        if make:
            (self.sys / target).mkdir(parents=True, exist_ok=True)
        link = self.sys / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(self.sys / target, link.parent))
