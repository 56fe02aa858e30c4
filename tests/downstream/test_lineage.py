"""Pins go forward only, and the file of them is believed whole or not at all."""

from __future__ import annotations

import pytest

from edgewarden.downstream.lineage import MAX_FILE_BYTES, Devices, Pinned, decode, encode
from edgewarden.errors import WireRefusal
from edgewarden.wire import cbor
from edgewarden.wire.devices import Verb, Word

A, B = b"a" * 32, b"b" * 32
ONE = Devices().pinned("press-1", A, 100)


def word(verb: Verb, number: int = 1, device: str = "press-1") -> Word:
    return Word(number.to_bytes(16, "big"), verb, device, "board replaced", 5)


def test_a_pin_is_kept_with_its_lineage() -> None:
    assert ONE.known["press-1"] == Pinned(A, 100, 1)
    assert ONE.generation == 1
    assert decode(encode(ONE)) == ONE


def test_a_reset_lets_the_next_key_in_and_the_lineage_grows() -> None:
    reset = ONE.obeyed(word(Verb.RESET))
    assert reset.known["press-1"] == Pinned(b"", 100, 1)
    assert reset.pinned("press-1", B, 200).known["press-1"] == Pinned(B, 200, 2)


def test_a_word_is_carried_out_once() -> None:
    again = ONE.obeyed(word(Verb.RESET)).pinned("press-1", B, 200)
    assert again.obeyed(word(Verb.RESET)) == again


def test_a_lifted_quarantine_leaves_the_key() -> None:
    held = ONE.quarantined("press-1", "two places")
    assert held.known["press-1"].quarantine == "two places"
    assert held.quarantined("press-1", "another") == held
    lifted = held.obeyed(word(Verb.LIFT))
    assert lifted.known["press-1"] == Pinned(A, 100, 1)
    assert held.obeyed(word(Verb.RESET)).known["press-1"].quarantine == ""


def test_a_word_about_nobody_is_remembered_and_does_nothing() -> None:
    done = ONE.obeyed(word(Verb.RESET, device="press-9"))
    assert done.known == ONE.known
    assert (len(done.applied), done.generation) == (1, 2)


ENTRY: list[cbor.Value] = [A, 1, 1, ""]
BAD: dict[str, cbor.Value] = {
    "no map": [],
    "a number": 5,
    "a field more": {0: 1, 1: 1, 2: {}, 3: [], 4: 1},
    "another format": {0: 2, 1: 1, 2: {}, 3: []},
    "generation": {0: 1, 1: -1, 2: {}, 3: []},
    "generation true": {0: 1, 1: True, 2: {}, 3: []},
    "no devices": {0: 1, 1: 1, 2: [], 3: []},
    "no words": {0: 1, 1: 1, 2: {}, 3: {}},
    "word": {0: 1, 1: 1, 2: {}, 3: ["a"]},
    "too many": {0: 1, 1: 1, 2: {f"d{i}": ENTRY for i in range(65)}, 3: []},
    "name": {0: 1, 1: 1, 2: {"Press": ENTRY}, 3: []},
    "number for a name": {0: 1, 1: 1, 2: {7: ENTRY}, 3: []},
    "entry": {0: 1, 1: 1, 2: {"a": [A, 1, 1]}, 3: []},
    "entry is no list": {0: 1, 1: 1, 2: {"a": 5}, 3: []},
    "key": {0: 1, 1: 1, 2: {"a": [b"a", 1, 1, ""]}, 3: []},
    "key is text": {0: 1, 1: 1, 2: {"a": ["", 1, 1, ""]}, 3: []},
    "since": {0: 1, 1: 1, 2: {"a": [A, "1", 1, ""]}, 3: []},
    "lineage": {0: 1, 1: 1, 2: {"a": [A, 1, -1, ""]}, 3: []},
    "quarantine": {0: 1, 1: 1, 2: {"a": [A, 1, 1, b""]}, 3: []},
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_refused(name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        decode(cbor.encode(BAD[name]))
    assert refused.value.name == "bad_pins"


@pytest.mark.parametrize("data", [b"", b"\xff", b"\0" * (MAX_FILE_BYTES + 1)])
def test_what_is_no_file_of_pins_is_refused(data: bytes) -> None:
    with pytest.raises(WireRefusal) as refused:
        decode(data)
    assert refused.value.name == "bad_pins"
