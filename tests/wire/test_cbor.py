"""Deterministic CBOR: what is written, what is read, and that nothing else is."""

from __future__ import annotations

import contextlib
import math
import struct
from enum import IntEnum, StrEnum

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.errors import OurFault, WireRefusal
from edgewarden.wire import cbor

# RFC 8949 appendix A, the rows that are values of ours in deterministic form.
APPENDIX_A: list[tuple[object, str]] = [
    (0, "00"), (1, "01"), (10, "0a"), (23, "17"), (24, "1818"), (25, "1819"), (100, "1864"),
    (1000, "1903e8"), (1000000, "1a000f4240"), (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"), (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"), (-10, "29"), (-100, "3863"), (-1000, "3903e7"),
    (0.0, "f90000"), (-0.0, "f98000"), (1.0, "f93c00"), (1.1, "fb3ff199999999999a"),
    (1.5, "f93e00"), (65504.0, "f97bff"), (100000.0, "fa47c35000"),
    (3.4028234663852886e38, "fa7f7fffff"), (1.0e300, "fb7e37e43c8800759c"),
    (5.960464477539063e-8, "f90001"), (0.00006103515625, "f90400"), (-4.0, "f9c400"),
    (-4.1, "fbc010666666666666"), (math.inf, "f97c00"), (math.nan, "f97e00"),
    (-math.inf, "f9fc00"), (False, "f4"), (True, "f5"), (None, "f6"), (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"), ("", "60"), ("a", "6161"), ("IETF", "6449455446"),
    ('"\\', "62225c"), ("\u00fc", "62c3bc"), ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"), ([], "80"), ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"), ({1: 2, 3: 4}, "a201020304"), ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    ({"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
     "a56161614161626142616361436164614461656145"),
]  # fmt: skip
# The rows that are not: bignums, other simple values, tags, indefinite lengths, longer floats.
APPENDIX_A_REFUSED = [
    ("c249010000000000000000", "forbidden_item"), ("c349010000000000000000", "forbidden_item"),
    ("fa7f800000", "not_deterministic"), ("fa7fc00000", "not_deterministic"),
    ("faff800000", "not_deterministic"), ("fb7ff0000000000000", "not_deterministic"),
    ("fb7ff8000000000000", "not_deterministic"), ("fbfff0000000000000", "not_deterministic"),
    ("f7", "forbidden_item"), ("f0", "forbidden_item"), ("f8ff", "forbidden_item"),
    ("c074323031332d30332d32315432303a30343a30305a", "forbidden_item"),
    ("c11a514b67b0", "forbidden_item"), ("c1fb41d452d9e8200000", "forbidden_item"),
    ("d74401020304", "forbidden_item"), ("d818456449455446", "forbidden_item"),
    ("d82076687474703a2f2f7777772e6578616d706c652e636f6d", "forbidden_item"),
    ("5f42010243030405ff", "not_deterministic"),
    ("7f657374726561646d696e67ff", "not_deterministic"),
    ("9fff", "not_deterministic"), ("9f018202039f0405ffff", "not_deterministic"),
    ("83018202039f0405ff", "not_deterministic"), ("bf61610161629f0203ffff", "not_deterministic"),
    ("826161bf61626163ff", "not_deterministic"),
]  # fmt: skip

KEYS = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("value", "spelt"), APPENDIX_A, ids=[h for _, h in APPENDIX_A])
def test_appendix_a(value: object, spelt: str) -> None:
    data = bytes.fromhex(spelt)
    assert cbor.encode(value) == data  # type: ignore[arg-type]
    assert repr(cbor.decode(data)) == repr(value)


@pytest.mark.parametrize(("spelt", "name"), APPENDIX_A_REFUSED)
def test_appendix_a_refused(spelt: str, name: str) -> None:
    with pytest.raises(WireRefusal) as caught:
        cbor.decode(bytes.fromhex(spelt))
    assert caught.value.name == name


@settings(deadline=None, max_examples=300)
@given(VALUES)
def test_round_trip(value: object) -> None:
    data = cbor.encode(value)  # type: ignore[arg-type]
    # NaN is not equal to itself: compared are the spelling and what a foreign reader sees.
    assert cbor.encode(cbor.decode(data)) == data  # type: ignore[arg-type]
    assert repr(cbor.decode(data)) == repr(cbor2.loads(data))


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=64))
def test_garbage_is_refused_or_the_one_spelling(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except WireRefusal:
        return
    assert cbor.encode(value) == data  # type: ignore[arg-type]


@settings(deadline=None, max_examples=500)
@given(VALUES, st.data())
def test_one_altered_byte_is_refused_or_another_value(value: object, data: st.DataObject) -> None:
    spelt = bytearray(cbor.encode(value))  # type: ignore[arg-type]
    at = data.draw(st.integers(0, len(spelt) - 1))
    spelt[at] ^= data.draw(st.integers(1, 255))
    try:
        other = cbor.decode(bytes(spelt))
    except WireRefusal:
        return
    assert cbor.encode(other) == bytes(spelt)  # type: ignore[arg-type]


def test_every_half_float_has_its_short_form() -> None:
    """cbor2 5.x spells 2,049 of these longer (every multiple of 32 from 32,768 on)."""
    for pattern in range(1 << 16):
        half = pattern.to_bytes(2, "big")
        (value,) = struct.unpack(">e", half)
        if math.isnan(value):
            assert cbor.encode(value) == b"\xf9\x7e\x00"
            continue
        assert cbor.encode(value) == b"\xf9" + half
        assert cbor.decode(b"\xf9" + half) == value


@settings(deadline=None, max_examples=500)
@given(st.floats(allow_nan=False))
def test_floats_are_as_short_as_their_value_allows(value: float) -> None:
    data = cbor.encode(value)
    (back,) = struct.unpack({3: ">e", 5: ">f", 9: ">d"}[len(data)], data[1:])
    assert repr(back) == repr(value)
    cbor.check(data)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, "64 bits"),
        (-(2**64) - 1, "64 bits"),
        ({1.0: 2}, "map key"),
        ({True: 2}, "map key"),
        ({b"a": 2}, "map key"),
        ({"\udc80": 1, "\\udc80": 2}, "one spelling"),
        (object(), "object"),
        ({1}, "set"),
        (bytearray(1), "bytearray"),
        ("a" * (cbor.MAX_TEXT_BYTES + 1), "text of 32769"),
    ],
)
def test_what_decode_would_refuse_is_not_encoded(value: object, says: str) -> None:
    with pytest.raises(OurFault, match=says):
        cbor.encode(value)  # type: ignore[arg-type]


def test_depth_is_the_same_both_ways() -> None:
    value: object = 0
    for _ in range(cbor.MAX_DEPTH):
        value = [value]
    assert cbor.decode(cbor.encode(value)) == value  # type: ignore[arg-type]
    with pytest.raises(OurFault, match="more than 16"):
        cbor.encode([value])  # type: ignore[list-item]


def test_the_longest_text_survives_every_decoder() -> None:
    """A character across byte 65,536 breaks cbor2 5.6.5; no text of ours comes near."""
    text = "a" * (cbor.MAX_TEXT_BYTES - 2) + "é"
    assert cbor.decode(cbor.encode([text, text, text])) == [text, text, text]


def test_a_name_that_is_not_utf_8_is_escaped() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert cbor.decode(cbor.encode({"path": name})) == {"path": "caf\\udce9"}


def test_kinds_are_written_as_their_plain_values() -> None:
    class Number(IntEnum):
        SEVEN = 7

    class Word(StrEnum):
        X = "x"

    assert cbor.encode({Word.X: Number.SEVEN, Number.SEVEN: (Word.X,)}) == cbor.encode(
        {"x": 7, 7: ["x"]}
    )


def test_keys_stand_in_bytewise_order() -> None:
    """RFC 8949 §4.2.1, where the older length-first rule (§4.2.3) would put -1 before 24."""
    assert cbor.encode({-1: 0, 24: 0, "a": 0, 256: 0}).hex() == "a4" + "181800" + "19010000" + (
        "2000" + "616100"
    )


def test_ten_megabytes_are_refused_unread() -> None:
    class Unread(bytes):
        def __getitem__(self, at: object) -> int:  # type: ignore[override]
            raise AssertionError("a byte was looked at")

    with pytest.raises(WireRefusal) as caught:
        cbor.check(Unread(10 * 1024 * 1024))
    assert caught.value.name == "too_long"


@pytest.mark.parametrize("other", [True, 1.0])
def test_a_key_that_equals_one_of_ours_is_refused_after_it_was_spelt(other: object) -> None:
    """Spelt keys are remembered; True == 1 == 1.0 in a dict, and only one of them is a key."""
    assert cbor.encode({1: 2}) == b"\xa1\x01\x02"
    with pytest.raises(OurFault):
        cbor.encode({other: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("length", [cbor.KEPT_CHARS, cbor.KEPT_CHARS + 1])
def test_keys_that_are_remembered_and_longer_ones_are_spelt_alike(length: int) -> None:
    key = "k" * length
    assert cbor2.loads(cbor.encode({key: 1})) == {key: 1}


def test_keys_of_others_do_not_fill_memory() -> None:
    for n in range(2 * cbor.KEYS_KEPT):
        cbor.encode({f"n{n}": 1, "k" * 100 + str(n): 1})
    assert cbor._spell_key.cache_info().currsize <= cbor.KEYS_KEPT
    before = cbor._spell_key.cache_info().misses
    cbor.encode({"k" * 200: 1})
    assert cbor._spell_key.cache_info().misses == before, "a long key was remembered"


@pytest.mark.parametrize("exponent", [-1074, -149, -126, -24, -14, 0, 15, 127, 1000])
def test_a_float_is_as_short_as_its_last_set_bit_allows(exponent: int) -> None:
    """Of a double whose last bits are set it is known at once that no shorter one holds it."""
    for bits in range(1, 53):
        value = math.ldexp(1 + 2.0**-bits, exponent)
        fits = []
        for form, length in {">e": 3, ">f": 5, ">d": 9}.items():
            with contextlib.suppress(OverflowError):
                if struct.unpack(form, struct.pack(form, value))[0] == value:
                    fits.append(length)
        data = cbor.encode(value)
        assert (len(data), cbor2.loads(data)) == (min(fits), value)


def shortest(value: float) -> bytes:
    """RFC 8949 §4.2.2 by trying: the first form that gives the value back."""
    for initial, form in ((0xF9, ">e"), (0xFA, ">f")):
        try:
            data = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, data)[0] == value:
            return bytes((initial,)) + data
    return b"\xfb" + struct.pack(">d", value)


def test_each_exponent_gets_its_shortest_form_at_both_ends_of_each_fraction() -> None:
    fractions = [0, 1, 1 << 28, 1 << 29, 1 << 41, 1 << 42, 1 << 51]
    fractions += [(1 << 52) - (1 << low) for low in (0, 28, 29, 41, 42)]
    for exponent in range(2047):
        for fraction in fractions:
            for sign in (0, 1 << 63):
                bits = sign | exponent << 52 | fraction
                (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
                assert cbor.spell_float(value) == shortest(value), hex(bits)
