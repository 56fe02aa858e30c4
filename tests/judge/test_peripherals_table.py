"""The sealed rules: what compiles is read back the same, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.judge.peripherals_table import (
    MAGIC,
    MAX_RULES,
    MAX_TABLE_BYTES,
    PeripheralTable,
    compile_table,
    load_table,
    renewed,
)
from edgewarden.wire.lean import seal
from edgewarden.wire.peripherals import ANY, DeviceRule, PortRule
from tests.judge.peripherals import KEYBOARD, SERIAL_ADAPTER, allow, deny, port_rule

DEVICE = "device\ta\tallow\t0403:6001\t\t\t\t"


def test_what_is_compiled_is_read_back() -> None:
    devices = (
        allow("a", serial="ä 1", interfaces=(SERIAL_ADAPTER, (3, ANY, ANY)), port="1-1.2"),
        allow("b", pid=ANY, descriptors=bytes(range(32))),
        deny("c", interfaces=(KEYBOARD,)),
    )
    ports = (port_rule(driver="ftdi_sio", device="a"), port_rule(name="x", path="y", action="deny"))
    data = compile_table(devices, ports, generation=7)
    assert load_table(data) == PeripheralTable(devices, ports, 7)
    assert load_table(compile_table([], [], generation=0)) == PeripheralTable((), (), 0)


def test_the_format_is_the_documented_one() -> None:
    text = (
        "generation\t1\n"
        "device\ta\tallow\t0403:*\tS\tff/ff/ff,03/*/*\t1-1.2\t\n"
        "port\tmeter\tallow\tplatform-x-usb-0:1.2:1.0-port0\t\ta\n"
    )
    rule = allow("a", pid=ANY, serial="S", interfaces=(SERIAL_ADAPTER, (3, ANY, ANY)), port="1-1.2")
    assert compile_table([rule], [port_rule(device="a")]) == seal(MAGIC, text.encode())


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", "bad_value"),
        (b"generation\t1", "bad_value"),
        (b"generation\t-1\n", "bad_value"),
        (b"generation\t1\t\n", "bad_value"),
        (b"generation\t99999999999999999999\n", "bad_value"),
        (b"\xff\n", "bad_value"),
        (b"generation\t1\n\n", "bad_rule"),
        (b"generation\t1\nexec\ta\tallow\n", "bad_rule"),
        (f"generation\t1\n{DEVICE}\t\n".encode(), "bad_rule"),
        (f"generation\t1\n{DEVICE}\n{DEVICE}\n".encode(), "bad_rule"),
        (DEVICE.replace("allow", "ask"), "bad_rule"),
        (DEVICE.replace("0403:6001", "403:6001"), "bad_rule"),
        (DEVICE.replace("\t\t\t", "\t\tff/ff\t"), "bad_rule"),
        (DEVICE.replace("\t\t\t\t", "\t\t\t1\t"), "bad_rule"),
        (DEVICE + "ff", "bad_rule"),
        (DEVICE.replace("\ta\t", "\t\t"), "bad_rule"),
        ("port\ta\tallow\t\t\t", "bad_rule"),
        (f"port\ta\tallow\tp\t\t\n{DEVICE}", "bad_rule"),
        ("port\ta\tallow\tp\t\t\nport\tb\tallow\tp\t\t", "bad_rule"),
        ("\n".join(["port\ta\tallow\tp\t\t"] * (MAX_RULES + 1)), "too_many"),
    ],
)
def test_anything_else_is_refused_by_name(body: bytes | str, name: str) -> None:
    raw = body if isinstance(body, bytes) else f"generation\t1\n{body}\n".encode()
    with pytest.raises(WireRefusal) as caught:
        load_table(seal(MAGIC, raw))
    assert caught.value.name == name


def test_a_file_that_is_too_long_or_damaged_is_refused() -> None:
    data = compile_table([allow()], [])
    for broken, name in (
        (bytes(MAX_TABLE_BYTES + 1), "too_long"),
        (data[:-2] + b"x\n", "bad_stamp"),
        (b"EWEXECT1" + data[8:], "bad_magic"),
    ):
        with pytest.raises(WireRefusal) as caught:
            load_table(broken)
        assert caught.value.name == name


@pytest.mark.parametrize(
    "rule",
    [allow("tab\there"), allow(serial="a\tb"), allow(serial="a\nb"), allow(port="usb1"), allow("")],
)
def test_what_gate_would_refuse_is_not_written(rule: DeviceRule) -> None:
    with pytest.raises(OperatorFault) as caught:
        compile_table([rule], [])
    assert caught.value.code == "EW-USB-001"


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    try:
        table = load_table(seal(MAGIC, body))
    except WireRefusal:
        return
    assert all(isinstance(rule, PortRule) for rule in table.ports)


def test_the_generation_rises_with_the_rules_and_stays_without() -> None:
    assert renewed((), (), None) is None
    first = renewed((allow(),), (), None)
    assert first is not None
    assert load_table(first).generation == 1
    assert renewed((allow(),), (), first) == first
    second = renewed((allow(), deny()), (), first)
    assert second is not None
    assert load_table(second).generation == 2
    none = renewed((), (), second)
    assert none is not None
    assert load_table(none) == PeripheralTable((), (), 3)


def test_a_damaged_table_is_replaced() -> None:
    assert load_table(renewed((), (), b"damaged") or b"").generation == 1
