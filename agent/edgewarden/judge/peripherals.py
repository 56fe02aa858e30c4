"""May this USB device, and this serial port, be used? Facts in, a verdict with its reason out.

Rules for a device, in order:

1. Pinned devices are never touched, whatever a rule says: root hubs, what carries the system's
   disk, the way to the network, the console, and every hub on the way to one of them.
2. The first rule that matches decides. Each thing a rule gives must hold: vid:pid, serial number,
   port, descriptors.
3. In an allow rule ``interfaces`` is everything the device may offer, over all its configurations
   and alternate settings, and each one named must be there. In a deny rule one of them is enough.
4. What can type, carry a network, hold files, or hide more devices (``kind_of``) is allowed only
   by a rule that names it: ``03/*/*`` does, ``*/*/*`` does not, and a rule without ``interfaces``
   names nothing. So a serial adapter that also shows a keyboard is refused (BadUSB).
5. A device whose facts are not whole is never allowed. What no rule matches is denied, and the
   verdict says which rule came nearest and what it missed.

Rules for a serial port, in order: a ``[[port]]`` of its path decides: deny, or the driver and the
device rule it expects must be those it has. A port that no rule speaks of follows its device.

What it leaves to others: facts and pins (sense/), the bytes of the table (peripherals_table.py),
what a verdict does in which mode (gate/peripherals.py).

    judge_device(rules, facts, pins).decision        # allow, deny or pinned
"""

from __future__ import annotations

from edgewarden.wire.lean import Frozen
from edgewarden.wire.peripherals import (
    ANY,
    MISSES,
    DeviceFacts,
    DeviceRule,
    PortFacts,
    PortRule,
    Triple,
    interface_text,
    parent_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# USB-IF, "Defined Class Codes".
CLASS_COMMUNICATIONS, CLASS_HID, CLASS_STORAGE, CLASS_HUB = 0x02, 0x03, 0x08, 0x09
CLASS_WIRELESS, CLASS_MISC = 0xE0, 0xEF
# USB CDC 1.2, table 4: Ethernet, EEM, NCM; USB MBIM 1.0, table 4-2.
_CDC_NETWORKS = (0x06, 0x0C, 0x0D, 0x0E)
RNDIS: tuple[Triple, ...] = ((0xE0, 0x01, 0x03), (0xEF, 0x04, 0x01), (0x02, 0x02, 0xFF))
"""What Linux's rndis_host binds to by class (drivers/net/usb/rndis_host.c)."""


class Verdict(Frozen):
    """What is to become of a device or port, and why.

    Attributes:
        decision: allow, deny or pinned.
        rule: the rule that decided; for a miss the one that came nearest; "" when none did.
        reason: of wire.peripherals.REASONS.
        text: the same for people, one line.
    """

    __slots__ = ("decision", "reason", "rule", "text")
    decision: str
    rule: str
    reason: str
    text: str


def kind_of(triple: Triple) -> str:
    """What makes an interface one that a rule must name, "" for others."""
    if triple in RNDIS:
        return "network"
    kind = {
        CLASS_HID: "input device",
        CLASS_STORAGE: "mass storage",
        CLASS_HUB: "hub",
        CLASS_WIRELESS: "wireless controller",
    }.get(triple[0], "")
    if triple[0] == CLASS_COMMUNICATIONS and triple[1] in _CDC_NETWORKS:
        return "network"
    return kind


def offered(facts: DeviceFacts) -> tuple[Triple, ...]:
    """Everything a driver could bind to: the interfaces, and the device's own class where drivers
    look at it (the hub driver does)."""
    own = facts.device_class
    return tuple(sorted({*facts.interfaces, own})) if kind_of(own) else facts.interfaces


def fits(pattern: Triple, triple: Triple) -> bool:
    """Whether a pattern covers an interface."""
    return all(want in (ANY, have) for want, have in zip(pattern, triple, strict=True))


def is_named(pattern: Triple, triple: Triple) -> bool:
    """Whether a pattern that covers an interface means it: by class, and where the class alone
    does not say what it is (communications, miscellaneous) by subclass."""
    vague = triple[0] in (CLASS_COMMUNICATIONS, CLASS_MISC)
    return fits(pattern, triple) and pattern[0] != ANY and not (vague and pattern[1] == ANY)


def pinned_ports(pins: Mapping[str, str]) -> dict[str, str]:
    """The pins and every device on the way to them.

    Args:
        pins: port -> of PIN_REASONS.
    """
    found = dict(pins)
    for port in pins:
        above = parent_of(port)
        while above:
            found.setdefault(above, "on_the_way")
            above = parent_of(above)
    return found


def judge_device(
    rules: Sequence[DeviceRule], facts: DeviceFacts, pinned: Mapping[str, str]
) -> Verdict:
    """The verdict on one device.

    Args:
        pinned: as ``pinned_ports`` gives it.
    """
    if not parent_of(facts.port):
        return Verdict("pinned", "", "root_hub", "a root hub is never touched")
    why = pinned.get(facts.port, "")
    if why:
        return Verdict("pinned", "", why, f"never touched: {why.replace('_', ' ')}")
    nearest, missed, detail = "", MISSES[0], ""
    for rule in rules:
        if rule.action == "deny":
            if _is_denied_by(rule, facts):
                return Verdict("deny", rule.name, "deny_rule", "a rule denies it")
            continue
        if facts.refusal:
            continue
        miss, about = _miss(rule, facts)
        if not miss:
            return Verdict("allow", rule.name, "rule", "")
        if MISSES.index(miss) > MISSES.index(missed):
            nearest, missed, detail = rule.name, miss, about
    if facts.refusal:
        text = f"its descriptors cannot be relied on: {facts.refusal}"
        return Verdict("deny", "", "unreadable", text)
    return Verdict("deny", nearest, missed, detail or "no rule speaks of it")


def _has_id(rule: DeviceRule, facts: DeviceFacts) -> bool:
    return rule.vid in (ANY, facts.vid) and rule.pid in (ANY, facts.pid)


def _is_denied_by(rule: DeviceRule, facts: DeviceFacts) -> bool:
    shown = offered(facts)
    return (
        _has_id(rule, facts)
        and rule.serial in ("", facts.serial)
        and rule.port in ("", facts.port)
        and rule.descriptors in (b"", facts.descriptors)
        and (not rule.interfaces or any(fits(p, t) for p in rule.interfaces for t in shown))
    )


def _miss(rule: DeviceRule, facts: DeviceFacts) -> tuple[str, str]:
    """What an allow rule misses first, of MISSES, with a text; ("", "") when it matches."""
    if not _has_id(rule, facts):
        return "unlisted", ""
    if rule.serial not in ("", facts.serial):
        return "other_serial", f"serial {facts.serial!r} is not {rule.serial!r}"
    if rule.port not in ("", facts.port):
        if rule.vid == ANY:
            return "unlisted", ""
        return "other_port", f"plugged into {facts.port}, allowed at {rule.port}"
    shown = offered(facts)
    if rule.interfaces:
        extra = [t for t in shown if not any(fits(p, t) for p in rule.interfaces)]
        absent = [p for p in rule.interfaces if not any(fits(p, t) for t in shown)]
        if extra:
            return "other_interfaces", f"offers {_texts(extra)} besides"
        if absent:
            return "other_interfaces", f"does not offer {_texts(absent)}"
    for triple in shown:
        kind = kind_of(triple)
        if kind and not any(is_named(p, triple) for p in rule.interfaces):
            return "unnamed_class", f"the rule does not name {interface_text(triple)} ({kind})"
    if rule.descriptors not in (b"", facts.descriptors):
        return "other_descriptors", "its descriptors are not those of the rule"
    return "", ""


def _texts(triples: Sequence[Triple]) -> str:
    return ", ".join(interface_text(t) for t in triples[:4]) + (" ..." if len(triples) > 4 else "")


def judge_port(rules: Sequence[PortRule], facts: PortFacts, device_rule: str) -> Verdict:
    """The verdict on one serial port.

    Args:
        device_rule: the rule that allows the adapter, "" when none does or it is the board's own.
    """
    for rule in rules:
        if rule.path != facts.path:
            continue
        if rule.action == "deny":
            return Verdict("deny", rule.name, "deny_rule", "a rule denies it")
        if rule.driver not in ("", facts.driver):
            text = f"driver {facts.driver or 'none'}, expected {rule.driver}"
            return Verdict("deny", rule.name, "other_driver", text)
        if rule.device not in ("", device_rule):
            text = f"adapter of rule {device_rule or 'none'}, expected {rule.device}"
            return Verdict("deny", rule.name, "other_device", text)
        return Verdict("allow", rule.name, "rule", "")
    return Verdict("allow", "", "unlisted", "no rule speaks of it; it follows its device")
