"""What `policy show` says of the network."""

from __future__ import annotations

from pathlib import Path

from edgewarden.cli.policy_network import managed, network_json, words
from edgewarden.settings.policy import load_policy
from edgewarden.settings.policy_peers import Egress
from edgewarden.settings.source import SourceFile
from edgewarden.wire.network_table import NetworkTable, Unit


def test_a_rule_is_shown_on_a_line_and_names_are_labelled() -> None:
    rule = Egress(
        name="cloud", unit=("a.service",), host=("api.example.org",), protocol=("tcp",),
        port=("443", "8443", "9443", "9444"),
    )  # fmt: skip
    assert words(rule) == (
        "unit a.service, host (by name) api.example.org, protocol tcp, "
        "port 443 or 8443 or 9443 or 1 more"
    )
    assert words(Egress(name="no", action="deny")) == "everybody"


def test_the_json_holds_the_rules_as_written(tmp_path: Path) -> None:
    text = '[[ingress]]\nname = "ok"\naddress = "10.0.0.0/8"\nprotocol = "tcp"\nport = 8883\n'
    body = network_json(load_policy(SourceFile("p", text)), str(tmp_path), str(tmp_path))
    assert body["ingress"] == [
        {"name": "ok", "action": "allow", "address": ["10.0.0.0/8"], "protocol": ["tcp"],
         "port": ["8883"]}
    ]  # fmt: skip
    assert body["gate"] is None
    assert body["units"] == []


def test_a_managed_unit_that_has_no_control_group_is_said(tmp_path: Path) -> None:
    """It may only be stopped; or it lies elsewhere, and is not managed at all."""
    units = (Unit(2, "s0", "system.slice/here.service"), Unit(2, "s1", "system.slice/no.service"))
    table = NetworkTable(1, 1, 3600, 60, (), units, (), "x")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/network.table").write_bytes(table.dump())
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "system.slice/here.service").mkdir(parents=True)
    assert managed(str(tmp_path), str(tmp_path)) == [
        ("system.slice/here.service", True),
        ("system.slice/no.service", False),
    ]
    (tmp_path / "policy/network.table").write_bytes(b"damaged")
    assert managed(str(tmp_path), str(tmp_path)) == []
