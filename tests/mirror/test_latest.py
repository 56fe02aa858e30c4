"""The last value of every channel: bounded, and what is left out is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.mirror.latest import (
    GATEWAY,
    MAX_CHANNELS,
    MAX_OF_SOURCE,
    MAX_TEXT,
    Kind,
    Latest,
    Value,
)
from edgewarden.mirror.messages import health
from edgewarden.wire.facts import Reading


def reading(name: str, value: Value, source: str = "gps") -> Reading:
    return Reading(source, name, "", value, 7)


def test_a_value_that_was_not_told_is_replaced_and_counted() -> None:
    latest = Latest(["gps"])
    for value in (1.0, 2.0, 3.0):
        latest.see(reading("t", value))
    assert list(latest.changed) == [("gps", "t")]
    assert latest.values["gps", "t"].value == 3.0
    assert (latest.superseded, latest.refused) == (2, 0)


def test_nobody_invents_a_sensor_by_speaking() -> None:
    latest = Latest(["gps"])
    latest.see(reading("t", 1.0, source="other"))
    assert (latest.values, latest.refused) == ({}, 1)


def test_names_from_a_wire_are_bounded() -> None:
    sources = [f"s{n}" for n in range(16)]
    latest = Latest(sources)
    for source in sources:
        for n in range(MAX_OF_SOURCE + 5):
            latest.see(reading(f"c{n}", 1.0, source))
    assert len(latest.values) == MAX_CHANNELS
    assert max(len(latest.of(s)) for s in sources) == MAX_OF_SOURCE
    assert latest.refused == 16 * (MAX_OF_SOURCE + 5) - MAX_CHANNELS


@pytest.mark.parametrize(("first", "then"), [(1.0, "x"), (1.0, True), (True, 1.0), ("x", 1.0)])
def test_a_channel_keeps_its_kind(first: Value, then: Value) -> None:
    latest = Latest(["gps"])
    latest.see(reading("t", first))
    latest.see(reading("t", then))
    assert latest.values["gps", "t"].value == first
    assert latest.refused == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400])
def test_a_number_that_is_none_is_shown_as_none(value: float) -> None:
    latest = Latest(["gps"])
    latest.see(reading("t", value))
    assert latest.values["gps", "t"].value is None
    assert latest.values["gps", "t"].kind is Kind.NUMBER


def test_a_text_is_cut() -> None:
    latest = Latest(["gps"])
    latest.see(reading("t", "x" * 1000))
    assert latest.values["gps", "t"].value == "x" * MAX_TEXT


def test_the_gateway_says_again_only_what_changed() -> None:
    latest = Latest([])
    latest.report({"verdict": "ok", "exec-denied": 0}, 1)
    latest.changed.clear()
    latest.report({"verdict": "ok", "exec-denied": 1}, 2)
    assert list(latest.changed) == [(GATEWAY, "exec-denied")]


STATUS = {
    "device": "gw-1", "version": "1", "verdict": "ok",
    "reasons": [{"code": "EW-X", "text": "secret", "next": ""}],
    "identity": {"grade": "G1", "certificate": {"serial": "secret"}},
    "uplink": {"connected": True, "since_utc": None},
    "spool": {
        "alarm": {"durable": 9, "acked": 7}, "audit": {"durable": 5, "acked": 5},
        "bulk": {"durable": 4, "acked": 1},
    },
    "enforcement": {"exec": {"mode": "learn", "denied": 3}},
}  # fmt: skip


def test_health_is_a_list_of_what_is_told() -> None:
    assert health(STATUS) == {
        "verdict": "ok", "version": "1", "uplink-connected": True, "exec-mode": "learn",
        "exec-denied": 3, "alarms-waiting": 2, "records-waiting": 3,
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(STATUS)), st.none() | st.integers() | st.text()))
def test_health_of_half_a_status_is_less(status: dict[str, object]) -> None:
    assert set(health(status)) <= {"verdict", "version", "alarms-waiting", "records-waiting"}
