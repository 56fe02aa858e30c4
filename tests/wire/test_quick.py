"""What is read quickly is read as the rules say: each short way against a plain reading.

A short way that took more than the plain one would be a hole without a refusal to its name, so
none is trusted: the CBOR walk against plain_cbor.py, shapes against the walk, TPM structures and
keys that are read at once against the same field by field. Each with what is well-formed and with
the same bytes altered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.wire import cbor, cose, evidence, quoted, spelling, tpm
from edgewarden.wire.record import is_identifier
from edgewarden.wire.spelling import NULL, TEXT, UINT, Shape, array, blob, either, every_of, some_of
from tests.wire import plain_cbor, samples
from tests.wire.tpm_vectors import QUOTE, RECORDED

HEADS = (
    0x00, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1F, 0x20, 0x38, 0x39, 0x3A, 0x40, 0x57, 0x58, 0x59,
    0x5F, 0x60, 0x61, 0x77, 0x78, 0x79, 0x7F, 0x80, 0x98, 0x9F, 0xA0, 0xA1, 0xB8, 0xC1, 0xDB, 0xF4,
    0xF6, 0xF7, 0xF8, 0xF9, 0xFA, 0xFB, 0xFF,
)  # fmt: skip
"""Initial bytes where a reader changes its mind."""


def altered(chance: Random, good: bytes) -> bytes:
    """Good bytes with up to three of them changed, put in, left out, or all behind one."""
    data = bytearray(good)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        byte = bytes([chance.choice((chance.choice(HEADS), chance.randrange(256)))])
        what = chance.randrange(9)
        if what < 5:
            data[at : at + 1] = byte
        elif what < 7:
            data[at:at] = byte
        elif what == 7:
            del data[at : at + chance.randrange(1, 4)]
        else:
            del data[at:]
    return bytes(data)


def some(seed: int, count: int, good: Callable[[Random], bytes]) -> Iterator[bytes]:
    """So many alterations, the same in every run."""
    chance = Random(seed)
    return (altered(chance, good(chance)) for _ in range(count))


def outcome(read: Callable[[bytes], object], data: bytes) -> str:
    try:
        return repr(read(data))
    except WireRefusal as refusal:
        return str(refusal)


# --- the walk ----------------------------------------------------------------------------------


def number(chance: Random) -> int:
    least = chance.choice((0, 1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63))
    return chance.choice((least, least + chance.randrange(300), -1 - least))


def value(chance: Random, depth: int = 0) -> object:
    kind = chance.randrange(10 if depth < 4 else 6)
    length = chance.choice((0, 1, 2, 5, 22, 23, 24, 40, 255, 256, 300))
    if kind < 2:
        return chance.choice((None, True, False, 0.5, 1.1, 1e300, 100000.0, float("nan")))
    if kind < 4:
        return number(chance)
    if kind == 4:
        return "".join(chance.choice("abc\u00fc\u6c34\U00010151 ") for _ in range(length))
    if kind == 5:
        return chance.randbytes(length)
    count = chance.choice((0, 1, 2, 3, 23, 24, 26)) if depth < 2 else chance.randrange(4)
    if kind < 8:
        return [value(chance, depth + 1) for _ in range(count)]
    return {
        chance.choice((number(chance), f"k{number(chance)}", "\u00fc")): value(chance, depth + 1)
        for _ in range(count)
    }


def spelt(chance: Random) -> bytes:
    return cbor.encode(value(chance))  # type: ignore[arg-type]


ODD = (
    "a1405f", "a142", "a161c3", "a2613161610061", "a200000000", "a201000000", "a2616200616100",
    "a1190000f6", "190001", "1900", "1a0000ffff", "1a00ffff", "390001", "3a0000ffff", "d818",
    "f818", "a1f6", "a1f500", "a1f7", "a18000", "a1c0", "a11817",
    "a2181861a018185f", "a2616100616100", "5817" + 23 * "00",
    "590017" + 23 * "00", "5a00000100" + 256 * "00", "7817" + 23 * "00", "9817" + 23 * "00",
    17 * "81" + "00", 17 * "a100" + "00",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_bytes_are_called_the_same(text: str) -> None:
    data = bytes.fromhex(text)
    assert outcome(cbor.check, data) == outcome(plain_cbor.check, data)


def test_the_walk_says_what_the_plain_reading_says() -> None:
    said = set()
    for data in some(1, 12_000, spelt):
        found = outcome(cbor.check, data)
        assert found == outcome(plain_cbor.check, data), data.hex()
        said.add(found.partition(":")[0])
    assert said >= {
        "None", "truncated", "not_deterministic", "forbidden_item", "bad_text", "duplicate_key",
        "trailing_bytes",
    }  # fmt: skip


def test_garbage_is_called_the_same() -> None:
    chance = Random(2)
    for _ in range(20_000):
        data = bytes(chance.choice(HEADS) for _ in range(chance.randrange(16)))
        assert outcome(cbor.check, data) == outcome(plain_cbor.check, data), data.hex()


# --- shapes ------------------------------------------------------------------------------------


@cache
def shape() -> Shape:
    return Shape(
        every_of(
            {
                1: UINT,
                2: some_of({"a": TEXT, "bb": either(NULL, blob(0), blob(24)), "b": UINT}),
                300: array(UINT, blob(2)),
                -1: some_of({1: UINT, 2: UINT}),
            }
        )
    )  # fmt: skip


def shaped(chance: Random) -> bytes:
    some_texts = ("", "a", "ab", "\0\x7f", "b" * 23)
    may: dict[str, object] = {
        "a": chance.choice(some_texts),
        "bb": chance.choice((None, b"", bytes(24))),
        "b": abs(number(chance)),
    }
    numbers = {n: abs(number(chance)) for n in (1, 2)}
    return cbor.encode(
        {
            1: abs(number(chance)),
            2: {name: may[name] for name in may if chance.randrange(2)},
            300: [abs(number(chance)), b"ab"],
            -1: {n: numbers[n] for n in numbers if chance.randrange(2)},
        }
    )  # type: ignore[arg-type]


def test_a_shape_knows_its_own() -> None:
    chance = Random(3)
    assert all(shape().fits(shaped(chance)) for _ in range(2_000))


def test_a_shape_takes_nothing_that_the_walk_refuses() -> None:
    taken = 0
    for data in some(4, 30_000, shaped):
        if shape().fits(data):
            cbor.check(data)
            taken += 1
    assert taken > 5_000


CLAIMS = evidence.encode_evidence(samples.EVIDENCE)


def test_usual_claims_are_known_by_their_shape() -> None:
    assert evidence._usual().fits(CLAIMS)


def test_claims_are_read_alike_with_their_shape_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = list(some(5, 4_000, lambda chance: CLAIMS))
    found = [outcome(evidence.decode_evidence, data) for data in claims]
    monkeypatch.setattr(evidence, "_usual", lambda: Shape(b"(?!)"))
    assert found == [outcome(evidence.decode_evidence, data) for data in claims]


def test_every_byte_of_claims_is_looked_at() -> None:
    """Each byte, each value: a shape says yes to what the walk says yes to, and to no other."""
    for at in range(len(CLAIMS)):
        for value in {*HEADS, CLAIMS[at] ^ 1, CLAIMS[at] ^ 0x80, CLAIMS[at] ^ 0x20}:
            data = CLAIMS[:at] + bytes([value]) + CLAIMS[at + 1 :]
            if evidence._usual().fits(data):
                cbor.check(data)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_map_has_as_many_entries_as_its_head_says(more: int) -> None:
    """Also where the next map has one too few: what is counted is each."""
    short = cbor.encode({1: 7, 2: {"a": ""}, 300: [7, b"ab"], -1: {1: 7}})
    assert shape().fits(short)
    first, second = short.index(b"\xa1\x61a"), short.rindex(b"\xa1\x01")
    data = bytearray(short)
    data[first] += more
    assert not shape().fits(bytes(data))
    data[second] -= more
    assert not shape().fits(bytes(data))


def payload(chance: Random) -> bytes:
    whole = quoted.whole(QUOTE)
    word = chance.choice((None, whole, quoted.shortened(whole, whole)))
    return quoted.encode_payload(chance.choice((CLAIMS, bytes(255), bytes(256))), word)


def envelope(chance: Random) -> bytes:
    sizes = (0, 23, 24, 255, 256, 257, 1000)
    parts = [bytes(chance.choice(sizes)) for _ in range(2)]
    return cbor.encode([parts[0], {}, parts[1], bytes(64)])


@pytest.mark.parametrize(
    ("fits", "good", "least"), [(quoted._fits, payload, 900), (cose._fits, envelope, 200)]
)
def test_outer_shapes_take_nothing_that_the_walk_refuses(
    fits: Callable[[bytes], bool], good: Callable[[Random], bytes], least: int
) -> None:
    taken = 0
    for data in some(8, 8_000, good):
        if fits(data):
            cbor.check(data)
            taken += 1
    assert taken > least


def test_a_length_that_fits_in_fewer_bytes_is_no_usual_one() -> None:
    long = b"\x59\x00\x05" + bytes(5)
    usual = b"\x59\x01\x00" + bytes(256)
    assert not quoted._fits(b"\x82" + long + b"\xf6")
    assert quoted._fits(b"\x82" + usual + b"\xf6")
    last = b"\x58\x40" + bytes(64)
    assert not cose._fits(b"\x84" + long + b"\xa0" + usual + last)
    assert not cose._fits(b"\x84" + usual + b"\xa0" + long + last)
    assert cose._fits(b"\x84" + usual + b"\xa0" + usual + last)


@pytest.mark.parametrize("cut", range(1, 12))
def test_outer_shapes_look_at_each_byte_of_a_head(cut: int) -> None:
    """Each byte between the strings, with each value of a head in its place."""
    chance = Random(cut)
    for good, fits in ((payload, quoted._fits), (envelope, cose._fits)):
        for _ in range(40):
            data = bytearray(good(chance))
            places = [0, 1, 2, 3, len(data) - 1, len(data) - 66, len(data) - 67]
            places += [at for at in range(len(data)) if data[at] in (0xA0, 0x59, 0x84, 0x58)]
            data[chance.choice(places)] = chance.choice(HEADS)
            if fits(bytes(data)):
                cbor.check(bytes(data))


def test_what_is_too_long_is_not_shown_to_a_shape() -> None:
    with pytest.raises(WireRefusal, match="too_long"):
        cbor.decode(bytes(3), 2, lambda data: True)


def test_the_longest_text_of_a_part() -> None:
    part = Shape(spelling.text(30))
    assert part.fits(cbor.encode("a" * 30))
    assert not part.fits(cbor.encode("a" * 31))
    assert not part.fits(cbor.encode("\u00fc"))


# --- TPM structures, keys, names ---------------------------------------------------------------

QUOTES = (QUOTE.quote, RECORDED["quote_of_two_banks"], QUOTE.certify)
SIGNATURES = (QUOTE.quote_signature, RECORDED["rsa_quote_signature"])


def test_ours_are_read_at_once() -> None:
    assert tpm._quote_at_once(QUOTE.quote) is not None
    assert tpm.parse_signature(QUOTE.quote_signature).scheme is tpm.Alg.ECDSA


@pytest.mark.parametrize(
    ("parse", "recorded"),
    [(tpm.parse_quote, QUOTES), (tpm.parse_signature, SIGNATURES)],
    ids=["quote", "signature"],
)
def test_structures_are_read_alike_at_once_and_by_field(
    parse: Callable[[bytes], object], recorded: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Altered by chance, and each byte of ours in four ways."""
    ours = recorded[0]
    data = list(some(6, 6_000, lambda chance: chance.choice(recorded)))
    data += [
        ours[:at] + bytes([ours[at] ^ bit]) + ours[at + 1 :]
        for at in range(len(ours))
        for bit in (1, 2, 0x20, 0x80)
    ]
    found = [outcome(parse, one) for one in data]
    monkeypatch.setattr(tpm, "_quote_at_once", lambda data: None)
    monkeypatch.setattr(tpm, "_ECDSA", b"")
    assert found == [outcome(parse, one) for one in data]


def plain_key(data: bytes) -> tuple[bytes, bytes] | None:
    """The coordinates, where the bytes are exactly the four parameters of RFC 9679."""
    try:
        key = cbor.decode(data, 256)
    except WireRefusal:
        return None
    if not isinstance(key, dict) or set(key) != {1, -1, -2, -3} or (key[1], key[-1]) != (2, 1):
        return None
    x, y = key[-2], key[-3]
    if not (isinstance(x, bytes) and isinstance(y, bytes) and len(x) == len(y) == 32):
        return None
    return (x, y) if type(key[1]) is type(key[-1]) is int else None


def test_keys_are_read_as_the_plain_reading_reads_them() -> None:
    for data in some(7, 6_000, lambda chance: cose.encode_key(chance.randbytes(32), bytes(32))):
        try:
            found = cose.decode_key(data)
        except WireRefusal:
            found = None
        assert found == plain_key(data), data.hex()


COORDINATE = st.binary(min_size=32, max_size=32)


@given(COORDINATE, COORDINATE, st.binary(max_size=300), st.binary(max_size=300))
def test_what_is_spelt_directly_is_what_the_encoder_spells(
    x: bytes, y: bytes, protected: bytes, payload: bytes
) -> None:
    assert cose.encode_key(x, y) == cbor.encode({1: 2, -1: 1, -2: x, -3: y})
    envelope = cose.Envelope(cose.ContentType.RECORD, bytes(8), (), payload, bytes(64), protected)
    assert envelope.signed_bytes() == cbor.encode(["Signature1", protected, b"", payload])


@settings(deadline=None, max_examples=500)
@given(st.text("az09-A_.\u00fc\n ", max_size=70) | st.text("ab-", min_size=60, max_size=66))
def test_identifiers(text: str) -> None:
    assert is_identifier(text) is bool(re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", text))
