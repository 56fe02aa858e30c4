"""Which USB devices and serial ports may be used: each rule of the docstring, and what holds for
any rules."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.judge.peripherals import (
    is_named,
    judge_device,
    judge_port,
    kind_of,
    offered,
    pinned_ports,
)
from edgewarden.wire.peripherals import (
    ANY,
    MISSES,
    REASONS,
    UNREADABLE,
    DeviceFacts,
    DeviceRule,
    Triple,
)
from tests.judge.peripherals import (
    ETHERNET,
    HUB,
    KEYBOARD,
    MODEM,
    SERIAL_ADAPTER,
    allow,
    deny,
    device,
    port_rule,
    serial_port,
)

NONE: dict[str, str] = {}


def verdict(rules: list[DeviceRule], facts: DeviceFacts) -> tuple[str, str, str]:
    found = judge_device(rules, facts, NONE)
    return found.decision, found.rule, found.reason


def test_u1_an_unknown_keyboard_is_denied() -> None:
    keyboard = device("1-1.4", KEYBOARD, vid=0x046D, pid=0xC31C)
    assert verdict([allow()], keyboard) == ("deny", "", "unlisted")


def test_u1_a_known_serial_is_allowed_on_its_port_only() -> None:
    rule = allow("gps", serial="A100Y922", port="1-1.2")
    assert verdict([rule], device("1-1.2")) == ("allow", "gps", "rule")
    assert verdict([rule], device("1-1.3")) == ("deny", "gps", "other_port")
    assert verdict([rule], device("1-1.2", serial="B")) == ("deny", "gps", "other_serial")


def test_u2_the_same_adapter_with_a_keyboard_is_denied() -> None:
    bad = device("1-1.2", SERIAL_ADAPTER, KEYBOARD)
    assert verdict([allow()], bad) == ("deny", "adapter", "unnamed_class")
    listed = allow(interfaces=(SERIAL_ADAPTER,))
    assert verdict([listed], device()) == ("allow", "adapter", "rule")
    assert verdict([listed], bad) == ("deny", "adapter", "other_interfaces")
    found = judge_device([listed], bad, NONE)
    assert "03/01/01" in found.text


@pytest.mark.parametrize(
    "extra",
    [
        KEYBOARD,
        (0x03, 0x00, 0x00),  # a mouse, a scanner, anything that speaks HID
        ETHERNET,
        (0x02, 0x0C, 0x07),  # EEM
        (0x02, 0x0D, 0x00),  # NCM
        (0x02, 0x0E, 0x00),  # MBIM
        (0x02, 0x02, 0xFF),  # RNDIS as Windows calls it
        (0xE0, 0x01, 0x03),  # RNDIS
        (0xEF, 0x04, 0x01),  # RNDIS
        (0xE0, 0x01, 0x01),  # Bluetooth
        HUB,
        (0x08, 0x06, 0x50),  # a disk
    ],
)  # fmt: skip
def test_what_can_do_harm_must_be_named(extra: Triple) -> None:
    bad = device("1-1.2", SERIAL_ADAPTER, extra)
    vague = (extra[0], ANY, ANY) if extra[0] in (0x02, 0xEF) else (ANY, ANY, ANY)
    for interfaces in ((), ((ANY, ANY, ANY),), (SERIAL_ADAPTER, vague)):
        assert verdict([allow(interfaces=interfaces)], bad)[0] == "deny"
    assert verdict([allow(interfaces=(SERIAL_ADAPTER, extra))], bad)[0] == "allow"


def test_a_hub_that_says_so_only_of_itself_is_a_hub() -> None:
    hub = device("1-1", SERIAL_ADAPTER, device_class=(0x09, 0, 1))
    assert verdict([allow(interfaces=(SERIAL_ADAPTER,))], hub)[0] == "deny"
    assert verdict([allow(interfaces=(SERIAL_ADAPTER, (0x09, 0, 1)))], hub)[0] == "allow"


def test_every_interface_of_a_rule_must_be_there() -> None:
    rule = allow(interfaces=(SERIAL_ADAPTER, MODEM))
    assert verdict([rule], device()) == ("deny", "adapter", "other_interfaces")


def test_descriptors_bind_the_rule_to_one_kind_of_hardware() -> None:
    rule = allow(descriptors=hashlib.sha256(b"ftdi").digest())
    assert verdict([rule], device())[0] == "allow"
    other = device(descriptors=hashlib.sha256(b"clone").digest())
    assert verdict([rule], other) == ("deny", "adapter", "other_descriptors")


def test_the_first_rule_that_matches_decides() -> None:
    keyboards = deny("no-keyboards", interfaces=((0x03, ANY, ANY),))
    named = allow("both", interfaces=(SERIAL_ADAPTER, KEYBOARD))
    bad = device("1-1.2", SERIAL_ADAPTER, KEYBOARD)
    assert verdict([keyboards, named], bad) == ("deny", "no-keyboards", "deny_rule")
    assert verdict([named, keyboards], bad) == ("allow", "both", "rule")
    assert verdict([keyboards, named], device()) == ("deny", "both", "other_interfaces")


def test_a_wildcard_product_is_any_of_the_maker() -> None:
    rule = allow(pid=ANY)
    assert verdict([rule], device(pid=0x6015))[0] == "allow"
    assert verdict([rule], device(vid=0x0404))[0] == "deny"


@pytest.mark.parametrize("refusal", UNREADABLE)
def test_a_device_that_cannot_be_read_is_never_allowed(refusal: str) -> None:
    torn = device(refusal=refusal, descriptors=b"")
    assert verdict([allow()], torn) == ("deny", "", "unreadable")
    assert verdict([deny(vid=0x0403)], torn) == ("deny", "no", "deny_rule")


def test_u3_pins_and_the_way_to_them() -> None:
    pins = pinned_ports({"1-1.2.3": "boot_disk", "2-1": "uplink"})
    assert pins == {
        "1-1.2.3": "boot_disk", "1-1.2": "on_the_way", "1-1": "on_the_way", "usb1": "on_the_way",
        "2-1": "uplink", "usb2": "on_the_way",
    }  # fmt: skip
    for port, why in pins.items():
        found = judge_device([deny()], device(port), pins)
        wanted = "root_hub" if port.startswith("usb") else why
        assert (found.decision, found.reason) == ("pinned", wanted)
    assert judge_device([deny()], device("1-1.3"), pins).decision == "deny"
    assert judge_device([], device("usb7"), NONE).reason == "root_hub"


# --- what holds for any rules --------------------------------------------------------------------

INTERFACES: list[Triple] = [
    SERIAL_ADAPTER, KEYBOARD, ETHERNET, MODEM, HUB, (0x0A, 0, 0), (8, 6, 80), (0xE0, 1, 3),
]  # fmt: skip
PATTERNS = st.tuples(
    *(st.sampled_from(sorted({ANY, *(t[i] for t in INTERFACES)})) for i in range(3))
)
DIGESTS = [hashlib.sha256(name).digest() for name in (b"ftdi", b"clone")]
DEVICES = st.builds(
    device,
    st.sampled_from(["1-1", "1-1.2", "2-1.4.1", "usb1"]),
    vid=st.sampled_from([0x0403, 0x10C4]),
    pid=st.sampled_from([0x6001, 0xEA60]),
    serial=st.sampled_from(["", "A", "B"]),
    device_class=st.sampled_from([(0, 0, 0), (9, 0, 1), (0xEF, 2, 1)]),
    descriptors=st.sampled_from(DIGESTS),
    refusal=st.sampled_from(["", "", "", UNREADABLE[0]]),
).flatmap(
    lambda d: st.sets(st.sampled_from(INTERFACES), max_size=4).map(
        lambda i: DeviceFacts(
            d.port,
            d.devnum,
            d.vid,
            d.pid,
            d.device_class,
            tuple(sorted(i)),
            d.serial,
            d.product,
            d.descriptors,
            d.refusal,
            d.authorized,
        )
    )
)
RULES = st.lists(
    st.builds(
        DeviceRule,
        name=st.sampled_from(["a", "b", "c", "d"]),
        action=st.sampled_from(["allow", "allow", "deny"]),
        vid=st.sampled_from([ANY, 0x0403, 0x10C4]),
        pid=st.sampled_from([ANY, 0x6001, 0xEA60]),
        serial=st.sampled_from(["", "", "A", "B"]),
        interfaces=st.lists(PATTERNS, max_size=3, unique=True).map(tuple),
        port=st.sampled_from(["", "", "1-1.2", "2-1.4.1"]),
        descriptors=st.sampled_from([b"", *DIGESTS]),
    ),
    max_size=5,
)


@given(RULES, DEVICES)
def test_nothing_harmful_is_allowed_unnamed(rules: list[DeviceRule], facts: DeviceFacts) -> None:
    found = judge_device(rules, facts, NONE)
    assert found.reason in REASONS
    if found.decision == "allow":
        assert not facts.refusal
        deciding = [r for r in rules if r.name == found.rule and r.action == "allow"]
        harmful = [t for t in offered(facts) if kind_of(t)]
        assert any(
            all(any(is_named(p, t) for p in rule.interfaces) for t in harmful) for rule in deciding
        )


@given(RULES, DEVICES, st.sampled_from(["boot_disk", "uplink", "console"]))
def test_u3_what_is_pinned_is_never_denied(
    rules: list[DeviceRule], facts: DeviceFacts, why: str
) -> None:
    assert judge_device(rules, facts, pinned_ports({facts.port: why})).decision == "pinned"
    assert judge_device(rules, facts, pinned_ports({facts.port + ".1": why})).decision == "pinned"


@given(RULES, RULES, DEVICES)
def test_later_rules_never_change_what_an_earlier_one_decided(
    first: list[DeviceRule], more: list[DeviceRule], facts: DeviceFacts
) -> None:
    alone = judge_device(first, facts, NONE)
    if alone.reason not in (*MISSES, "unreadable"):
        assert judge_device(first + more, facts, NONE) == alone


@given(RULES, DEVICES, st.sampled_from(INTERFACES))
def test_one_more_interface_is_never_free(
    rules: list[DeviceRule], facts: DeviceFacts, extra: Triple
) -> None:
    """What is allowed with a harmful extra interface is allowed by a rule that names it."""
    if not kind_of(extra):
        return
    more = DeviceFacts(
        facts.port, facts.devnum, facts.vid, facts.pid, facts.device_class,
        tuple(sorted({*facts.interfaces, extra})), facts.serial, facts.product, facts.descriptors,
        facts.refusal, facts.authorized,
    )  # fmt: skip
    if judge_device(rules, more, NONE).decision == "allow":
        assert any(is_named(p, extra) for r in rules for p in r.interfaces)


# --- serial ports --------------------------------------------------------------------------------


def test_a_port_rule_expects_its_driver_and_its_device() -> None:
    rule = port_rule(driver="ftdi_sio", device="adapter")
    assert judge_port([rule], serial_port(), "adapter").decision == "allow"
    other = judge_port([rule], serial_port(), "another")
    assert (other.decision, other.rule, other.reason) == ("deny", "meter", "other_device")
    assert judge_port([rule], serial_port(), "").reason == "other_device"
    swapped = judge_port([rule], serial_port(driver="cp210x"), "adapter")
    assert (swapped.decision, swapped.reason) == ("deny", "other_driver")


def test_a_port_can_be_denied_and_others_follow_their_device() -> None:
    assert judge_port([port_rule(action="deny")], serial_port(), "a").reason == "deny_rule"
    found = judge_port([port_rule()], serial_port(path="another"), "a")
    assert (found.decision, found.reason) == ("allow", "unlisted")
