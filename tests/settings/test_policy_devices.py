"""[[device]] and [[port]]: every fault at once, each with its line, and what was probably meant."""

from __future__ import annotations

import pytest

from edgewarden.judge.peripherals_table import compile_table, load_table
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.policy import load_policy
from edgewarden.settings.policy_devices import MAX_DEVICE_RULES, Device, Port
from edgewarden.settings.source import SourceFile
from edgewarden.wire.peripherals import ANY, DeviceRule, PortRule

WHOLE = """\
[[device]]
name = "gps"
id = "1546:01a7"
serial = "ü 7"
interfaces = ["02/02/01", "0a/*/ff"]
port = "1-1.3"
descriptors = "{ONE}"

[[device]]
name = "no-keyboards"
action = "deny"
interfaces = "03/*/*"

[[port]]
name = "gps-port"
path = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0"
driver = "cdc_acm"
device = "gps"
""".replace("{ONE}", "1" * 64)


def faults_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsFaults) as caught:
        load_policy(SourceFile("policy.toml", text))
    return [(f.line, f.path, f.code) for f in caught.value.faults]


def guesses_of(text: str) -> list[str]:
    with pytest.raises(SettingsFaults) as caught:
        load_policy(SourceFile("policy.toml", text))
    return [f.suggestion for f in caught.value.faults]


def test_rules_are_read_and_compiled_in_order() -> None:
    policy = load_policy(SourceFile("p", WHOLE))
    devices = tuple(rule.compiled() for rule in policy.device)
    ports = tuple(rule.compiled() for rule in policy.port)
    interfaces = ((2, 2, 1), (0x0A, ANY, 0xFF))
    assert devices == (
        DeviceRule("gps", "allow", 0x1546, 0x01A7, "ü 7", interfaces, "1-1.3", b"\x11" * 32),
        DeviceRule("no-keyboards", "deny", ANY, ANY, "", ((3, ANY, ANY),), "", b""),
    )
    path = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0"
    assert ports == (PortRule("gps-port", "allow", path, "cdc_acm", "gps"),)
    table = load_table(compile_table(devices, ports))
    assert (table.devices, table.ports) == (devices, ports)


def rule(line: str) -> str:
    return f'[[device]]\nname = "a"\nid = "0403:6001"\n{line}\n'


def port(line: str) -> str:
    return f'[[port]]\nname = "a"\npath = "p"\n{line}\n'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (rule("").replace("0403:6001", "0403"), [(3, "device[0].id", "EW-SET-008")]),
        (rule("").replace("0403:6001", "*:6001"), [(3, "device[0].id", "EW-SET-008")]),
        (rule("").replace("0403:6001", "0403:600G"), [(3, "device[0].id", "EW-SET-008")]),
        (rule("").replace('"a"', '"a\\n"'), [(2, "device[0].name", "EW-SET-008")]),
        (rule("action = 'ask'"), [(4, "device[0].action", "EW-SET-006")]),
        (rule("serial = ''"), [(4, "device[0].serial", "EW-SET-008")]),
        (rule("serial = 'a\\tb'".replace("'", '"')), [(4, "device[0].serial", "EW-SET-008")]),
        (rule("serial = 7"), [(4, "device[0].serial", "EW-SET-004")]),
        (rule(f"serial = '{'x' * 127}'"), [(4, "device[0].serial", "EW-SET-008")]),
        (rule("interfaces = 3"), [(4, "device[0].interfaces", "EW-SET-004")]),
        (rule("interfaces = []"), [(4, "device[0].interfaces", "EW-SET-005")]),
        (rule("interfaces = ['ff/ff']"), [(4, "device[0].interfaces", "EW-SET-008")]),
        (rule("interfaces = ['FF/ff/ff']"), [(4, "device[0].interfaces", "EW-SET-008")]),
        (rule("interfaces = ['03/*/*', '03/*/*']"), [(4, "device[0].interfaces", "EW-SET-009")]),
        (rule("port = 'usb1'"), [(4, "device[0].port", "EW-SET-008")]),
        (rule("port = '1-1.2:1.0'"), [(4, "device[0].port", "EW-SET-008")]),
        (rule("port = '1-0'"), [(4, "device[0].port", "EW-SET-008")]),
        (rule("descriptors = '11'"), [(4, "device[0].descriptors", "EW-SET-008")]),
        (rule("product = 'x'"), [(4, "device[0].product", "EW-SET-003")]),
        (rule("") + rule(""), [(6, "device[1].name", "EW-SET-009")]),
        ("[[device]]\nname = 'a'\n", [(1, "device[0]", "EW-SET-007")]),
        ("[[device]]\nid = '0403:6001'\n", [(1, "device[0]", "EW-SET-007")]),
        ("[[device]]\nname = 'a'\nport = '1-1'\nserial = 's'\n", [
            (4, "device[0].serial", "EW-SET-010"),
        ]),
        ("[device]\nname = 'a'\n", [(1, "device", "EW-SET-004")]),
        ("[[port]]\nname = 'a'\n", [(1, "port[0]", "EW-SET-007")]),
        (port("").replace('"p"', '"/dev/ttyUSB0"'), [(3, "port[0].path", "EW-SET-008")]),
        (port("driver = 'a/b'"), [(4, "port[0].driver", "EW-SET-008")]),
        (port("device = 'gps'"), [(4, "port[0].device", "EW-SET-010")]),
        (port("") + port("").replace('"a"', '"b"'), [(7, "port[1].path", "EW-SET-009")]),
        (rule("action = 'deny'") + port("device = 'a'"), [(8, "port[0].device", "EW-SET-010")]),
        (rule("serail = 'x'\nport = 3") + port("driver = ''"), [
            (4, "device[0].serail", "EW-SET-003"), (5, "device[0].port", "EW-SET-004"),
            (9, "port[0].driver", "EW-SET-008"),
        ]),
    ],
)  # fmt: skip
def test_every_fault_is_named(text: str, wanted: list[tuple[int, str, str]]) -> None:
    assert faults_of(text) == wanted


def test_what_was_probably_meant() -> None:
    assert guesses_of(rule("serail = 'x'")) == ["serial"]
    assert guesses_of(rule("action = 'denny'")) == ["deny"]
    assert guesses_of("[[devise]]\nname = 'a'\n") == ["device"]
    assert guesses_of(rule("").replace('"a"', '"gps"') + port("device = 'gsp'")) == ["gps"]


def test_too_many_rules_are_refused() -> None:
    text = "".join(f'[[device]]\nname = "n{i}"\nid = "0403:6001"\n' for i in range(1025))
    assert MAX_DEVICE_RULES == 1024
    assert faults_of(text) == [(1, "device", "EW-SET-005")]


def test_the_smallest_rules() -> None:
    policy = load_policy(SourceFile("p", '[[device]]\nname = "a"\nport = "1-1"\n' + port("")))
    assert policy.device == (Device(name="a", port="1-1"),)
    assert policy.port == (Port(name="a", path="p"),)
