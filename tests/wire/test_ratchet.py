"""The continuity token's forms: what is not exactly one is no token, by name."""

from __future__ import annotations

import hashlib

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.wire import cbor, ratchet
from edgewarden.wire.ratchet import MAX_SLOT_BYTES, Held, Issued, Spent
from edgewarden.wire.record import MAX_SEQ

TOKEN, MARK = b"t" * 32, b"m" * 16
SPENT, ISSUED = [3, TOKEN, MARK], [3, TOKEN]
BODY = {0: 1, 1: "main", 2: "gw-demo", 3: 3, 4: TOKEN, 5: MARK, 6: 9}


def slot(body: object) -> bytes:
    """With a checksum that fits."""
    encoded = cbor.encode(body)  # type: ignore[arg-type]
    checksum = hashlib.sha256(encoded).digest()[:16]
    return len(encoded).to_bytes(2, "big") + encoded + checksum


def test_what_is_written_is_read() -> None:
    spent = Spent(3, TOKEN, MARK)
    assert ratchet.spent_from(ratchet.spent_to_list(spent)) == spent
    issued = Issued(3, TOKEN)
    assert ratchet.issued_from(ratchet.issued_to_list(issued)) == issued
    assert ratchet.issued_to_list(None) is None
    for held in (Held(), Held(3, TOKEN), Held(3, TOKEN, MARK), Held(MAX_SEQ, TOKEN, MARK)):
        data = ratchet.encode_slot("main", "gw-demo", held, 9)
        assert ratchet.decode_slot(data.ljust(4096, b"\0")) == ("main", "gw-demo", held, 9)
    assert slot(BODY) == ratchet.encode_slot("main", "gw-demo", Held(3, TOKEN, MARK), 9)


STEPS = [-1, MAX_SEQ + 1, True, "3", None]
BLOBS = [TOKEN[:-1], TOKEN + b"t", "t" * 32, None]
MARKS = [MARK[:-1], MARK + b"m", "m" * 16]


@pytest.mark.parametrize(
    "value",
    [
        None, {}, SPENT[:2], [*SPENT, 0], *([step, TOKEN, MARK] for step in STEPS),
        *([3, token, MARK] for token in BLOBS), *([3, TOKEN, mark] for mark in (*MARKS, None)),
    ],
)  # fmt: skip
def test_what_is_no_presentation(value: object) -> None:
    assert ratchet.spent_from(SPENT) is not None
    assert ratchet.spent_from(value) is None


@pytest.mark.parametrize(
    "value",
    [
        None, {}, ISSUED[:1], [*ISSUED, 0], [0, TOKEN], *([step, TOKEN] for step in STEPS),
        *([3, token] for token in BLOBS),
    ],
)  # fmt: skip
def test_what_is_no_token_of_a_result(value: object) -> None:
    assert ratchet.issued_from(ISSUED) is not None
    assert ratchet.issued_from(value) is None


@pytest.mark.parametrize(
    "body",
    [
        [1], 7, {key: BODY[key] for key in range(6)}, {**BODY, 7: 0}, {**BODY, 0: 2},
        *({**BODY, key: name} for key in (1, 2) for name in (7, "Main", "../x", "", b"main")),
        *({**BODY, key: step} for key in (3, 6) for step in STEPS),
        *({**BODY, 4: token} for token in BLOBS), *({**BODY, 5: mark} for mark in MARKS),
    ],
    ids=repr,
)  # fmt: skip
def test_a_slot_that_is_none(body: object) -> None:
    with pytest.raises(WireRefusal) as refused:
        ratchet.decode_slot(slot(body))
    assert refused.value.name == "bad_token"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(4096),
        slot(BODY)[:-1],
        slot(BODY)[:-1] + b"\0",
        b"\0\0" + bytes(16),
        b"\0\0" + hashlib.sha256(b"").digest(),
    ],
    ids=["empty", "a byte", "zeros", "cut", "altered", "of nothing", "nothing, rightly"],
)
def test_a_slot_whose_checksum_does_not_fit(data: bytes) -> None:
    with pytest.raises(WireRefusal, match="bad_token: its checksum"):
        ratchet.decode_slot(data)


def test_a_slot_is_no_longer_than_a_sector() -> None:
    longest = slot({**BODY, 1: "a" * 63, 2: "b" * 63, 3: MAX_SEQ, 6: MAX_SEQ})
    assert len(longest) <= MAX_SLOT_BYTES
    with pytest.raises(WireRefusal, match="too_long"):
        ratchet.decode_slot(slot({**BODY, 4: bytes(MAX_SLOT_BYTES)}))
