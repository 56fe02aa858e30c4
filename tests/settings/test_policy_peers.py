"""[[egress]] and [[ingress]]: every fault with its line, and nobody locked out by a rule."""

from __future__ import annotations

import pytest

from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.peers import NEVER_MANAGED_USERS
from edgewarden.settings.policy import load_policy
from edgewarden.settings.policy_peers import Egress, Ingress
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings


def rule(*lines: str, section: str = "egress", name: str = "a") -> str:
    return "\n".join([f"[[{section}]]", f'name = "{name}"', *lines, ""])


def faults_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsFaults) as caught:
        load_policy(SourceFile("policy.toml", text))
    return [(f.line, f.path, f.code) for f in caught.value.faults]


def test_rules_of_both_directions_are_read_in_order() -> None:
    text = rule(
        'unit = ["historian.service", "/plant.slice/opc.service"]',
        'uid = ["historian", "1000-1999", 77]',
        'address = ["10.20.0.5", "2001:db8::/32"]',
        'host = "api.example.org"',
        'protocol = ["tcp", "udp"]',
        'port = [443, "8000-8010"]',
    ) + rule("port = 8883", 'protocol = "tcp"', section="ingress")
    policy = load_policy(SourceFile("p", text))
    assert policy.egress == (
        Egress(
            name="a",
            unit=("historian.service", "/plant.slice/opc.service"),
            uid=("historian", "1000-1999", "77"),
            address=("10.20.0.5", "2001:db8::/32"),
            host=("api.example.org",),
            protocol=("tcp", "udp"),
            port=("443", "8000-8010"),
        ),
    )
    assert policy.ingress == (Ingress(name="a", protocol=("tcp",), port=("8883",)),)


@pytest.mark.parametrize(
    ("line", "key", "code"),
    [
        ('address = "10.0.0.300"', "address", "EW-SET-008"),
        ('address = "10.0.0.1/8"', "address", "EW-SET-008"),
        ('address = "::ffff:10.0.0.1"', "address", "EW-SET-008"),
        ('address = "::ffff:10.0.0.0/104"', "address", "EW-SET-008"),
        ('address = "fe80::1%eth0"', "address", "EW-SET-008"),
        ('host = "localhost"', "host", "EW-SET-008"),
        ('host = "Api.example.org"', "host", "EW-SET-008"),
        ('host = "10.0.0.1"', "host", "EW-SET-008"),
        ('host = "a..example"', "host", "EW-SET-008"),
        ('protocol = "sctp"', "protocol", "EW-SET-008"),
        ('protocol = "tcp"\nport = 65536', "port", "EW-SET-005"),
        ('protocol = "tcp"\nport = "20-10"', "port", "EW-SET-005"),
        ('protocol = "tcp"\nport = "http"', "port", "EW-SET-008"),
        ('protocol = "icmp"\nport = 7', "port", "EW-SET-010"),
        ('port = 7\naddress = "10.0.0.1"', "port", "EW-SET-007"),
        ('address = "10.0.0.1"\nuid = 4294967295', "uid", "EW-SET-005"),
        ('address = "10.0.0.1"\nunit = "historian"', "unit", "EW-SET-008"),
        ('address = "10.0.0.1"\nunit = "../x.service"', "unit", "EW-SET-008"),
        ('address = "10.0.0.1"\nunit = "a b.service"', "unit", "EW-SET-008"),
        ('adress = "10.0.0.1"\nhost = "a.example"', "adress", "EW-SET-003"),
    ],
)
def test_every_fault_names_its_key(line: str, key: str, code: str) -> None:
    at = 3 + [text.split(" ")[0] for text in line.split("\n")].index(key)
    assert faults_of(rule(line)) == [(at, f"egress[0].{key}", code)]


def test_a_misspelt_key_and_a_host_in_a_network_are_given_a_guess() -> None:
    with pytest.raises(SettingsFaults, match=r"did you mean address\?"):
        load_policy(SourceFile("p", rule('adress = "10.0.0.1"')))
    with pytest.raises(SettingsFaults, match=r"did you mean 10\.0\.0\.0/8\?"):
        load_policy(SourceFile("p", rule('address = "10.0.0.1/8"')))
    with pytest.raises(SettingsFaults, match=r"by IPv4; write 10\.0\.0\.0/8"):
        load_policy(SourceFile("p", rule('address = "::ffff:10.0.0.0/104"')))


def test_ingress_knows_no_user() -> None:
    text = rule("uid = 1000", 'address = "10.0.0.1"', section="ingress")
    assert faults_of(text) == [(3, "ingress[0].uid", "EW-SET-003")]


def test_an_allow_that_names_no_peer_is_no_allowlist() -> None:
    assert faults_of(rule("uid = 1000")) == [(1, "egress[0]", "EW-SET-007")]
    assert load_policy(SourceFile("p", rule("uid = 1000", 'action = "deny"'))).egress


@pytest.mark.parametrize("uid", ["0", '"root"', '"0-999"', '"0"'])
def test_root_is_never_managed(uid: str) -> None:
    text = rule(f"uid = {uid}", 'address = "10.0.0.1"')
    assert faults_of(text) == [(3, "egress[0].uid", "EW-SET-010")]


@pytest.mark.parametrize(
    "unit",
    ["ssh.service", "sshd@1.service", "init.scope", "system.slice", "user.slice",
     "/user.slice/user-0.slice/session-1.scope", "systemd-networkd.service", "dbus.service",
     "edgewarden-link.service", "getty@tty1.service", "user@0.service",
     # review B, H3
     "dropbear.service", "dropbear@a.service", "networking.service",
     "wpa_supplicant.service", "wpa_supplicant@wlan0.service", "tailscaled.service", "iwd.service",
     "ifup@eth0.service", "wg-quick@wg0.service", "ModemManager.service", "chrony.service",
     "ntpsec.service", "dnsmasq.service", "unbound.service", "/user.slice/user-1000.slice",
     "/system.slice/system-getty.slice", r"/system.slice/system-serial\x2dgetty.slice",
     "system-sshd.slice", "/system.slice/system-wpa_supplicant.slice"],
)  # fmt: skip
def test_units_that_let_people_in_are_never_managed(unit: str) -> None:
    text = rule(f"unit = '{unit}'", 'address = "10.0.0.1"')
    assert faults_of(text) == [(3, "egress[0].unit", "EW-SET-010")]
    with pytest.raises(SettingsFaults, match="never managed"):
        load_settings([SourceFile("s", f"[network]\nmanaged_units = '{unit}'\n")])


@pytest.mark.parametrize(
    "unit",
    ["cron.service", "openvpn-client@a.service", r"system-openvpn\x2dclient.slice",
     "namedpipe.service", "ntp-report.service", "/plant.slice/a.service", "machine.slice",
     "sshguard.service"],
)  # fmt: skip
def test_others_may_be_managed(unit: str) -> None:
    assert load_policy(SourceFile("p", rule(f"unit = '{unit}'", 'address = "10.0.0.1"'))).egress


@pytest.mark.parametrize("name", NEVER_MANAGED_USERS)
def test_users_of_name_and_address_services_are_never_managed(name: str) -> None:
    text = rule(f'uid = "{name}"', 'address = "10.0.0.1"')
    assert faults_of(text) == [(3, "egress[0].uid", "EW-SET-010")]


def test_the_settings_of_the_network_are_checked() -> None:
    good = load_settings([SourceFile("s", '[network]\nenrolled = "10.0.0.0/8"\nhold_s = 9\n')])
    assert good.network.enrolled == ("10.0.0.0/8",)
    with pytest.raises(SettingsFaults, match=r"did you mean 10\.0\.0\.0/8"):
        load_settings([SourceFile("s", '[network]\nenrolled = "10.0.0.9/8"\n')])
    with pytest.raises(SettingsFaults, match="hold_s"):
        load_settings([SourceFile("s", "[network]\nhold_s = 61\n")])
