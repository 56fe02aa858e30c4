"""The life of an edge node: numbers, births, deaths, and the one command that is honoured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.mirror.latest import Latest
from edgewarden.mirror.messages import Look, Message
from edgewarden.mirror.protobuf import field, fields, varint
from edgewarden.mirror.sparkplug import MAX_COMMAND_BYTES, EdgeNode, asks_for_rebirth, metric_name
from edgewarden.wire.facts import Reading

LOOK = Look(2 * 10**9, 1_700_000_000 * 10**9, {"gps": True, "co2": True})
SILENT = replace(LOOK, alive={"gps": False, "co2": True})
NCMD = "spBv1.0/plant/NCMD/gw-1"


def rebirth(name: str = "Node Control/Rebirth", value: bool = True) -> bytes:
    return field(1, 1) + field(2, field(1, name) + field(4, 11) + field(14, value))


def node() -> tuple[EdgeNode, Latest]:
    latest = Latest(["gps", "co2"])
    latest.see(Reading("gps", "t", "Cel", 1.0, 1))
    made = EdgeNode("plant", "gw-1", latest)
    made.will()
    made.born(LOOK)
    return made, latest


def kinds(messages: list[Message]) -> list[str]:
    return ["/".join((m.topic.split("/")[2], *m.topic.split("/")[4:])) for m in messages]


def seq(message: Message) -> object:
    return dict(fields(message.payload)).get(3)


def test_births_come_first_then_what_changed() -> None:
    made, latest = node()
    assert kinds(made.due(LOOK, 40)) == ["NBIRTH", "DBIRTH/gps"]
    assert made.due(LOOK, 40) == []
    latest.see(Reading("gps", "t", "Cel", 2.0, 1))
    latest.see(Reading("co2", "ppm", "", 400.0, 1))
    assert kinds(made.due(LOOK, 40)) == ["DDATA/gps", "DBIRTH/co2"]
    latest.see(Reading("gps", "fix", "", True, 1))
    assert kinds(made.due(LOOK, 40)) == ["DBIRTH/gps"]


def test_a_device_dies_and_is_born_again() -> None:
    made, latest = node()
    made.due(LOOK, 40)
    assert kinds(made.due(SILENT, 40)) == ["DDEATH/gps"]
    latest.see(Reading("gps", "t", "Cel", 2.0, 1))
    assert made.due(SILENT, 40) == []
    assert kinds(made.due(LOOK, 40)) == ["DBIRTH/gps"]


def test_a_new_metric_of_the_node_is_a_birth_of_everything() -> None:
    made, latest = node()
    made.due(LOOK, 40)
    latest.report({"verdict": "ok"}, 1)
    assert kinds(made.due(LOOK, 40)) == ["NBIRTH", "DBIRTH/gps"]
    latest.report({"verdict": "failing"}, 1)
    assert kinds(made.due(LOOK, 40)) == ["NDATA"]


def test_the_numbers_go_round() -> None:
    made, latest = node()
    said = made.due(LOOK, 40)
    for n in range(600):
        latest.see(Reading("gps", "t", "Cel", float(n), 1))
        said += made.due(LOOK, 40)
    assert [seq(m) for m in said] == [n % 256 for n in range(602)]
    assert all(m.qos == 0 and not m.retain for m in said)


def test_each_connection_has_the_next_bd_seq_and_its_birth_says_the_same() -> None:
    latest = Latest([])
    made = EdgeNode("plant", "gw-1", latest, bd_seq=254)
    for expected in (254, 255, 0, 1):
        will = made.will()
        assert (will.topic, will.qos, will.retain) == ("spBv1.0/plant/NDEATH/gw-1", 1, False)
        made.born(LOOK)
        (birth,) = made.due(LOOK, 40)
        for message in (will, birth):
            metric = next(v for number, v in fields(message.payload) if number == 2)
            assert isinstance(metric, bytes)
            assert dict(fields(metric))[11] == expected
    assert made.kept() == {"bd_seq": 2}


def test_a_rebirth_is_honoured_once_a_look() -> None:
    made, _ = node()
    made.due(LOOK, 40)
    for _ in range(3):
        made.heard(NCMD, rebirth())
    assert kinds(made.due(LOOK, 40)) == ["NBIRTH", "DBIRTH/gps"]
    assert made.due(LOOK, 40) == []
    assert (made.rebirths, made.refused) == (3, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        rebirth(value=False),
        rebirth("Node Control/Reboot"),
        rebirth("Node Control/Next Server"),
        rebirth() + rebirth("Node Control/Reboot"),
        rebirth()[:-1],
        rebirth() + field(5, b"x" * MAX_COMMAND_BYTES),
        b"\xff" * 20,
        b"\x0b",
    ],
)
def test_nothing_else_is_commanded(payload: bytes) -> None:
    made, _ = node()
    made.due(LOOK, 40)
    made.heard(NCMD, payload)
    assert made.due(LOOK, 40) == []
    assert made.refused == 1


def test_another_topic_is_refused() -> None:
    made, _ = node()
    made.due(LOOK, 40)
    made.heard("spBv1.0/plant/DCMD/gw-1/gps", rebirth())
    assert (made.due(LOOK, 40), made.refused) == ([], 1)


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_rebirth_or_refused(payload: bytes) -> None:
    made, _ = node()
    made.heard(NCMD, payload)
    assert made.rebirths + made.refused == 1
    assert made.rebirths == 0 or asks_for_rebirth(payload)


@given(st.integers(0, 2**64 - 1))
def test_a_number_comes_back(number: int) -> None:
    assert list(fields(field(5, number))) == [(5, number)]
    assert len(varint(number)) <= 10


@given(st.binary(max_size=300), st.integers(1, 2**29 - 1))
def test_bytes_come_back(data: bytes, number: int) -> None:
    assert list(fields(field(number, data))) == [(number, data)]


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100))
def test_names_of_metrics_stay_apart(one: str, other: str) -> None:
    assert "/" not in metric_name(("gps", one))
    assert (metric_name(("gps", one)) == metric_name(("gps", other))) == (one == other)
