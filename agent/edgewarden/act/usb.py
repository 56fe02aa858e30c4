"""Letting USB devices and interfaces in and out, and putting everything back.

What this decides: how a change is written, proved and undone. What it leaves to others: which
device (judge/peripherals.py), reading them (sense/usb.py), keeping the bytes of ``Before``.

Rules in order:

1. Nothing is changed before what it was is remembered, and the memory is kept (``Before``): a gate
   that dies leaves enough for the next one, or for an uninstall, to put it back.
2. A change is read back. What the kernel does not show is not done.
3. ``authorized_default`` of each root hub becomes 2, only ports that the firmware calls internal,
   and where a kernel before 5.2 takes 2 for "everything", 0.
4. Putting back: the defaults first, then each device and interface that was refused, as long as it
   is still the same plugging-in (devnum), to what it was.

Writing waits for the device's lock and for the drivers it starts: seconds. Drivers may ask for
firmware or modules, which starts programs: never from the loop that answers execs.

    close_defaults(tree, before); authorize(tree, fd, True); restore(tree, before)
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.wire.lean import seal, unseal
from edgewarden.wire.peripherals import is_port_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Tree(Protocol):
        """sysfs, as sense/usb.py gives it."""

        sys_fd: int

        def open(self, directory: int, name: str, flags: int) -> int:
            """A descriptor; raises OSError."""

        def directory(self, name: str) -> int:
            """A descriptor of a directory; raises OSError."""

        def text(self, directory: int, name: str) -> str:
            """What a file says, "" when it cannot be read."""


DEVICES = "bus/usb/devices"
INTERNAL_ONLY, NOTHING = "2", "0"
"""USB_DEVICE_AUTHORIZE_INTERNAL, _NONE; <linux/usb/hcd.h>."""
MAGIC = b"EWUSBST1"
MAX_BYTES = 1 << 16
MAX_ENTRIES = 1024


class Before:
    """What there was before the first change of this boot.

    Attributes:
        defaults: root hub -> its authorized_default.
        devices: (port, devnum) -> its ``authorized``.
        interfaces: interfaces that were refused (``1-1.2:1.0``).
    """

    __slots__ = ("boot_id", "defaults", "devices", "interfaces")

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self.defaults: dict[str, str] = {}
        self.devices: dict[tuple[str, int], str] = {}
        self.interfaces: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to put back."""
        return not (self.defaults or self.devices or self.interfaces)

    def clear(self) -> None:
        """Everything is back."""
        self.defaults.clear()
        self.devices.clear()
        self.interfaces.clear()

    def dump(self) -> bytes:
        """The bytes to keep."""
        lines = [f"boot {self.boot_id}"]
        lines += [f"default {hub} {value}" for hub, value in self.defaults.items()]
        lines += [f"device {port} {n} {value}" for (port, n), value in self.devices.items()]
        lines += [f"interface {name}" for name in sorted(self.interfaces)]
        return seal(MAGIC, "".join(f"{line}\n" for line in lines).encode("ascii"))

    @staticmethod
    def load(data: bytes, boot_id: str) -> Before:
        """Read what ``dump`` wrote; of another boot it is empty: the kernel forgot everything, too.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        body = unseal(MAGIC, data, most=MAX_BYTES)
        try:
            lines = [line.split(" ") for line in body.decode("ascii").splitlines()]
        except UnicodeDecodeError:
            raise WireRefusal("bad_value", "not ASCII") from None
        if not lines or lines[0][0] != "boot" or len(lines) > MAX_ENTRIES:
            raise WireRefusal("bad_value", "no boot, or too many lines")
        found = Before(boot_id)
        if lines[0][1:] != [boot_id]:
            return found
        for line in lines[1:]:
            match line:
                case ["default", hub, ("0" | "1" | "2") as value] if hub[:3] == "usb":
                    found.defaults[hub] = value
                case ["device", port, number, ("0" | "1") as value] if (
                    is_port_path(port) and number.isdigit()
                ):
                    found.devices[port, int(number)] = value
                case ["interface", name] if is_port_path(name.partition(":")[0]):
                    found.interfaces.add(name)
                case _:
                    raise WireRefusal("bad_value", " ".join(line)[:80])
        return found


def write(tree: Tree, directory: int, name: str, value: str) -> bool:
    """Write one attribute; False when the device is gone.

    Raises:
        HardwareFault: the kernel refuses.
    """
    try:
        fd = tree.open(directory, name, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return False
    except OSError as fault:
        if fault.errno in GONE:
            return False
        raise HardwareFault(
            f"{name} = {value}: {os.strerror(fault.errno or 0)}",
            code="EW-USB-002",
            next_step="run gate as root with /sys/devices writable, as the shipped unit has it",
            errno=fault.errno,
        ) from fault
    return True


GONE = (6, 19, 108)
"""ENXIO, ENODEV, ESHUTDOWN: the device was taken away meanwhile."""


def authorize(tree: Tree, fd: int, allow: bool) -> bool:
    """Let a device's or interface's drivers bind, or take them away; whether it is so now.

    Args:
        fd: its directory: where another device took its place, nothing is written.

    Raises:
        HardwareFault: the kernel refuses.
    """
    wanted = "1" if allow else "0"
    return write(tree, fd, "authorized", wanted) and tree.text(fd, "authorized") == wanted


def close_defaults(tree: Tree, hubs: list[str], before: Before, save: Callable[[], None]) -> int:
    """Have new devices wait for a verdict; returns how many root hubs do so now.

    Args:
        hubs: names of the root hubs.
        save: keeps ``before``; raises what must stop the change.

    Raises:
        HardwareFault: the kernel refuses.
    """
    found = {}
    for hub in hubs:
        value = _default(tree, hub)
        if value:
            found[hub] = value
    fresh = {hub: value for hub, value in found.items() if hub not in before.defaults}
    if fresh:
        before.defaults.update(fresh)
        try:
            save()
        except HardwareFault:
            for hub in fresh:
                del before.defaults[hub]
            raise
    closed = 0
    for hub, value in found.items():
        closed += value in (INTERNAL_ONLY, NOTHING) or any(
            _set_default(tree, hub, wanted) and _default(tree, hub) == wanted
            for wanted in (INTERNAL_ONLY, NOTHING)
        )
    return closed


def restore(tree: Tree, before: Before) -> list[str]:
    """Put everything back; returns what could not be, in words. Raises nothing."""
    failed = []
    for hub, value in list(before.defaults.items()):
        try:
            if not _set_default(tree, hub, value) or _default(tree, hub) == value:
                del before.defaults[hub]  # a hub that is gone has nothing to put back
                continue
        except HardwareFault as fault:
            failed.append(f"{hub}: {fault.text}")
    for (port, devnum), value in list(before.devices.items()):
        try:
            _restore_device(tree, port, devnum, value)
            del before.devices[port, devnum]
        except HardwareFault as fault:
            failed.append(f"{port}: {fault.text}")
    for name in sorted(before.interfaces):
        try:
            _restore_interface(tree, name)
            before.interfaces.discard(name)
        except HardwareFault as fault:
            failed.append(f"{name}: {fault.text}")
    return failed


def _default(tree: Tree, hub: str) -> str:
    """A root hub's default; what no kernel says counts as not there."""
    try:
        fd = tree.directory(f"{DEVICES}/{hub}")
    except OSError:
        return ""
    try:
        value = tree.text(fd, "authorized_default").strip()
    finally:
        os.close(fd)
    return value if value in ("0", "1", "2") else ""


def _set_default(tree: Tree, hub: str, value: str) -> bool:
    try:
        fd = tree.directory(f"{DEVICES}/{hub}")
    except OSError:
        return False
    try:
        return write(tree, fd, "authorized_default", value)
    finally:
        os.close(fd)


def _restore_device(tree: Tree, port: str, devnum: int, value: str) -> None:
    try:
        fd = tree.directory(f"{DEVICES}/{port}")
    except OSError:
        return
    try:
        same = tree.text(fd, "devnum") == str(devnum)
        if same and tree.text(fd, "authorized") != value:
            write(tree, fd, "authorized", value)
    finally:
        os.close(fd)


def _restore_interface(tree: Tree, name: str) -> None:
    """An interface that is let in again must be offered to the drivers by hand
    (Documentation/ABI/testing/sysfs-bus-usb)."""
    try:
        fd = tree.directory(f"{DEVICES}/{name}")
    except OSError:
        return
    try:
        if tree.text(fd, "authorized") == "0" and authorize(tree, fd, True):
            write(tree, tree.sys_fd, "bus/usb/drivers_probe", name)
    finally:
        os.close(fd)
