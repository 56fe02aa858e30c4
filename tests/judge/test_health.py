"""The verdict of status: what degrades, what fails, what comes first."""

from __future__ import annotations

import dataclasses

import pytest

from edgewarden.judge.doctor import Rung, State
from edgewarden.judge.health import Picture, judge

WELL = Picture(
    connected=True,
    offline_s=0,
    trust_fault="",
    attestation="affirming",
    attestation_age_s=5,
    attestation_period_s=300,
    storage_fault="",
    unsent=0,
    evicted=0,
    gate=True,
    gate_starting=False,
    guard=True,
    mode="enforce",
    armed=True,
    tier="T3",
    watches=True,
    sensors={"gps": ("live", "")},
)


@pytest.mark.parametrize("starting", [True, False])
def test_a_gate_that_starts_is_not_called_dead(starting: bool) -> None:
    _, [reason] = judge(dataclasses.replace(WELL, gate=False, gate_starting=starting))
    assert ("starting" in reason.text) is starting
    assert ("not running" in reason.text) is not starting


def test_why_there_is_no_session_is_told_with_its_step() -> None:
    """doctor stops at TLS while link runs: what the broker said nobody else could tell."""
    why = ("EW-NET-008", "the broker refused the session: Banned (0x8a)", "ask the operator")
    offline = dataclasses.replace(WELL, connected=False, offline_s=41, uplink_why=why)
    _, [reason] = judge(offline)
    assert (reason.code, reason.next_step) == ("EW-NET-008", "ask the operator")
    assert reason.text == f"no session with the broker for 41 s: {why[1]}"
    refused = ("EW-NET-007", "the broker refuses this gateway's certificate", "renew it")
    distrusted = dataclasses.replace(offline, trust_fault=refused[1], uplink_why=refused)
    verdict, [reason] = judge(distrusted)
    assert (verdict, reason.code, reason.next_step) == ("failing", "EW-NET-007", "renew it")


def test_well_is_ok() -> None:
    assert judge(WELL) == ("ok", [])
    sound = (Rung("clock", "clock", State.OK, "x"), Rung("mqtt", "network", State.UNCHECKED, "x"))
    assert judge(dataclasses.replace(WELL, rungs=sound)) == ("ok", [])


@pytest.mark.parametrize(
    ("change", "verdict", "code"),
    [
        ({"connected": False, "offline_s": 41.0}, "degraded", "EW-NET-009"),
        ({"connected": False, "trust_fault": "impostor"}, "failing", "EW-NET-006"),
        ({"parked": ("audit",)}, "degraded", "EW-NET-010"),
        ({"parked": ("audit",), "parked_by": "verifier"}, "degraded", "EW-NET-016"),
        ({"storage_fault": "disk refuses"}, "failing", "EW-SPL-001"),
        ({"storage_fault": "disk refuses", "memory_s": 9.0}, "failing", "EW-SPL-010"),
        ({"tight": True}, "failing", "EW-SPL-006"),
        ({"attestation": "contraindicated"}, "degraded", "EW-ATT-001"),
        ({"attestation_age_s": None}, "degraded", "EW-ATT-002"),
        ({"attestation_age_s": 901.0}, "degraded", "EW-ATT-002"),
        ({"armed": False}, "failing", "EW-EXEC-001"),
        ({"mode": "learn", "armed": False, "tier": "T0"}, "degraded", "EW-EXEC-001"),
        ({"unheld": {"peripherals": "usbguard decides"}}, "failing", "EW-AGT-011"),
        ({"gate": False}, "degraded", "EW-AGT-003"),
        ({"gate": False, "gate_starting": True}, "degraded", "EW-AGT-003"),
        ({"guard": False}, "degraded", "EW-AGT-004"),
        ({"unsent": 1001}, "degraded", "EW-SPL-004"),
        ({"sensors": {"gps": ("silent", "no frame")}}, "degraded", "EW-SER-002"),
        ({"sensors": {"gps": ("reopen", "no such file")}}, "degraded", "EW-SER-001"),
        ({"doubtful": {"gps": ("suspect", "lat: range")}}, "degraded", "EW-SER-015"),
        ({"rungs": (Rung("clock", "clock", State.DEGRADED, "x", "EW-ID-016", "y"),)}, "degraded",
         "EW-ID-016"),
        ({"rungs": (Rung("identity", "identity", State.FAILING, "x", "EW-ID-012", "y"),)},
         "failing", "EW-ID-012"),
        ({"settings_faults": ("x.toml:3 no such key",)}, "degraded", "EW-SET-013"),
    ],
)  # fmt: skip
def test_each_fault_is_named(change: dict[str, object], verdict: str, code: str) -> None:
    found, reasons = judge(dataclasses.replace(WELL, **change))  # type: ignore[arg-type]
    assert found == verdict
    assert [r.code for r in reasons] == [code]
    assert reasons[0].next_step


def test_failing_comes_first() -> None:
    picture = dataclasses.replace(WELL, unsent=1001, storage_fault="disk refuses", gate=False)
    verdict, reasons = judge(picture)
    assert verdict == "failing"
    assert [r.code for r in reasons] == ["EW-SPL-001", "EW-AGT-003", "EW-SPL-004"]


def test_what_was_evicted_names_the_setting_that_would_help() -> None:
    full = dataclasses.replace(WELL, evicted=7, connected=False, cap_setting="cap_percent")
    steps = [r.next_step for r in judge(full)[1] if r.code == "EW-SPL-003"]
    assert steps == ["restore the uplink or raise spool.cap_percent"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"connected": False}, True),
        ({"unsent": 1001}, True),
        ({}, False),  # all of it is sent, and nothing can be done about what is gone
    ],
)
def test_what_was_evicted_is_a_reason_while_it_can_go_on(
    change: dict[str, object], told: bool
) -> None:
    picture = dataclasses.replace(WELL, evicted=7, **change)  # type: ignore[arg-type]
    assert ("EW-SPL-003" in [r.code for r in judge(picture)[1]]) is told
