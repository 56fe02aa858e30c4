"""The fleet's folder: whole or not at all, nothing overwritten, keys closed; and its settings."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca import broker, folder, settings
from edgewarden_fleet.ca.settings import Attestation, Endpoint, FleetSettings
from tests.fleet.makers import NOW
from tests.trust.test_tls import keeps_to_aead

WANTED = FleetSettings(
    "main",
    Endpoint("127.0.0.1", 8883),
    Endpoint("127.0.0.1", 8843),
    Endpoint("127.0.0.1", 8880),
    Attestation(300, 120, ("identity", "freshness", "executables")),
)


def make(path: Path) -> folder.FleetFolder:
    me = "root" if os.geteuid() == 0 else "auto"
    return folder.create(path, WANTED, NOW, me)[0]


def test_every_key_is_closed_and_every_part_loads(tmp_path: Path) -> None:
    made = make(tmp_path / "fleet")
    keys = [*made.path.rglob("*-key.pem"), made.path / "verifier/key.pem"]
    assert len(keys) == 6
    assert {stat.S_IMODE(k.stat().st_mode) for k in keys} == {0o600}
    for private in ("ca", "enroll", "verifier", "store", "broker/data"):
        assert stat.S_IMODE((made.path / private).stat().st_mode) == 0o700
    assert made.settings() == WANTED
    assert made.issuing().certificate.issuer == made.root().subject
    assert len(made.verifier().kid) == 8
    assert made.client_context().verify_mode.name == "CERT_REQUIRED"
    assert made.enroll_context()


def test_the_fleets_own_ends_of_tls_keep_to_what_its_gateways_do(tmp_path: Path) -> None:
    made = make(tmp_path / "fleet")
    for context in (made.client_context(), made.enroll_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert keeps_to_aead(context)
    assert made.client_context().verify_flags & ssl.VERIFY_X509_STRICT


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = make(tmp_path / "fleet")
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    with pytest.raises(OperatorFault) as refused:
        make(tmp_path / "fleet")
    assert refused.value.code == "EW-SET-022"
    assert refused.value.next_step
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty").settings() == WANTED


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_sync_tree", full)
    with pytest.raises(OperatorFault, match="No space left"):
        make(tmp_path / "fleet")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault) as refused:
        folder.FleetFolder(tmp_path).settings()
    assert refused.value.code == "EW-SET-021"


def test_the_broker_gets_what_confines_gateways(tmp_path: Path) -> None:
    conf = broker.mosquitto_conf(tmp_path, WANTED, "mosquitto").splitlines()
    for line in (
        "allow_anonymous false", "require_certificate true", "use_identity_as_username true",
        "use_username_as_clientid true", "listener 8883 127.0.0.1", "max_packet_size 262144",
        "persistence true", "user mosquitto", "log_dest stderr", f"acl_file {tmp_path}/acl",
    ):  # fmt: skip
        assert line in conf
    assert [line for line in broker.acl("main").splitlines() if not line.startswith("#")] == [
        "pattern write ew/1/main/%u/r/+",
        "pattern write ew/1/main/%u/e/evidence",
        "pattern write ew/1/main/%u/s/status",
        "pattern read ew/1/main/%u/e/nonce",
        "pattern read ew/1/main/%u/e/result",
        "pattern read ew/1/main/%u/e/ack",
        "",
        "user fleet.verifier",
        "topic read ew/1/main/#",
        "topic write ew/1/main/+/e/nonce",
        "topic write ew/1/main/+/e/result",
        "topic write ew/1/main/+/e/ack",
    ]


def test_with_the_plugin_the_broker_has_no_access_file(tmp_path: Path) -> None:
    conf = broker.mosquitto_conf(tmp_path, WANTED, "mosquitto", "/lib/plugin.so").splitlines()
    assert "plugin /lib/plugin.so" in conf
    assert f"plugin_opt_config_file {tmp_path}/data/dynamic-security.json" in conf
    assert not [line for line in conf if line.startswith("acl_file")]


def test_the_plugin_is_found_where_packages_put_it(tmp_path: Path) -> None:
    assert broker.find_plugin([str(tmp_path / "*-linux-gnu")]) is None
    (tmp_path / "arm-linux-gnu").mkdir()
    (tmp_path / "arm-linux-gnu/mosquitto_dynamic_security.so").touch()
    found = broker.find_plugin([str(tmp_path), str(tmp_path / "*-linux-gnu")])
    assert found == f"{tmp_path}/arm-linux-gnu/mosquitto_dynamic_security.so"


def test_who_is_revoked_is_denied_by_name() -> None:
    assert broker.acl("main", ["gw-1", "gw-2"]).endswith(
        "\nuser gw-1\ntopic deny #\n\nuser gw-2\ntopic deny #\n"
    )


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "::1"), ("a.example", None)],
)
def test_where_a_listener_listens(host: str, address: str | None) -> None:
    assert broker.listen_address(host) == address


def test_settings_survive_their_own_text(tmp_path: Path) -> None:
    odd = replace(
        WANTED,
        tenant="site-7",
        attestation=Attestation(15, 30, ("identity", "boot")),
        broker_reload=("sh", "-c", 'kill -HUP "$(pidof mosquitto)"'),
    )
    path = tmp_path / "fleet.toml"
    path.write_text(settings.text(odd))
    assert settings.read(path) == odd


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('tenant = "main"', "", "tenant is missing"),
        ('tenant = "main"', 'tenant = "../x"', "tenant"),
        ('tenant = "main"', "tenant = 7", "tenant is not a text"),
        ("port = 8883", "port = 88830", "broker.port"),
        ("port = 8883", "port = true", "broker.port"),
        ("port = 8883", 'port = "8883"', "broker.port"),
        ("port = 8883", "port = 8883\nprot = 1", "broker.prot is not known"),
        ("[console] ", "[consol] ", "consol is not known"),
        ("period_s = 300", "period_s = 0", "attestation.period_s"),
        ('"freshness", ', '"fresh", ', "attestation.required"),
        ('["identity", "freshness", "executables"]', "[]", "attestation.required"),
        ('tenant = "main"', "tenant =", "fleet.toml"),
    ],
)
def test_broken_settings_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    text = settings.text(WANTED)
    assert old in text
    path = tmp_path / "fleet.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(OperatorFault) as refused:
        settings.read(path)
    assert refused.value.code == "EW-SET-020"
    assert named in refused.value.text


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("", ("mqtt5", False)),
        ("acknowledge = true", ("mqtt5", True)),
        ('profile = "nats"', ("nats", True)),
        ('profile = "aws-iot-core"', ("aws-iot-core", False)),
    ],
)
def test_a_broker_that_says_nothing_of_what_it_refuses_makes_the_fleet_acknowledge(
    tmp_path: Path, lines: str, found: tuple[str, bool]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(settings.text(WANTED).replace("port = 8883\n", f"port = 8883\n{lines}\n"))
    read = settings.read(path)
    assert (read.broker_profile, read.acknowledges) == found
    path.write_text(settings.text(read))
    assert settings.read(path) == read


@pytest.mark.parametrize(
    "lines",
    ['profile = "nats"\nacknowledge = false', 'profile = "azure-iot-hub"', 'profile = "x"',
     'acknowledge = "yes"', "profile = 4"],
)  # fmt: skip
def test_a_profile_that_cannot_be_is_refused(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(settings.text(WANTED).replace("port = 8883\n", f"port = 8883\n{lines}\n"))
    with pytest.raises(OperatorFault, match="broker"):
        settings.read(path)
