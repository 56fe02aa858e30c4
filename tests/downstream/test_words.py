"""An operator's words about devices: a file that is read whole or not at all."""

from __future__ import annotations

import json

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.wire.devices import (
    MAX_WORDS,
    MAX_WORDS_BYTES,
    Verb,
    Word,
    encode_words,
    parse_words,
)

RESET = Word(b"1" * 16, Verb.RESET, "press-1", "board replaced", 1_700_000_000)
GOOD = {"id": "31" * 16, "verb": "reset", "device": "press-1", "why": "", "at_utc_s": 5}


def test_what_is_written_is_read() -> None:
    lift = Word(b"2" * 16, Verb.LIFT, "press-1", "", 5)
    assert parse_words(encode_words([RESET, lift])) == [RESET, lift]
    assert parse_words(b"") == []


def test_the_newest_are_kept() -> None:
    many = [Word(n.to_bytes(16, "big"), Verb.LIFT, "a", "", 1) for n in range(MAX_WORDS + 3)]
    assert parse_words(encode_words(many)) == many[3:]


def line(**changed: object) -> bytes:
    return json.dumps({**GOOD, **changed}).encode() + b"\n"


BAD = {
    "too long": b" " * MAX_WORDS_BYTES + line(),
    "cut": line()[:-1],
    "too many": line() * (MAX_WORDS + 1),
    "no json": b"reset press-1\n",
    "no object": b"[]\n",
    "nested": b"[" * 5000 + b"\n",
    "a field more": line(more=1),
    "id": line(id="31"),
    "id is no hex": line(id="zz" * 16),
    "id is no text": line(id=5),
    "verb": line(verb="forget"),
    "device": line(device="Press 1"),
    "device is no text": line(device=5),
    "device is a list": line(device=["a"]),
    "why": line(why=5),
    "why is long": line(why="x" * 201),
    "time": line(at_utc_s="5"),
    "time true": line(at_utc_s=True),
    "time beyond CBOR": line(at_utc_s=1 << 64),
    "time before all": line(at_utc_s=-1),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_refused_whole(name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        parse_words(line() + BAD[name] if len(BAD[name]) < 30_000 else BAD[name])
    assert refused.value.name == "bad_word"
