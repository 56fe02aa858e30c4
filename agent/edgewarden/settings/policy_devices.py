"""``[[device]]`` and ``[[port]]``: which USB devices and serial ports may be used.

    [[device]]
    name = "gps"
    id = "1546:01a7"
    interfaces = ["02/02/01", "0a/00/ff"]
    port = "1-1.3"

    [[port]]
    name = "gps-port"
    path = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0"
    driver = "cdc_acm"
    device = "gps"

Rules in order, beyond each key's form:

1. A device rule says something: id, interfaces, port or descriptors. A serial number is only a
   maker's word about its own products, and needs an id.
2. A port rule's path is its own; its ``device`` is the name of a device rule of this file that
   allows.

What it leaves to others: what a rule means, which is judge/peripherals.py's. There ``interfaces``
is everything an allowed device may offer, and what can type, carry a network, hold files or hide
more devices must be named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgewarden.plain import dataclass
from edgewarden.settings.check import nearest, show
from edgewarden.settings.faults import CONTRADICTION, DUPLICATE, MISSING
from edgewarden.settings.fields import choice, text, texts
from edgewarden.settings.policy_programs import RULE_NAME, RULE_NAME_RULE
from edgewarden.settings.tree import Broken
from edgewarden.wire.peripherals import (
    ANY,
    MAX_INTERFACES,
    MAX_SERIAL_CHARS,
    DeviceRule,
    PortRule,
    parse_id,
    parse_interface,
)

MAX_DEVICE_RULES = 1024
"""127 devices fit on a bus (USB 2.0 §4.1); eight buses full are a thousand."""

_ID = re.compile(r"[0-9a-f]{4}:(?:[0-9a-f]{4}|\*)")
_ID_RULE = "vid:pid, four lower-case hexadecimal digits each (lsusb); the pid may be *"
_SERIAL = re.compile(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{MAX_SERIAL_CHARS}}}")
_SERIAL_RULE = f"1 to {MAX_SERIAL_CHARS} printable characters"
_INTERFACE = re.compile(r"(?:[0-9a-f]{2}|\*)/(?:[0-9a-f]{2}|\*)/(?:[0-9a-f]{2}|\*)")
_INTERFACE_RULE = "class/subclass/protocol, each two lower-case hexadecimal digits or *"
_PORT = re.compile(r"[1-9][0-9]{0,2}-[1-9][0-9]{0,2}(?:\.[1-9][0-9]{0,2}){0,6}")
_PORT_RULE = "bus-port.port..., a name below /sys/bus/usb/devices (1-1.2)"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256_RULE = "64 lower-case hexadecimal digits (sha256sum /sys/bus/usb/devices/PORT/descriptors)"
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._+-]{0,198}")
"""NAME_MAX is 255; the names that udev makes stay below 100."""
_PATH_RULE = "a name below /dev/serial/by-path, without the folder"
_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DRIVER_RULE = "a driver's name (ftdi_sio, cp210x, cdc_acm)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One rule about USB devices."""

    name: str = text(
        form=RULE_NAME,
        rule=RULE_NAME_RULE,
        help="The rule's name; every verdict names the rule that decided.",
        example='"gps"',
    )
    action: str = choice("allow", of=("allow", "deny"), help="What follows when the rule holds.")
    id: str | None = text(
        form=_ID, rule=_ID_RULE, absent="any", help="Maker and product.", example='"1546:01a7"'
    )
    serial: str | None = text(
        form=_SERIAL, rule=_SERIAL_RULE, absent="any", help="Its serial number; needs `id`."
    )
    interfaces: tuple[str, ...] = texts(
        most=MAX_INTERFACES,
        form=_INTERFACE,
        rule=_INTERFACE_RULE,
        help="Allowing: all that it may offer, and each must be there; input devices, networks, "
        "disks, hubs and wireless only if named by class. Denying: one of them is enough.",
        example='["02/02/01", "0a/00/ff"]',
    )
    port: str | None = text(
        form=_PORT, rule=_PORT_RULE, absent="any", help="Where it is plugged in."
    )
    descriptors: str | None = text(
        form=_SHA256, rule=_SHA256_RULE, absent="any", help="SHA-256 of its descriptors."
    )

    def compiled(self) -> DeviceRule:
        """The rule as gate's table holds it."""
        vid, pid = parse_id(self.id or "") or (ANY, ANY)
        patterns = [parse_interface(item) for item in self.interfaces]
        return DeviceRule(
            self.name,
            self.action,
            vid,
            pid,
            self.serial or "",
            tuple(found for found in patterns if found is not None),
            self.port or "",
            bytes.fromhex(self.descriptors or ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One rule about a serial port."""

    name: str = text(
        form=RULE_NAME,
        rule=RULE_NAME_RULE,
        help="The rule's name; every verdict names the rule that decided.",
        example='"gps-port"',
    )
    action: str = choice("allow", of=("allow", "deny"), help="What follows when the rule holds.")
    path: str = text(
        form=_PATH,
        rule=_PATH_RULE,
        help="Where the port is plugged in, as udev names it.",
        example='"platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0"',
    )
    driver: str | None = text(
        form=_DRIVER, rule=_DRIVER_RULE, absent="any", help="The driver it must have."
    )
    device: str | None = text(
        form=RULE_NAME,
        rule=RULE_NAME_RULE,
        absent="any",
        help="Name of the `[[device]]` that must be the one that allows its adapter.",
    )

    def compiled(self) -> PortRule:
        """The rule as gate's table holds it."""
        return PortRule(self.name, self.action, self.path, self.driver or "", self.device or "")


def device_rules(rule: Device) -> Iterator[Broken]:
    """What one device rule must keep between its keys."""
    if not (rule.id or rule.interfaces or rule.port or rule.descriptors):
        yield (), "no condition; name what is plugged in (id = ...) or where (port = ...)", MISSING
    if rule.serial and not rule.id:
        yield ("serial",), "a serial number says nothing without its maker: add id", CONTRADICTION


def port_faults(
    devices: Sequence[Device], ports: Sequence[Port]
) -> Iterator[tuple[int, str, str, str, str]]:
    """What port rules must keep among each other and with the devices: (index of the port, key,
    text, code, suggestion)."""
    allowing = [rule.name for rule in devices if rule.action == "allow"]
    first: dict[str, str] = {}
    for index, rule in enumerate(ports):
        earlier = first.setdefault(rule.path, rule.name)
        if earlier != rule.name:
            yield index, "path", f"{earlier} already speaks of this path", DUPLICATE, ""
        if rule.device is not None and rule.device not in allowing:
            said = f"no [[device]] that allows is named {show(rule.device)}"
            yield index, "device", said, CONTRADICTION, nearest(rule.device, allowing)
