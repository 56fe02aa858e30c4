"""The verifier's word on the wire: what of a chain in memory it can say, and what is refused."""

from __future__ import annotations

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.wire import cbor
from edgewarden.wire.acknowledgement import (
    MAX_ACKNOWLEDGEMENT_BYTES,
    MAX_RUNS,
    Acknowledgement,
    InMemory,
    Run,
    Upto,
    decode_acknowledgement,
    encode_acknowledgement,
)
from edgewarden.wire.cose import ContentType, seal
from edgewarden.wire.record import MAX_SEQ, RecordClass
from tests.wire import samples

KID, H = bytes(8), bytes(32)


def test_it_comes_back_as_it_was() -> None:
    said = samples.ACKNOWLEDGEMENT_IN_MEMORY
    assert decode_acknowledgement(encode_acknowledgement(said)) == said


def test_a_chain_in_memory_alone_is_a_word() -> None:
    said = Acknowledgement("main", "gw-test", {}, InMemory(KID, (Run(1, 1, H),)))
    assert decode_acknowledgement(encode_acknowledgement(said)) == said


def test_the_longest_is_within_its_bound() -> None:
    name = "x" * 63
    runs = tuple(Run(MAX_SEQ - 3 * n, MAX_SEQ - 3 * n + 1, H) for n in range(MAX_RUNS, 0, -1))
    upto = {c: Upto(MAX_SEQ, H, MAX_SEQ) for c in RecordClass}
    payload = encode_acknowledgement(Acknowledgement(name, name, upto, InMemory(KID, runs)))
    signer = samples.VERIFIER
    message = seal(payload, ContentType.ACKNOWLEDGEMENT, signer.kid, signer.sign)
    assert len(message) <= MAX_ACKNOWLEDGEMENT_BYTES
    assert decode_acknowledgement(payload).memory == InMemory(KID, runs)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        [KID],
        [KID, [[1, 1, H]], 0],
        [bytes(7), [[1, 1, H]]],
        ["x" * 8, [[1, 1, H]]],
        [KID, []],
        [KID, {}],
        [KID, [[1, 1]]],
        [KID, [{5: 1, 6: 1, 7: H}]],
        [KID, [[0, 1, H]]],
        [KID, [[2, 1, H]]],
        [KID, [[1, 1, bytes(31)]]],
        [KID, [[True, 1, H]]],
        [KID, [["1", 1, H]]],
        [KID, 1],
        [KID, [[1, 2**53, H]]],
        [KID, [[1, 2, H], [3, 4, H]]],
        [KID, [[5, 6, H], [1, 2, H]]],
        [KID, [[2 * n + 1, 2 * n + 1, H] for n in range(MAX_RUNS + 1)]],
    ],
)
def test_what_is_refused(bad: object) -> None:
    body = cbor.decode(encode_acknowledgement(samples.ACKNOWLEDGEMENT_IN_MEMORY))
    assert isinstance(body, dict)
    with pytest.raises(WireRefusal) as refused:
        decode_acknowledgement(cbor.encode({**body, 4: bad}))
    assert refused.value.name == "bad_acknowledgement"


@pytest.mark.parametrize(
    "bad",
    [
        {}, [], {7: [1, H, 1]}, {3: None}, {3: {}}, {3: [1, H]}, {3: [1, H, 1, 0]},
        {3: [0, H, 1]}, {3: [True, H, 1]}, {3: [1, H, 2**53]}, {3: [1, bytes(31), 1]},
        {3: [1, "h" * 32, 1]}, {3: [2, H, 1]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_class_that_is_refused(bad: object) -> None:
    body = cbor.decode(encode_acknowledgement(samples.ACKNOWLEDGEMENT))
    assert isinstance(body, dict)
    with pytest.raises(WireRefusal) as refused:
        decode_acknowledgement(cbor.encode({**body, 3: bad}))  # type: ignore[dict-item]
    assert refused.value.name == "bad_acknowledgement"
