"""A device's payload: what becomes a reading, and each refusal by its name."""

from __future__ import annotations

import pytest

from edgewarden.downstream.readings import MAX_PAYLOAD_BYTES, Values, read_payload
from edgewarden.errors import WireRefusal

TAKEN: list[tuple[bytes, str, Values]] = [
    (b'{"temperature": 21.5, "open": true, "state": "idle"}', "",
     {"temperature": 21.5, "open": True, "state": "idle"}),
    (b"21.5", "hall/press-1/temperature", {"temperature": 21.5}),
    (b"false", "open", {"open": False}),
    (b'"idle"', "state", {"state": "idle"}),
    (b'{"a": null}', "", {}),
    (b"null", "a", {}),
    (b"{}", "", {}),
    (b"9007199254740992", "a", {"a": 9007199254740992}),
    (b'"' + b"x" * 256 + b'"', "a", {"a": "x" * 256}),
    (b'{"' + b"n" * 64 + b'": 1}', "", {"n" * 64: 1}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "topic", "values"), TAKEN)
def test_what_is_taken(data: bytes, topic: str, values: Values) -> None:
    assert read_payload(data, topic) == values


MANY = b"{" + b",".join(b'"n%d": 1' % i for i in range(65)) + b"}"
REFUSED: list[tuple[bytes, str, str]] = [
    (b" " * (MAX_PAYLOAD_BYTES + 1), "a", "payload_too_long"),
    (b"\xff", "a", "not_utf8"),
    (b"", "a", "not_json"),
    (b"hello", "a", "not_json"),
    (b"[" * 4000, "a", "not_json"),
    (b"21.5 22", "a", "not_json"),
    (b'{"a": 1, "a": 2}', "", "duplicate_key"),
    (b"NaN", "a", "bad_number"),
    (b'{"a": -Infinity}', "", "bad_number"),
    (b"1e999", "a", "bad_number"),
    (b"9007199254740993", "a", "bad_number"),
    (b"-9007199254740993", "a", "bad_number"),
    (b"1" * 4000, "a", "bad_number"),
    (b"21.5", "", "bad_value"),
    (b"[1]", "", "bad_value"),
    (b"[1]", "a", "bad_value"),
    (b'{"a": {"b": 1}}', "", "bad_value"),
    (MANY, "", "too_many_values"),
    (b'{"a b": 1}', "", "bad_name"),
    (b'{"": 1}', "", "bad_name"),
    (b'{"' + b"n" * 65 + b'": 1}', "", "bad_name"),
    (b"1", "a/", "bad_name"),
    (b"1", "$SYS", "bad_name"),
    (b'"' + b"x" * 257 + b'"', "a", "bad_text"),
    (b'"\\u001b[2J"', "a", "bad_text"),
    (b'"\\ud800"', "a", "bad_text"),
]


@pytest.mark.parametrize(("data", "topic", "name"), REFUSED)
def test_what_is_refused(data: bytes, topic: str, name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        read_payload(data, topic)
    assert refused.value.name == name
