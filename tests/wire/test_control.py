"""The control parser: what is refused, by which name, and that nothing else ever escapes it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgewarden.errors import OurFault, WireRefusal
from edgewarden.wire import control
from edgewarden.wire.control import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    Command,
    Refused,
    Request,
    check_shape,
    encode_answer,
    encode_refusal,
    encode_request,
    parse_answer,
    parse_request,
)

GOOD = b'{"schema":"edgewarden.control/1","command":"status"}\n'


def refusal(line: bytes) -> str:
    with pytest.raises(WireRefusal) as caught:
        parse_request(line)
    return caught.value.name


@pytest.mark.parametrize("command", list(Command))
def test_a_request_survives_the_wire(command: Command) -> None:
    assert parse_request(encode_request(Request(command))) == Request(command)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"", "not_one_line"),
        (GOOD[:-1], "not_one_line"),
        (GOOD + b"\n", "not_one_line"),
        (GOOD + GOOD, "not_one_line"),
        (b"\xff\n", "not_utf8"),
        (b"status\n", "not_json"),
        (b"[" * 3000 + b"\n", "not_json"),
        (b'{"a":' * 500 + b"1" + b"}" * 500 + b"\n", "unknown_schema"),
        (b'{"schema":NaN}\n', "not_json"),
        (b'{"schema":' + b"9" * 4000 + b"}\n", "unknown_schema"),
        (b"[]\n", "not_an_object"),
        (b'"status"\n', "not_an_object"),
        (b"{}\n", "unknown_schema"),
        (GOOD.replace(b"control/1", b"control/2"), "unknown_schema"),
        (GOOD.replace(b"status", b"reboot"), "unknown_command"),
        (GOOD.replace(b'"status"', b"null"), "unknown_command"),
        (GOOD.replace(b'"status"', b'["status"]'), "unknown_command"),
        (GOOD.replace(b"}", b',"force":true}'), "bad_field"),
        (GOOD.replace(b"}", b',"command":"sensors"}'), "duplicate_key"),
        (GOOD.replace(b"}", b" " * MAX_REQUEST_BYTES + b"}"), "too_long"),
    ],
)
def test_what_is_no_request_is_refused_by_name(line: bytes, name: str) -> None:
    assert refusal(line) == name


def outcome(parse: Callable[[], object]) -> str:
    """ "taken", or the name of the refusal; whatever else escapes fails the test."""
    try:
        parse()
    except WireRefusal as refused:
        return refused.name
    return "taken"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_named_refusal(line: bytes) -> None:
    assert outcome(lambda: parse_request(line + b"\n")).isidentifier()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["schema", "command", "device", "sensors", "x"]), inner)
    ),
    max_leaves=10,
)


@given(JSON, st.sampled_from(list(Command)))
def test_any_json_is_a_named_refusal_or_of_its_shape(body: object, command: Command) -> None:
    line = json.dumps(body).encode() + b"\n"
    assert outcome(lambda: parse_answer(line, command)).isidentifier()
    assert outcome(lambda: parse_request(line)).isidentifier()


@given(JSON)
def test_a_schema_alone_is_never_an_answer(body: object) -> None:
    assume("inf" not in repr(body))  # our own side refuses to write one
    named = {"schema": Command.SENSORS.schema, "device": body, "sensors": body}
    name = outcome(lambda: parse_answer(encode_answer(named), Command.SENSORS))
    assert name == "bad_field"


def sensors(**changed: object) -> dict[str, object]:
    sensor = {"state": "live", "readings": 1, "bad_frames": 0, "silent_s": 0.5, **changed}
    return {"schema": "edgewarden.sensors/1", "device": "g", "sensors": {"gps": sensor}}


def test_an_answer_may_have_more_than_its_schema_promises() -> None:
    body = sensors(extra=[1])
    assert parse_answer(encode_answer(body), Command.SENSORS) == body


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"readings": "1"}, "sensors.gps.readings is a str"),
        ({"readings": True}, "sensors.gps.readings is a bool"),
        ({"readings": 1.0}, "sensors.gps.readings is a float"),
        ({"silent_s": True}, "sensors.gps.silent_s is a bool"),
        ({"state": None}, "sensors.gps.state is a NoneType"),
    ],
)
def test_an_answer_of_another_shape_is_refused_with_its_path(
    changed: dict[str, object], path: str
) -> None:
    with pytest.raises(WireRefusal, match=path):
        parse_answer(encode_answer(sensors(**changed)), Command.SENSORS)


def test_missing_parts_are_named() -> None:
    with pytest.raises(WireRefusal, match=r"a\.b is missing"):
        check_shape({"a": {}}, {"a": {"b": int}})
    with pytest.raises(WireRefusal, match=r"l\[1\] is a str"):
        check_shape({"l": [1, "x"]}, {"l": [int]})
    with pytest.raises(WireRefusal, match="l is not a list"):
        check_shape({"l": {}}, {"l": [int]})
    with pytest.raises(WireRefusal, match="answer is not an object"):
        check_shape([], {"l": [int]})


def test_the_answer_to_another_question_is_refused() -> None:
    with pytest.raises(WireRefusal, match="unknown_schema"):
        parse_answer(encode_answer(sensors()), Command.STATUS)


def test_a_refusal_arrives_as_the_server_worded_it() -> None:
    line = encode_refusal("failed", "x" * 2000, "EW-SPL-001", "do this")
    with pytest.raises(Refused) as caught:
        parse_answer(line, Command.STATUS)
    assert caught.value.code == "EW-SPL-001"
    assert caught.value.next_step == "do this"
    assert len(caught.value.text) == 512


@pytest.mark.parametrize(
    "body",
    [{"x": float("nan")}, {"x": b"bytes"}, {"x": "y" * MAX_ANSWER_BYTES}],
    ids=["nan", "bytes", "long"],
)
def test_a_handler_that_breaks_the_promise_is_our_fault(body: dict[str, object]) -> None:
    with pytest.raises(OurFault):
        encode_answer(body)


def test_an_answer_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(WireRefusal, match="too_long"):
        parse_answer(b" " * MAX_ANSWER_BYTES + b"{}\n", Command.STATUS)


def test_surface_is_what_status_promises() -> None:
    """surface.md's fields that this release delivers; changing them is a new schema version."""
    assert isinstance(control.STATUS, dict)
    assert set(control.STATUS) == {
        "device", "version", "verdict", "reasons", "attestation", "identity", "clock", "uplink",
        "spool", "enforcement", "sensors", "config", "footprint",
    }  # fmt: skip
