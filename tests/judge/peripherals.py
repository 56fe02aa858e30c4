"""Devices and rules for tests, with only what matters given."""

from __future__ import annotations

import hashlib
from typing import Any

from edgewarden.wire.peripherals import ANY, DeviceFacts, DeviceRule, PortFacts, PortRule, Triple

SERIAL_ADAPTER: Triple = (0xFF, 0xFF, 0xFF)
KEYBOARD: Triple = (0x03, 0x01, 0x01)
ETHERNET: Triple = (0x02, 0x06, 0x00)
MODEM: Triple = (0x02, 0x02, 0x01)
HUB: Triple = (0x09, 0x00, 0x00)


def device(port: str = "1-1.2", *interfaces: Triple, **given: Any) -> DeviceFacts:
    facts: dict[str, Any] = {
        "devnum": 5, "vid": 0x0403, "pid": 0x6001, "device_class": (0, 0, 0), "serial": "A100Y922",
        "product": "FT232R USB UART", "descriptors": hashlib.sha256(b"ftdi").digest(),
        "refusal": "", "authorized": True,
    }  # fmt: skip
    return DeviceFacts(
        port=port, interfaces=tuple(sorted(interfaces or (SERIAL_ADAPTER,))), **{**facts, **given}
    )


def allow(name: str = "adapter", **given: Any) -> DeviceRule:
    rule: dict[str, Any] = {
        "action": "allow", "vid": 0x0403, "pid": 0x6001, "serial": "", "interfaces": (),
        "port": "", "descriptors": b"",
    }  # fmt: skip
    return DeviceRule(name=name, **{**rule, **given})


def deny(name: str = "no", **given: Any) -> DeviceRule:
    return allow(name, **{"action": "deny", "vid": ANY, "pid": ANY, **given})


def serial_port(**given: Any) -> PortFacts:
    facts = {
        "node": "ttyUSB0", "path": "platform-x-usb-0:1.2:1.0-port0", "driver": "ftdi_sio",
        "device": "1-1.2", "interface": "1-1.2:1.0",
    }  # fmt: skip
    return PortFacts(**{**facts, **given})


def port_rule(**given: Any) -> PortRule:
    rule = {
        "name": "meter", "action": "allow", "path": "platform-x-usb-0:1.2:1.0-port0", "driver": "",
        "device": "",
    }  # fmt: skip
    return PortRule(**{**rule, **given})
