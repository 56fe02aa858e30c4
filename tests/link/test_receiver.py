"""What the fleet sends down is bounded before anybody looks at it."""

from __future__ import annotations

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.link.client import MAX_DOWN_BYTES
from edgewarden.link.receiver import Receiver

NONCE, RESULT = "ew/1/main/gw-demo/e/nonce", "ew/1/main/gw-demo/e/result"


def refusing(payload: bytes) -> None:
    raise WireRefusal("bad_signature")


def test_each_topic_has_its_handler() -> None:
    nonces: list[bytes] = []
    results: list[bytes] = []
    receiver = Receiver("main", "gw-demo", nonces.append, results.append)
    assert set(receiver.topics) == {NONCE, RESULT}
    receiver.take(NONCE, b"n")
    receiver.take(RESULT, b"r")
    assert (nonces, results) == ([b"n"], [b"r"])


@pytest.mark.parametrize(
    ("topic", "size", "counted"),
    [
        ("ew/1/main/other/e/nonce", 1, "unknown_topic"),
        ("ew/1/main/gw-demo/e/evidence", 1, "unknown_topic"),
        ("", 1, "unknown_topic"),
        (NONCE, MAX_DOWN_BYTES + 1, "too_long"),
        (NONCE, MAX_DOWN_BYTES, "received"),
    ],
)
def test_the_rest_is_counted_by_name(topic: str, size: int, counted: str) -> None:
    heard: list[bytes] = []
    receiver = Receiver("main", "gw-demo", heard.append, heard.append)
    receiver.take(topic, bytes(size))
    assert receiver.counters == {counted: 1}
    assert len(heard) == (counted == "received")


def test_a_refusal_is_counted_and_goes_no_further() -> None:
    receiver = Receiver("main", "gw-demo", refusing, refusing)
    receiver.take(NONCE, b"forged")
    assert receiver.counters == {"received": 1, "refused": 1}
