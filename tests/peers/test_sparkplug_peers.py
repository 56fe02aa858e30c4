"""Google's protobuf library reads our Sparkplug payloads by the specification's own schema."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.mirror.latest import Latest
from edgewarden.mirror.messages import Look
from edgewarden.mirror.protobuf import field
from edgewarden.mirror.sparkplug import EdgeNode, asks_for_rebirth
from edgewarden.wire.facts import Quality, Reading
from tests.peers.sparkplug_proto import Payload, strictly

LOOK = Look(2 * 10**9, 1_700_000_000 * 10**9, {"gps": True})
INT64, DOUBLE, BOOLEAN, STRING = 4, 10, 11, 12


def node(*readings: Reading) -> EdgeNode:
    latest = Latest(["gps"])
    for reading in readings:
        latest.see(reading)
    made = EdgeNode("plant", "gw-1", latest, bd_seq=255)
    made.will()
    made.born(LOOK)
    return made


def reading(name: str, value: float | str | bool, **more: object) -> Reading:
    return Reading("gps", name, "Cel", value, 10**9, **more)  # type: ignore[arg-type]


def test_births_and_data() -> None:
    latest = Latest(["gps"])
    made = EdgeNode("plant", "gw-1", latest, bd_seq=255)
    will = strictly(made.will().payload)
    assert [(m.name, m.datatype, m.long_value) for m in will.metrics] == [("bdSeq", INT64, 255)]
    assert not will.HasField("seq")
    latest.see(reading("t", 21.5))
    latest.see(reading("on", True, quality=Quality.SUBSTITUTED, raw=False))
    latest.see(reading("id", "ü/x", quality=Quality.STALE))
    node_birth, device_birth = (strictly(m.payload) for m in made.due(LOOK, 40))
    assert (node_birth.seq, device_birth.seq) == (0, 1)
    assert node_birth.timestamp == 1_700_000_000_000
    assert [m.name for m in node_birth.metrics] == ["bdSeq", "Node Control/Rebirth"]
    assert node_birth.metrics[0].long_value == 255
    assert node_birth.metrics[1].HasField("boolean_value")
    assert node_birth.metrics[1].datatype == BOOLEAN
    t, on, name = device_birth.metrics
    assert (t.name, t.datatype, t.double_value) == ("t", DOUBLE, 21.5)
    assert t.timestamp == 1_699_999_999_000
    assert (on.datatype, on.boolean_value, name.datatype) == (BOOLEAN, True, STRING)
    assert name.string_value == "ü/x"
    said = [
        dict(zip(m.properties.keys, m.properties.values, strict=True)) for m in device_birth.metrics
    ]
    assert [p["Quality"].int_value for p in said] == [192, 0, 500]
    assert {p["Quality"].type for p in said} == {3}
    assert [p["ew-quality"].string_value for p in said] == ["good", "substituted", "stale"]
    assert said[0]["engUnit"].string_value == "Cel"
    assert said[1]["ew-measured"].HasField("boolean_value")
    latest.see(reading("t", float("nan")))
    (data,) = (strictly(m.payload) for m in made.due(LOOK, 40))
    (metric,) = data.metrics
    assert (metric.alias, metric.is_null, metric.name) == (t.alias, True, "")
    assert data.seq == 2


@given(st.one_of(st.floats(), st.text(), st.booleans()), st.text(), st.sampled_from(Quality))
def test_whatever_a_sensor_says_is_read(
    value: float | str | bool, name: str, quality: Quality
) -> None:
    raw = value if quality is Quality.SUBSTITUTED else None
    made = node(reading(name, value, quality=quality, raw=raw))
    for message in made.due(LOOK, 40):
        strictly(message.payload)


def test_a_rebirth_of_their_encoder_is_understood() -> None:
    asked = Payload(timestamp=1, seq=7)
    asked.metrics.add(
        name="Node Control/Rebirth", datatype=BOOLEAN, boolean_value=True, timestamp=1
    )
    assert asks_for_rebirth(asked.SerializeToString())
    asked.metrics[0].boolean_value = False
    assert not asks_for_rebirth(asked.SerializeToString())


def test_a_field_that_the_schema_lacks_is_seen() -> None:
    with pytest.raises(ValueError, match="does not have"):
        strictly(field(1, 5) + field(77, "x"))
