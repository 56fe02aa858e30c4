"""USB devices, serial ports, the rules about them and gate's word on them, as values: what sense,
judge, settings and link share.

What this decides: which facts a verdict may rest on, and how an interface is written. What it
leaves to others: where facts come from (sense/usb.py), what they mean (judge/peripherals.py), how a
person writes a rule (settings/policy_devices.py).

    interface_text((0x03, 0x01, 0x01)) == "03/01/01"        # class/subclass/protocol, hexadecimal
    interface_text((0x03, ANY, ANY)) == "03/*/*"
"""

from __future__ import annotations

from edgewarden.wire.lean import Frozen

Triple = tuple[int, int, int]
"""Class, subclass, protocol; in a rule each may be ANY."""

ANY = -1
"""Wildcard of an interface pattern, and of a rule's product id."""

ACTIONS = ("allow", "deny")
MAX_SERIAL_CHARS = 126
"""USB 2.0 §9.6.7: a string descriptor has 255 bytes, 2 of them its head, 2 for each character."""
MAX_INTERFACES = 64
"""Distinct class triples of one device; 32 interfaces are what USB_MAXINTERFACES (<linux/usb.h>)
lets Linux use."""

UNREADABLE = (
    "unreadable", "descriptors_too_long", "descriptors_too_short", "descriptors_torn",
    "descriptors_differ", "too_many_interfaces", "bad_number", "bad_serial",
)  # fmt: skip
"""Why the facts of a device are not whole. Such a device is never allowed by a rule."""


PIN_REASONS = ("root_hub", "boot_disk", "uplink", "console", "on_the_way")
MISSES = (
    "unlisted", "other_serial", "other_port", "other_interfaces", "unnamed_class",
    "other_descriptors",
)  # fmt: skip
"""What a rule missed, the nearest miss last."""
REASONS = ("rule", "deny_rule", "unreadable", *PIN_REASONS, *MISSES, "other_driver", "other_device")
"""Why a device or port is allowed, denied or pinned. Order is the wire value; a new word goes to
the end."""


class DeviceFacts(Frozen):
    """One USB device as it is plugged in now.

    Attributes:
        port: the kernel's name, its path of ports: ``1-1.2``; ``usb1`` is a root hub.
        devnum: rises with each enumeration on a bus: another number is another plugging-in.
        vid, pid: idVendor and idProduct.
        device_class: bDeviceClass/SubClass/Protocol.
        interfaces: what any configuration or alternate setting offers, sorted, none twice.
        serial: iSerialNumber as text, "" when there is none.
        product: iProduct as text, for people only: never part of a verdict.
        descriptors: SHA-256 of the descriptor blob, b"" when it was not read whole.
        refusal: of UNREADABLE, or "" when all of this can be relied on.
        authorized: whether drivers may bind now.
    """

    __slots__ = (
        "authorized", "descriptors", "device_class", "devnum", "interfaces", "pid", "port",
        "product", "refusal", "serial", "vid",
    )  # fmt: skip
    port: str
    devnum: int
    vid: int
    pid: int
    device_class: Triple
    interfaces: tuple[Triple, ...]
    serial: str
    product: str
    descriptors: bytes
    refusal: str
    authorized: bool

    def identity(self) -> tuple[int, int, str, bytes]:
        """What makes it the same device when it is plugged in again."""
        return self.vid, self.pid, self.serial, self.descriptors


class PortFacts(Frozen):
    """One serial node.

    Attributes:
        node: ``ttyUSB0``; the number changes with the order of plugging in.
        path: by-path identity, as udev's /dev/serial/by-path names it: where it is plugged in.
        driver: ``ftdi_sio``, ``cdc_acm``, ``uart-pl011``.
        device: the USB device it belongs to (``1-1.2``), "" for a port of the board.
        interface: the USB interface (``1-1.2:1.0``), "" for a port of the board.
    """

    __slots__ = ("device", "driver", "interface", "node", "path")
    node: str
    path: str
    driver: str
    device: str
    interface: str


class DeviceRule(Frozen):
    """One ``[[device]]``; what is not given does not matter.

    Attributes:
        name: of the rule, in every record.
        action: of ACTIONS.
        vid: or ANY when no id is given.
        pid: or ANY.
        serial: "" when not given.
        interfaces: patterns; () when not given.
        port: "" when not given.
        descriptors: SHA-256, b"" when not given.
    """

    __slots__ = ("action", "descriptors", "interfaces", "name", "pid", "port", "serial", "vid")
    name: str
    action: str
    vid: int
    pid: int
    serial: str
    interfaces: tuple[Triple, ...]
    port: str
    descriptors: bytes


class PortRule(Frozen):
    """One ``[[port]]``: what is expected of a serial node.

    Attributes:
        name: of the rule.
        action: of ACTIONS.
        path: by-path identity.
        driver: "" when not given.
        device: name of the ``[[device]]`` that allows the adapter, "" when not given.
    """

    __slots__ = ("action", "device", "driver", "name", "path")
    name: str
    action: str
    path: str
    driver: str
    device: str


KINDS = ("device", "port")
OUTCOMES = ("allow", "deny", "would_deny", "learned", "gone")
"""As for programs (local_messages.DECISIONS); "gone": it was taken away. Order is the wire
value."""


class PeripheralVerdict(Frozen):
    """One device or port and what was decided.

    Attributes:
        kind: of KINDS.
        decision: of OUTCOMES.
        reason: of wire.peripherals.REASONS.
        mode: of local_messages.MODES, at the moment of the decision.
        effective: the kernel shows what was decided. False in enforce: it refused the change.
        vid, pid, devnum, interfaces, descriptors, serial, product: as in DeviceFacts; of a port,
            its adapter's.
        place: a device's port (``1-1.2``), a port's by-path identity.
        rule: that decided, or came nearest.
        text: the reason in words.
        driver: of a port, and its node: ``ftdi_sio ttyUSB0``.
        boot_ns: CLOCK_BOOTTIME.
    """

    __slots__ = (
        "boot_ns", "decision", "descriptors", "devnum", "driver", "effective", "interfaces", "kind",
        "mode", "pid", "place", "product", "reason", "rule", "serial", "text", "vid",
    )  # fmt: skip
    kind: str
    decision: str
    reason: str
    mode: str
    effective: bool
    vid: int
    pid: int
    devnum: int
    boot_ns: int
    descriptors: bytes
    interfaces: tuple[Triple, ...]
    place: str
    rule: str
    text: str
    serial: str
    product: str
    driver: str


def interface_text(triple: Triple) -> str:
    """``class/subclass/protocol`` in hexadecimal, ``*`` for ANY."""
    return "/".join("*" if part == ANY else f"{part:02x}" for part in triple)


def parse_interface(text: str) -> Triple | None:
    """The reverse of ``interface_text``; None for anything else."""
    parts = text.split("/")
    if len(parts) != 3:
        return None
    found = [ANY if part == "*" else _hex(part, 2) for part in parts]
    if None in found:
        return None
    return found[0], found[1], found[2]  # type: ignore[return-value]  # no None among them


def id_text(vid: int, pid: int) -> str:
    """``0403:6001``, ``0403:*``, or "" where there is no id."""
    return "" if vid == ANY else f"{vid:04x}:" + ("*" if pid == ANY else f"{pid:04x}")


def parse_id(text: str) -> tuple[int, int] | None:
    """The reverse of ``id_text``; None for anything else."""
    left, colon, right = text.partition(":")
    vid, pid = _hex(left, 4), ANY if right == "*" else _hex(right, 4)
    return None if not colon or vid is None or pid is None else (vid, pid)


def is_port_path(text: str) -> bool:
    """``BUS-PORT[.PORT]...``: decimal numbers without leading zeros, at most 7 ports deep (USB 2.0
    §4.1.1)."""
    bus, dash, rest = text.partition("-")
    ports = rest.split(".")
    return bool(dash) and len(ports) <= 7 and all(_is_number(part) for part in (bus, *ports))


def parent_of(port: str) -> str:
    """The device it is plugged into: ``1-1.2`` → ``1-1`` → ``usb1`` → ""."""
    if "." in port:
        return port.rpartition(".")[0]
    bus, dash, _ = port.partition("-")
    return f"usb{bus}" if dash else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= 3


def _hex(text: str, digits: int) -> int | None:
    """Exactly so many lower-case hexadecimal digits."""
    if len(text) != digits or any(char not in "0123456789abcdef" for char in text):
        return None
    return int(text, 16)
