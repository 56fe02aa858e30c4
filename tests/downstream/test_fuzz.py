"""Whatever bytes come: taken, waited for, or refused by a name; nothing else is raised."""

from __future__ import annotations

import contextlib
import string

import hypothesis
from hypothesis import strategies as st

from edgewarden.downstream import http, mqtt
from edgewarden.downstream.certificate import public_key_info
from edgewarden.downstream.lineage import decode
from edgewarden.downstream.readings import read_payload
from edgewarden.errors import WireRefusal
from edgewarden.wire.devices import decode_statement, parse_words
from edgewarden.wire.eat import open_token
from tests.downstream.test_certificate import GOOD
from tests.downstream.test_device_evidence import HONEST, STATED, eat
from tests.downstream.test_http import CURL
from tests.downstream.test_mqtt import TAKEN

SEEDS = [GOOD, eat(), HONEST.evidence, CURL, *(data for data, _, _ in TAKEN)]
assert STATED


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Something that was right, with bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@hypothesis.given(st.one_of(st.binary(max_size=300), mutated()))
@hypothesis.settings(max_examples=400)
def test_bytes(data: bytes) -> None:
    for read in (open_token, decode_statement, parse_words, decode, public_key_info):
        with contextlib.suppress(WireRefusal):
            read(data)
    with contextlib.suppress(WireRefusal):
        http.parse_head(data + http.END)
    for topic in ("", "a/b"):
        with contextlib.suppress(WireRefusal):
            read_payload(data, topic)
    for version in (0, 4, 5):
        with contextlib.suppress(WireRefusal):
            rest, seen = data, version
            while True:
                packet, left = mqtt.take(rest, seen)
                if packet is None:
                    break
                assert len(left) < len(rest)
                rest, seen = left, packet.version or seen


@hypothesis.given(st.text(string.printable, max_size=200))
def test_heads(text: str) -> None:
    for first in ("GET /nonce HTTP/1.1\r\n", "POST /readings HTTP/1.1\r\n", ""):
        with contextlib.suppress(http.Refused):
            head = http.parse_head(first.encode() + text.encode() + http.END)
            assert 0 <= head.length <= http.MAX_BODY_BYTES
