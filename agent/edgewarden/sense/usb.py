"""USB devices as sysfs shows them, read within bounds: directory in, ``DeviceFacts`` out.

What this decides: which bytes a fact is made of, and the named refusal where they cannot be relied
on. What it leaves to others: which device may be used (judge/peripherals.py), where disks, networks
and ports are (usb_places.py), when to look.

Rules in order:

1. Interfaces are read from the raw descriptors, all configurations and alternate settings of them:
   a device that is not authorised has no interface directories, and one that is could choose
   another configuration later.
2. The descriptor blob is a device descriptor and exactly as many whole configurations as it says;
   ids and class must be those sysfs shows. Anything else is a refusal, never a guess.
3. Everything is read through one descriptor of the device's directory. Where another device takes
   the same place meanwhile, that directory is dead: facts of two devices are never mixed, and a
   verdict written through it cannot reach the wrong one.
4. The serial number is the device's own word: kept printable, cut nowhere; longer than USB allows
   is a refusal.

Reading strings and writing ``authorized`` wait for the device's lock, which a driver may hold for
seconds: never from a loop that must answer.

    fd = tree.directory("bus/usb/devices/1-1.2")
    facts = read_device(tree, fd, "1-1.2")        # None when it is gone
"""

from __future__ import annotations

import os
import struct

from edgewarden.wire.lean import digest_of
from edgewarden.wire.peripherals import MAX_INTERFACES, MAX_SERIAL_CHARS, DeviceFacts, is_port_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.wire.peripherals import Triple

DEVICES = "bus/usb/devices"
MAX_DEVICES = 512
"""On all buses; 127 fit on one (USB 2.0 §4.1)."""
MAX_NAMES = 4096
"""Entries of one directory: 512 devices with eight interfaces each."""
MAX_ENTRIES = 65536
"""Of the directory of all devices and interfaces: 16 buses with 127 devices of 32 interfaces."""
MAX_ATTRIBUTE_BYTES = 4096
"""A sysfs attribute is at most a page."""
MAX_DESCRIPTOR_BYTES = 18 + 65535
"""What Linux shows at the most (drivers/usb/core/sysfs.c); a camera has 3 KiB, a sound interface
10. A device with more is shown cut, and so torn."""
MAX_CONFIGURATIONS = 8
"""USB_MAXCONFIG, drivers/usb/core/config.c."""

# USB 2.0 §9.6: device and configuration descriptor; bLength, bDescriptorType first in all.
DT_DEVICE, DT_CONFIG, DT_INTERFACE = 1, 2, 4
DEVICE_BYTES, CONFIG_BYTES, INTERFACE_BYTES = 18, 9, 9
_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_CONFIG_LENGTH = struct.Struct("<xxH")


class Refusal(Exception):
    """Bytes that cannot be relied on; the text is of wire.peripherals.UNREADABLE."""


class SysTree:
    """sysfs and /proc, each through one descriptor; every name is relative to it.

    Args:
        sys_fd, proc_fd: directories.
        opener: (directory, name, flags) -> descriptor; in gate its doors.
    """

    def __init__(
        self, sys_fd: int, proc_fd: int, opener: Callable[[int, str, int], int] | None = None
    ) -> None:
        self.sys_fd = sys_fd
        self.proc_fd = proc_fd
        self._opener = opener or _open_below

    def open(self, directory: int, name: str, flags: int) -> int:
        """Raises OSError."""
        return self._opener(directory, name, flags | os.O_CLOEXEC)

    def directory(self, name: str) -> int:
        """A descriptor of a directory of sysfs; the caller closes it. Raises OSError."""
        return self.open(self.sys_fd, name, os.O_RDONLY | os.O_DIRECTORY)

    def read(self, directory: int, name: str, most: int = MAX_ATTRIBUTE_BYTES) -> bytes:
        """A whole file, one byte more than ``most`` at the most. Raises OSError."""
        fd = self.open(directory, name, os.O_RDONLY)
        try:
            parts = []
            left = most + 1
            while left > 0 and (part := os.read(fd, min(left, 65536))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def text(self, directory: int, name: str, most: int = MAX_ATTRIBUTE_BYTES) -> str:
        """As ``read``, decoded; "" when it cannot be read or is longer than ``most``."""
        try:
            data = self.read(directory, name, most)
        except OSError:
            return ""
        return "" if len(data) > most else data.decode("utf-8", "backslashreplace").strip("\n")

    def link(self, name: str) -> str:
        """Where a link of sysfs leads, from sysfs's root, without following further; "" when it is
        none."""
        try:
            target = os.readlink(name, dir_fd=self.sys_fd)
        except OSError:
            return ""
        parts = name.split("/")[:-1]
        for part in target.split("/"):
            if part == "..":
                if not parts:
                    return ""
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "" if target.startswith("/") else "/".join(parts)

    def names(self, name: str, most: int = MAX_NAMES) -> list[str]:
        """The entries of a directory of sysfs, sorted; [] when it is not there. At most so many."""
        try:
            fd = self.directory(name)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))[:most]
        except OSError:
            return []
        finally:
            os.close(fd)


def _open_below(directory: int, name: str, flags: int) -> int:
    return os.open(name, flags, dir_fd=directory)


def open_tree(sys_path: str = "/sys", proc_path: str = "/proc") -> SysTree:
    """The tree below these paths, for programs that are not gate. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return SysTree(os.open(sys_path, flags), os.open(proc_path, flags))


def device_names(tree: SysTree) -> list[str]:
    """The kernel's names of all devices, root hubs first on each bus: every root hub, and at most
    MAX_DEVICES others. Nothing that is plugged in may push a hub out: it would let in everything.
    """
    names = tree.names(DEVICES, MAX_ENTRIES)
    devices = sorted((name for name in names if is_port_path(name)), key=_place)[:MAX_DEVICES]
    return sorted((*filter(is_root_hub, names), *devices), key=_place)


def is_root_hub(name: str) -> bool:
    """``usb`` and the number of its bus."""
    number = name.removeprefix("usb")
    return name.startswith("usb") and number.isascii() and number.isdigit() and len(number) <= 3


def _place(name: str) -> tuple[int, ...]:
    """Order: bus, then the path of ports; what is plugged in behind a hub comes after it."""
    bus, _, ports = name.removeprefix("usb").partition("-")
    return (int(bus), *(int(p) for p in ports.split(".") if p))


def read_device(tree: SysTree, fd: int, port: str) -> DeviceFacts | None:
    """What one device says of itself; None when it is gone.

    Args:
        fd: its directory.
        port: the directory's name.
    """
    refusal = ""
    try:
        devnum = _number(tree, fd, "devnum", 10)
        vid, pid = _number(tree, fd, "idVendor", 16), _number(tree, fd, "idProduct", 16)
        own = (
            _number(tree, fd, "bDeviceClass", 16),
            _number(tree, fd, "bDeviceSubClass", 16),
            _number(tree, fd, "bDeviceProtocol", 16),
        )
    except OSError:
        return None
    except Refusal as fault:
        return _unreadable(tree, fd, port, str(fault))
    serial = digest = None
    interfaces: tuple[Triple, ...] = ()
    try:
        serial = _serial(tree, fd)
        blob = tree.read(fd, "descriptors", MAX_DESCRIPTOR_BYTES)
        said, interfaces = parse_descriptors(blob)
        if said != (vid, pid, own):
            raise Refusal("descriptors_differ")
        digest = digest_of(blob)
    except OSError:
        refusal = "unreadable"
    except Refusal as fault:
        refusal = str(fault)
    product = tree.text(fd, "product")
    authorized = tree.text(fd, "authorized") == "1"
    return DeviceFacts(
        port, devnum, vid, pid, own, interfaces, serial or "", printable(product)[:80],
        digest or b"", refusal, authorized,
    )  # fmt: skip


def _unreadable(tree: SysTree, fd: int, port: str, refusal: str) -> DeviceFacts:
    authorized = tree.text(fd, "authorized") == "1"
    return DeviceFacts(port, 0, 0, 0, (0, 0, 0), (), "", "", b"", refusal, authorized)


def _number(tree: SysTree, fd: int, name: str, base: int) -> int:
    """A number of at most five digits.

    Raises:
        OSError: not there.
        Refusal: bad_number.
    """
    data = tree.read(fd, name, 16).strip()
    if not 1 <= len(data) <= 5 or data.strip(b"0123456789abcdef"):
        raise Refusal("bad_number")
    try:
        return int(data, base)
    except ValueError:
        raise Refusal("bad_number") from None


def _serial(tree: SysTree, fd: int) -> str:
    """The serial number, printable; "" when the device has none.

    Raises:
        OSError: the device does not answer.
        Refusal: bad_serial.
    """
    try:
        data = tree.read(fd, "serial")
    except FileNotFoundError:
        return ""
    text = data.decode("utf-8", "backslashreplace").removesuffix("\n")
    if len(text) > MAX_SERIAL_CHARS:
        raise Refusal("bad_serial")
    return printable(text)


def printable(text: str) -> str:
    """What a person and a terminal can take: the rest as \\xNN, \\uNNNN."""
    return "".join(
        c if c.isprintable() else c.encode("ascii", "backslashreplace").decode() if ord(c) > 127
        else f"\\x{ord(c):02x}"
        for c in text
    )  # fmt: skip


def parse_descriptors(blob: bytes) -> tuple[tuple[int, int, Triple], tuple[Triple, ...]]:
    """((vid, pid, device class), every distinct interface class, sorted) of a ``descriptors`` file.

    Raises:
        Refusal: descriptors_too_long, _too_short, _torn; too_many_interfaces.
    """
    if len(blob) > MAX_DESCRIPTOR_BYTES:
        raise Refusal("descriptors_too_long")
    if len(blob) < DEVICE_BYTES:
        raise Refusal("descriptors_too_short")
    length, kind, _, a, b, c, _, vid, pid, _, _, _, _, configurations = _DEVICE.unpack_from(blob)
    if length != DEVICE_BYTES or kind != DT_DEVICE or configurations > MAX_CONFIGURATIONS:
        raise Refusal("descriptors_torn")
    found: set[Triple] = set()
    at = DEVICE_BYTES
    for _ in range(configurations):
        at = _configuration(blob, at, found)
    if at != len(blob):
        raise Refusal("descriptors_torn")
    if len(found) > MAX_INTERFACES:
        raise Refusal("too_many_interfaces")
    return (vid, pid, (a, b, c)), tuple(sorted(found))


def _configuration(blob: bytes, at: int, found: set[Triple]) -> int:
    """Collect the interfaces of one configuration; returns where the next one begins."""
    if len(blob) - at < CONFIG_BYTES or blob[at] < CONFIG_BYTES or blob[at + 1] != DT_CONFIG:
        raise Refusal("descriptors_torn")
    end = at + _CONFIG_LENGTH.unpack_from(blob, at)[0]
    at += blob[at]
    if not at <= end <= len(blob):
        raise Refusal("descriptors_torn")
    while at < end:
        length = blob[at]
        if length < 2 or at + length > end:
            raise Refusal("descriptors_torn")
        kind = blob[at + 1]
        if kind in (DT_DEVICE, DT_CONFIG) or (kind == DT_INTERFACE and length < INTERFACE_BYTES):
            raise Refusal("descriptors_torn")
        if kind == DT_INTERFACE:
            found.add((blob[at + 5], blob[at + 6], blob[at + 7]))
        at += length
    return at
