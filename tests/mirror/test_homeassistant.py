"""What Home Assistant is told: announcements, states, what is available, what is taken back."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.mirror.homeassistant import UNITS, HomeAssistant
from edgewarden.mirror.latest import Latest
from edgewarden.mirror.messages import Look, Message
from edgewarden.wire.facts import Quality, Reading

LOOK = Look(2 * 10**9, 1_700_000_000 * 10**9, {"gps": True})
STATE = "edgewarden/gw-1/gps/state/t"
CONFIG = "homeassistant/device/edgewarden_gw-1_gps/config"


def speaker(*readings: Reading, former: tuple[str, ...] = ()) -> tuple[HomeAssistant, Latest]:
    latest = Latest(["gps"])
    for reading in readings:
        latest.see(reading)
    made = HomeAssistant("gw-1", "0.1", "homeassistant", latest, former)
    made.will()
    made.born(LOOK)
    return made, latest


def told(messages: list[Message]) -> dict[str, bytes]:
    return {m.topic: m.payload for m in messages}


def temperature(value: float = 21.5, quality: Quality = Quality.GOOD) -> Reading:
    raw = 400.0 if quality is Quality.SUBSTITUTED else None
    return Reading("gps", "t", "Cel", value, 10**9, quality, raw)


def test_a_sensor_is_announced_and_said() -> None:
    made, _ = speaker(temperature())
    messages = made.due(LOOK, 40)
    assert all(m.retain and m.qos == 1 for m in messages)
    said = told(messages)
    assert list(said) == ["edgewarden/gw-1/status", CONFIG, "edgewarden/gw-1/gps/status", STATE]
    config = json.loads(said[CONFIG])
    assert config["device"]["via_device"] == "edgewarden_gw-1"
    component = config["components"]["t"]
    assert component["unique_id"] == "edgewarden_gw-1_gps_t"
    assert (component["device_class"], component["unit_of_measurement"]) == ("temperature", "°C")
    assert component["platform"] == "sensor"
    assert [a["topic"] for a in component["availability"]] == [
        "edgewarden/gw-1/status", "edgewarden/gw-1/gps/status", STATE,
    ]  # fmt: skip
    assert component["availability_mode"] == "all"
    assert json.loads(said[STATE]) == {
        "value": 21.5, "quality": "good", "unit": "Cel", "seen_utc": "2023-11-14T22:13:19Z",
    }  # fmt: skip
    assert made.will() == Message("edgewarden/gw-1/status", b"offline")


@pytest.mark.parametrize("quality", list(Quality))
def test_a_value_that_is_not_believed_is_not_available(quality: Quality) -> None:
    made, _ = speaker(temperature(quality=quality))
    said = told(made.due(LOOK, 40))
    assert json.loads(said[STATE])["quality"] == quality
    template = json.loads(said[CONFIG])["components"]["t"]["availability"][2]["value_template"]
    believed = re.findall(r"'(\w+)'", template.partition("[")[2].partition("]")[0])
    assert (quality in believed) == (quality in (Quality.GOOD, Quality.STALE))


def test_what_was_measured_stands_beside_a_substitute() -> None:
    made, _ = speaker(temperature(quality=Quality.SUBSTITUTED))
    assert json.loads(told(made.due(LOOK, 40))[STATE])["measured"] == 400.0


def test_only_what_changed_is_said_and_a_new_channel_announces_again() -> None:
    made, latest = speaker(temperature())
    made.due(LOOK, 40)
    assert made.due(LOOK, 40) == []
    latest.see(temperature(22.0))
    assert list(told(made.due(LOOK, 40))) == [STATE]
    latest.see(Reading("gps", "fix", "", True, 10**9))
    said = told(made.due(LOOK, 40))
    assert set(json.loads(said[CONFIG])["components"]) == {"t", "fix"}
    assert json.loads(said[CONFIG])["components"]["fix"]["platform"] == "binary_sensor"


def test_a_sensor_that_is_not_heard_is_offline() -> None:
    made, _ = speaker(temperature())
    made.due(LOOK, 40)
    silent = replace(LOOK, alive={"gps": False})
    assert told(made.due(silent, 40)) == {"edgewarden/gw-1/gps/status": b"offline"}
    assert made.due(silent, 40) == []


def test_what_is_gone_is_taken_back_until_that_arrived() -> None:
    made, _ = speaker(temperature(), former=("old",))
    old = "homeassistant/device/edgewarden_gw-1_old/config"
    assert made.kept() == {"sources": ["gps", "old"]}
    first = made.due(LOOK, 40)[0]
    assert (first.topic, first.payload, first.retain) == (old, b"", True)
    made.will()  # the session ended before it arrived
    assert made.kept() == {"sources": ["gps", "old"]}
    made.born(LOOK)
    assert made.due(LOOK, 40)[0].topic == old
    assert made.kept() == {"sources": ["gps"]}


@given(st.integers(1, 7), st.integers(1, 30))
def test_however_few_fit_all_is_said_in_the_end(most: int, channels: int) -> None:
    readings = [Reading("gps", f"c{n}", "", float(n), 1) for n in range(channels)]
    made, latest = speaker(*readings, former=("old", "older"))
    said: list[Message] = []
    while messages := made.due(LOOK, most):
        assert len(messages) <= most
        said += messages
    assert not latest.changed
    assert len(said) == len(told(said)) == 2 + 1 + 1 + 1 + channels


@given(st.text(max_size=80), st.text(max_size=20), st.text(max_size=300))
def test_nothing_from_a_wire_is_part_of_a_topic_or_a_template(
    name: str, unit: str, value: str
) -> None:
    plain, _ = speaker(Reading("gps", "t", "", "x", 1))
    made, _ = speaker(Reading("gps", name, unit, value, 1))
    usual, messages = plain.due(LOOK, 40), made.due(LOOK, 40)
    assert len(usual) == len(messages)
    assert all(re.fullmatch(r"[A-Za-z0-9_/-]+", m.topic) for m in messages)
    (one,) = json.loads(usual[1].payload)["components"].values()
    (other,) = json.loads(messages[1].payload)["components"].values()
    assert other["value_template"] == one["value_template"]
    templates = [[a.get("value_template") for a in c["availability"]] for c in (one, other)]
    assert templates[0] == templates[1]


def test_a_unit_that_home_assistant_does_not_know_gives_no_class() -> None:
    made, _ = speaker(Reading("gps", "t", "furlong", 1.0, 1))
    component = json.loads(told(made.due(LOOK, 40))[CONFIG])["components"]["t"]
    assert "furlong" not in UNITS
    assert not {"device_class", "unit_of_measurement"} & set(component)
