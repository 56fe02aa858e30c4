"""What is plugged in now, as rules a person can read, loosen and put into the policy.

What this decides: the strictest rules that allow exactly this: maker, product, serial number, all
interfaces, the port, the descriptors; and for each serial port of USB its place, driver and device.
Devices that can type, carry a network or hold files are written with a word of warning above them.
What it leaves to others: whether they belong here, which only a person knows.

    print(this_machine())
"""

from __future__ import annotations

import json
import os

from edgewarden.judge.peripherals import judge_device, kind_of, offered, pinned_ports
from edgewarden.sense.usb import DEVICES, device_names, is_root_hub, open_tree, read_device
from edgewarden.sense.usb_places import find_pins, serial_ports
from edgewarden.wire.peripherals import id_text, interface_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgewarden.sense.usb import SysTree
    from edgewarden.wire.peripherals import DeviceFacts, DeviceRule

NAME_CHARS = 64
"""As settings/policy_programs.py, RULE_NAME."""
NO_DEVICES = "# Nothing is plugged in but root hubs, which need no rule.\n"


def this_machine() -> str:
    """``rules_text`` of the running machine."""
    tree = open_tree()
    try:
        return rules_text(tree)
    finally:
        os.close(tree.sys_fd)
        os.close(tree.proc_fd)


def rules_text(tree: SysTree) -> str:
    """TOML of ``[[device]]`` and ``[[port]]`` for everything that is plugged in now."""
    pins = find_pins(tree).ports
    devices = plugged(tree)
    parts = [_device(facts, pins.get(port, "")) for port, facts in devices.items()]
    for found in serial_ports(tree):
        facts = devices.get(found.device)
        if facts is None or facts.refusal or not found.path:
            continue
        _, dash, number = found.path.rpartition("-port")  # adapters with several ports
        lines = [
            "[[port]]",
            f"name = {_quoted(f'port-{found.interface}' + (dash and f'-{number}'))}",
            f"path = {_quoted(found.path)}",
            f"driver = {_quoted(found.driver)}",
            f"device = {_quoted(_name(facts.product, facts.port))}",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts) or NO_DEVICES


def plugged(tree: SysTree) -> dict[str, DeviceFacts]:
    """Every device but root hubs, by its port."""
    found: dict[str, DeviceFacts] = {}
    for port in device_names(tree):
        if is_root_hub(port):
            continue
        try:
            fd = tree.directory(f"{DEVICES}/{port}")
        except OSError:
            continue
        try:
            facts = read_device(tree, fd, port)
        finally:
            os.close(fd)
        if facts is not None:
            found[port] = facts
    return found


def refused_here(devices: Sequence[DeviceRule], tree: SysTree | None = None) -> list[str]:
    """What of this machine's devices these rules would refuse, in words, one line each."""
    mine = tree or open_tree()
    try:
        pinned = pinned_ports(find_pins(mine).ports)
        judged = [(f, judge_device(devices, f, pinned)) for f in plugged(mine).values()]
    finally:
        if tree is None:
            os.close(mine.sys_fd)
            os.close(mine.proc_fd)
    return [
        f"{f.port} ({f.product or id_text(f.vid, f.pid)}): "
        + (f"{v.text} (rule {v.rule})" if v.rule else v.text)
        for f, v in judged
        if v.decision == "deny"
    ]


def _device(facts: DeviceFacts, pin: str) -> str:
    lines = []
    if facts.refusal:
        what = f"{id_text(facts.vid, facts.pid)} at {facts.port}"
        return f"# {what} cannot be relied on ({facts.refusal}): no rule can allow it.\n"
    if pin:
        lines.append(f"# Carries the system ({pin.replace('_', ' ')}): never touched, rule or not.")
    shown = offered(facts)
    kinds = sorted({kind for triple in shown if (kind := kind_of(triple))} - {"hub"})
    if kinds:
        lines.append(f"# {' and '.join(kinds).capitalize()}: keep this only if it belongs here.")
    lines += ["[[device]]", f"name = {_quoted(_name(facts.product, facts.port))}"]
    lines.append(f"id = {_quoted(id_text(facts.vid, facts.pid))}")
    if facts.serial:
        lines.append(f"serial = {_quoted(facts.serial)}")
    interfaces = ", ".join(_quoted(interface_text(triple)) for triple in shown)
    if interfaces:
        lines.append(f"interfaces = [{interfaces}]")
    lines.append(f"port = {_quoted(facts.port)}")
    lines.append(f"descriptors = {_quoted(facts.descriptors.hex())}")
    return "\n".join(lines) + "\n"


def _name(product: str, place: str) -> str:
    """``ft232r-usb-uart-1-1.2``: a name of its own, since nothing else is at this place."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in product.lower()).split()
    room = NAME_CHARS - len(place) - 1
    return f"{'-'.join(words)[: max(0, room)].strip('-') or 'usb'}-{place}"[:NAME_CHARS]


def _quoted(text: str) -> str:
    """A basic string of TOML; what is given is printable (sense/usb.py)."""
    return json.dumps(text, ensure_ascii=False)
