"""Pins go forward only, and the file of them is believed whole or not at all."""

from __future__ import annotations

import pytest

from edgewarden.downstream.lineage import (
    MAX_FILE_BYTES,
    MAX_RETIRED,
    Devices,
    Pinned,
    Retired,
    decode,
    encode,
)
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
    "a field more, now": {0: 2, 1: 1, 2: {}, 3: [], 4: [], 5: 1},
    "another format": {0: 3, 1: 1, 2: {}, 3: []},
    "another format, all fields": {0: 3, 1: 1, 2: {}, 3: [], 4: []},
    "retired is no list": {0: 2, 1: 1, 2: {}, 3: [], 4: {}},
    "too many retired": {0: 2, 1: 1, 2: {}, 3: [], 4: [["a", A, 1]] * 65},
    "retired entry": {0: 2, 1: 1, 2: {}, 3: [], 4: [["a", A]]},
    "retired entry is no list": {0: 2, 1: 1, 2: {}, 3: [], 4: [5]},
    "retired name": {0: 2, 1: 1, 2: {}, 3: [], 4: [["Press", A, 1]]},
    "retired key": {0: 2, 1: 1, 2: {}, 3: [], 4: [["a", b"a", 1]]},
    "retired lineage": {0: 2, 1: 1, 2: {}, 3: [], 4: [["a", A, -1]]},
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


def test_a_retired_device_frees_its_place_and_its_key_is_remembered() -> None:
    gone = ONE.obeyed(word(Verb.RETIRE))
    assert (gone.known, gone.retired) == ({}, (Retired("press-1", A, 1),))
    assert decode(encode(gone)) == gone
    assert gone.pinned("press-1", B, 9).known["press-1"].lineage == 2
    assert gone.pinned("press-2", B, 9).known["press-2"].lineage == 1


def test_a_reset_forgives_a_retired_key_and_no_other() -> None:
    both = ONE.pinned("press-2", B, 1)
    for number, name in enumerate(("press-1", "press-2"), 1):
        both = both.obeyed(word(Verb.RETIRE, number, name))
    after = both.obeyed(word(Verb.RESET, 3))
    assert after.retired == (Retired("press-1", b"", 1), Retired("press-2", B, 1))
    assert both.obeyed(word(Verb.LIFT, 3)).retired == both.retired


def test_retired_devices_are_bounded_and_the_file_holds_all() -> None:
    devices = Devices()
    for i in range(3 * MAX_RETIRED):
        name = f"{i:024d}"
        devices = devices.pinned(name, A, 2**40).quarantined(name, "\u20ac" * 200)
        devices = devices.obeyed(word(Verb.RETIRE, i, name)) if i >= 64 else devices
    for i in range(64):
        devices = devices.obeyed(word(Verb.LIFT, 1000 + i, f"{i:024d}"))
        devices = devices.quarantined(f"{i:024d}", "\u20ac" * 200)
    assert (len(devices.retired), len(devices.known)) == (MAX_RETIRED, 64)
    assert decode(encode(devices)) == devices


def test_the_former_file_is_read() -> None:
    assert decode(cbor.encode({0: 1, 1: 7, 2: {"a": ENTRY}, 3: []})).generation == 7
