"""The messages of renewal: what is not exactly one is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.wire import bodies, cbor, renewal
from edgewarden.wire.renewal import Proof, RenewRequest

PROOF = Proof("main", "gw-demo", bytes(32), bytes(range(32)))
REQUEST = RenewRequest("gw-demo", "CSR", b"\x01\x02", b"")
GOOD = {0: 1, 1: "main", 2: "gw-demo", 3: bytes(32), 4: bytes(32)}


def test_what_is_written_is_read() -> None:
    assert renewal.decode_proof(renewal.encode_proof(PROOF)) == PROOF
    assert renewal.parse_renew(renewal.encode_renew(REQUEST)) == REQUEST
    assert renewal.parse_ask(renewal.encode_ask("gw-demo")) == "gw-demo"
    assert renewal.parse_challenge(renewal.encode_challenge(b"\0x")) == b"\0x"


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, 0: 2}, {**GOOD, 0: True}, {**GOOD, 1: "Main"}, {**GOOD, 1: 1},
        {**GOOD, 2: "../x"}, {**GOOD, 2: b"gw"}, {**GOOD, 3: bytes(31)}, {**GOOD, 3: "x" * 32},
        {**GOOD, 4: bytes(33)}, {**GOOD, 4: 7}, {**GOOD, 5: 0}, {0: 1}, [1], 7,
    ],
    ids=repr,
)  # fmt: skip
def test_a_proof_that_is_none(body: object) -> None:
    with pytest.raises(WireRefusal) as refused:
        renewal.decode_proof(cbor.encode(body))
    assert refused.value.name == "renewal_proof"


@pytest.mark.parametrize(
    "change",
    [
        {"device": "../x"}, {"device": 1}, {"csr": None}, {"csr": "half of a pair: \ud800"},
        {"proof": "!"}, {"proof": "AQ"}, {"proof": "AR=="}, {"evidence": 1},
        {"more": 1}, {"schema": "edgewarden.renew/2"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_request_that_is_none(change: dict[str, object]) -> None:
    body = {**json.loads(renewal.encode_renew(REQUEST)), **change}
    with pytest.raises(WireRefusal) as refused:
        renewal.parse_renew(json.dumps(body).encode())
    assert refused.value.name == "bad_request"


@given(st.binary(max_size=300))
def test_nothing_but_a_refusal_comes_of_noise(data: bytes) -> None:
    for read in (renewal.decode_proof, renewal.parse_renew, renewal.parse_ask):
        with pytest.raises(WireRefusal):
            read(data)


def test_a_body_is_bounded_and_names_each_key_once() -> None:
    good = renewal.encode_ask("gw-demo")
    twice = good[:-1] + b',"device":"gw-demo"}'
    with pytest.raises(WireRefusal, match="bad_request: a key stands twice"):
        renewal.parse_ask(twice)
    for data in (b"[1]", b"7", b'"text"', b"{", b"\xff"):
        with pytest.raises(WireRefusal, match="bad_request"):
            renewal.parse_ask(data)
    padded = good + b" " * bodies.MAX_MESSAGE_BYTES
    with pytest.raises(WireRefusal, match="too_long"):
        renewal.parse_ask(padded)
    assert bodies.schema_of(good) == renewal.ASK_SCHEMA
    assert [bodies.schema_of(data) for data in (padded, b"{", b"7", b'{"schema":1}')] == [""] * 4
