"""What `policy show` says of the network."""

from __future__ import annotations

from pathlib import Path

from edgewarden.cli.policy_network import network_json, words
from edgewarden.settings.policy import load_policy
from edgewarden.settings.policy_peers import Egress
from edgewarden.settings.source import SourceFile


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
    body = network_json(load_policy(SourceFile("p", text)), str(tmp_path))
    assert body["ingress"] == [
        {"name": "ok", "action": "allow", "address": ["10.0.0.0/8"], "protocol": ["tcp"],
         "port": ["8883"]}
    ]  # fmt: skip
    assert body["gate"] is None
