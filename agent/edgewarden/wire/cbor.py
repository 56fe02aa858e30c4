"""Deterministic CBOR in and out: one accepted spelling for every value.

Decides whether bytes are CBOR as RFC 8949 §4.2.1 (core deterministic encoding) spells it, and
nothing else, before a decoder builds the first object. cbor2 only builds; it is not the gate and
not the encoder, because what it lets through and what it writes differ by version. Measured on
5.6.5, 5.9.0 and 6.3.0: all three ignore trailing bytes, keep the last of two equal map keys and
compile tag 35 as a regular expression; 5.6.5 ends 100,000 nested arrays in a RecursionError and
fails on a character that straddles byte 65,536 of a text; 5.6.5 and 5.9.0 spell 40000.0 in five
bytes instead of three.

The rules, in the order they are checked, each with the refusal's name:

1. at most ``max_bytes`` long                                          ``too_long``
2. every head complete and every string inside the input               ``truncated``
3. integers, lengths and floats in their shortest form, definite only  ``not_deterministic``
4. no tag, no undefined, no simple value but false, true, null         ``forbidden_item``
5. text of at most MAX_TEXT_BYTES                                      ``too_long``
6. text is UTF-8                                                       ``bad_text``
7. map keys strictly ascending, bytewise          ``duplicate_key`` or ``not_deterministic``
8. at most MAX_DEPTH containers inside each other                      ``too_deep``
9. nothing behind the value                                            ``trailing_bytes``

Values: None, bool, int (64 bit), float, str, bytes, list, dict with int or str keys.

    decode(encode({1: "a"})) == {1: "a"}
    decode(b"\\x18\\x01")  # WireRefusal: not_deterministic
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import cbor2

from edgewarden.errors import OurFault, WireRefusal

MAX_DEPTH = 16
"""Containers inside each other. Our deepest message (a batch of events) uses 7."""

MAX_BYTES = 256 * 1024
"""Default length limit: a bulk commit is cut at 64 kB, the broker's packet limit is 256 kB."""

MAX_TEXT_BYTES = 32 * 1024
"""One text. The longest of ours (a command line) is 4 kB; cbor2 5.6.5 breaks texts at 64 kB."""

Value = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | Sequence["Value"]
    | Mapping[int, "Value"]
    | Mapping[str, "Value"]
    | Mapping[int | str, "Value"]
)
"""What encode takes."""


class Spelt(bytes):
    """The deterministic encoding of one value, which ``encode`` puts in the value's place.

    For what is made in great numbers of like parts (burst.spell_readings). Whoever makes one
    vouches for it: by ``encode``, ``spell_float`` and ``spell_array``, never from bytes that came
    in.
    """

    __slots__ = ()


# RFC 8949 §3.1: major types.
_UINT, _NINT, _BSTR, _TSTR, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SHORT = [bytes((initial,)) for initial in range(256)]
_DOUBLE, _SINGLE, _HALF = struct.Struct(">d"), struct.Struct(">Bf"), struct.Struct(">Be")
_BEHIND_SINGLE, _BEHIND_HALF = (1 << 29) - 1, (1 << 42) - 1
"""Of the 52 bits of a double's fraction a single has the first 23, a half the first 10."""
_HALF_FROM, _HALF_TO, _SINGLE_TO = 1023 - 14, 1023 + 15, 1023 + 127
"""Biased exponents: between the first two a half is normal, between the first and the third a
single is (IEEE 754 §3.6, table 3.5)."""
KEYS_KEPT, KEPT_CHARS = 512, 64
"""Spelt keys remembered, short ones only: ours are under a hundred, and what others make up must
not fill memory."""
_SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""Additional information -> smallest argument that needs it (RFC 8949 §4.2.1)."""
_FIRST_BSTR = _BSTR << 5
_PLAIN = bytes(
    1 + (initial & 31) * (initial >> 5 == _BSTR)
    if (initial & 31 < 24 and initial >> 5 <= _BSTR) or initial in b"\xf4\xf5\xf6"
    else 0
    for initial in range(256)
)
"""Initial byte -> length of the whole item where that byte alone says it and nothing in it wants a
look: short integers and byte strings, false, true, null. 0 for all others."""
_SHORT_TEXT = bytes(1 + (i & 31) if i >> 5 == _TSTR and i & 31 < 24 else 0 for i in range(256))
"""The same of texts, which want a look: are they UTF-8?"""


def encode(value: Value) -> bytes:
    """Return the deterministic encoding of value.

    Text that came from the kernel may hold lone surrogates (a file name that is not UTF-8); they
    are written as backslash escapes.

    Raises:
        OurFault: value is not a ``Value``, or ``check`` would refuse what it becomes.
    """
    parts: list[bytes] = []
    _put(value, parts, 0)
    return b"".join(parts)


def _put(value: object, parts: list[bytes], depth: int) -> None:
    """Append the encoding of value; depth counts the containers around it.

    What a batch of readings is made of comes first and by its very type: encoding is half of what
    a record costs. Everything else, subclasses too, goes the long way.
    """
    kind = type(value)
    if kind is float:
        parts.append(spell_float(value))  # type: ignore[arg-type]
    elif kind is str:
        _put_text(value, parts)  # type: ignore[arg-type]
    elif kind is dict and depth < MAX_DEPTH:
        parts.append(_spell(_MAP, len(value)))  # type: ignore[arg-type]
        for key, item in _sorted_items(value):  # type: ignore[arg-type]
            parts.append(key)
            _put(item, parts, depth + 1)
    else:
        _put_other(value, parts, depth)


def _put_text(value: str, parts: list[bytes]) -> None:
    text = value.encode("utf-8", "backslashreplace")
    if len(text) > MAX_TEXT_BYTES:
        raise OurFault(f"text of {len(text)} bytes cannot be encoded, limit {MAX_TEXT_BYTES}")
    parts += (_spell(_TSTR, len(text)), text)


def _put_other(value: object, parts: list[bytes], depth: int) -> None:
    if isinstance(value, str):
        _put_text(value, parts)
    elif isinstance(value, bool) or value is None:
        parts.append(b"\xf6" if value is None else b"\xf5" if value else b"\xf4")
    elif isinstance(value, int):
        parts.append(_spell(_NINT, -1 - value) if value < 0 else _spell(_UINT, value))
    elif isinstance(value, float):
        parts.append(spell_float(value))
    elif isinstance(value, Spelt):
        parts.append(value)
    elif isinstance(value, bytes):
        parts += (_spell(_BSTR, len(value)), value)
    elif depth == MAX_DEPTH:
        raise OurFault(f"more than {MAX_DEPTH} containers inside each other")
    elif isinstance(value, Mapping):
        parts.append(_spell(_MAP, len(value)))
        for key, item in _sorted_items(value):
            parts.append(key)
            _put(item, parts, depth + 1)
    elif isinstance(value, (list, tuple)):
        parts.append(_spell(_ARRAY, len(value)))
        for item in value:
            _put(item, parts, depth + 1)
    else:
        raise OurFault(f"{type(value).__name__} cannot be encoded")


def _sorted_items(value: Mapping[object, object]) -> list[tuple[bytes, object]]:
    """Encoded key and value of every entry, bytewise by key (RFC 8949 §4.2.1)."""
    items = {
        encode(key) if type(key) is str and len(key) > KEPT_CHARS else _spell_key(key): item
        for key, item in value.items()
    }
    if len(items) != len(value):
        raise OurFault("two map keys have one spelling")
    # No two keys are equal, so that no two values are ever compared.
    return sorted(items.items())


@lru_cache(KEYS_KEPT, typed=True)  # typed: 1, 1.0 and True are one key of a dict, and not of ours
def _spell_key(key: object) -> bytes:
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise OurFault(f"map key of type {type(key).__name__} cannot be encoded")
    return encode(key)


def _spell(major: int, argument: int) -> bytes:
    """A head in its shortest form."""
    if argument < 24:
        return _SHORT[major << 5 | argument]
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * width:
            return _SHORT[major << 5 | info] + argument.to_bytes(width, "big")
    raise OurFault("an integer of more than 64 bits cannot be encoded")


def spell_bytes(value: bytes) -> bytes:
    """A byte string, as ``encode`` spells it."""
    return _spell(_BSTR, len(value)) + value


def spell_array(spelt: Iterable[bytes], count: int) -> Spelt:
    """An array of ``count`` values that are spelt already, in pieces of one or more."""
    return Spelt(_spell(_ARRAY, count) + b"".join(spelt))


def spell_float(value: float) -> bytes:
    """A float in the shortest form that keeps its value (RFC 8949 §4.2.2: NaN is 7e00)."""
    if value != value:
        return b"\xf9\x7e\x00"
    longest = _DOUBLE.pack(value)
    bits = int.from_bytes(longest, "big")
    if bits & _BEHIND_SINGLE:
        return b"\xfb" + longest
    exponent = bits >> 52 & 0x7FF
    if _HALF_FROM <= exponent <= _HALF_TO and not bits & _BEHIND_HALF:
        return _HALF.pack(0xF9, value)
    if _HALF_FROM <= exponent <= _SINGLE_TO:
        return _SINGLE.pack(0xFA, value)
    # Nought, infinities, and what is subnormal in one of the forms: tried.
    for initial, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            data = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, data)[0] == value:
            return initial + data
    return b"\xfb" + longest


def decode(
    data: bytes, max_bytes: int = MAX_BYTES, fits: Callable[[bytes], bool] | None = None
) -> object:
    """Return the value spelt by data.

    Args:
        data: exactly one value.
        max_bytes: refuse anything longer, unread.
        fits: a quicker yes to what ``check`` lets through (spelling.py); its no is no answer.

    Raises:
        WireRefusal: by one of the names in this module's docstring.
    """
    if fits is None or len(data) > max_bytes or not fits(data):
        check(data, max_bytes)
    return cbor2.loads(data)


def check(data: bytes, max_bytes: int = MAX_BYTES) -> None:
    """Refuse data unless it is one deterministic value; raises as ``decode``."""
    if len(data) > max_bytes:
        raise WireRefusal("too_long", f"{len(data)} bytes, limit {max_bytes}")
    end = _walk(data)
    if end != len(data):
        raise WireRefusal("trailing_bytes", f"{len(data) - end} bytes follow the value")


def _walk(data: bytes) -> int:
    """Walk one value without recursion; return the offset behind it.

    One loop for all kinds of item: a verifier spends more of its time here than anywhere else but
    in signatures. Most items are settled by their first byte and a table; what does not look
    right is left to the functions below, and they alone refuse.
    """
    at, size = 0, len(data)
    left, is_map, last_key = 1, False, b""  # of the container that is being walked
    around: list[tuple[int, bool, bytes]] = []
    while True:
        while left:
            if at >= size:
                raise WireRefusal("truncated", "input ends before the value does")
            begin, initial = at, data[at]
            left -= 1
            if length := _PLAIN[initial]:
                at += length
                if at > size:
                    raise WireRefusal("truncated", "string longer than the input")
                if is_map and left & 1:  # of a map, every second item is a key
                    key = data[begin:at]
                    if key <= last_key or initial >= _FIRST_BSTR:
                        _check_key(key, last_key, initial >> 5)
                    last_key = key
                continue
            if length := _SHORT_TEXT[initial]:
                at += length
                text = data[begin:at]
                if at > size or not text.isascii():
                    _text(data, begin + 1, length - 1)
                if is_map and left & 1:
                    if text <= last_key:
                        _check_key(text, last_key, _TSTR)
                    last_key = text
                continue
            at += 1
            major, argument = initial >> 5, initial & 31
            if argument == 24 and major < _TAG and at < size and data[at] > 23:
                argument = data[at]
                at += 1
            elif argument == 25 and major < _TAG and at + 1 < size and data[at]:
                argument = data[at] << 8 | data[at + 1]
                at += 2
            elif argument == 26 and major < _BSTR and at + 3 < size and data[at] | data[at + 1]:
                at += 4  # the number itself is not wanted
            elif argument > 23:
                argument, at = _argument(data, at, major, argument)
            elif major >= _TAG:
                _check_simple_or_tag(major, argument, argument)
            if major == _BSTR:
                if argument > size - at:
                    raise WireRefusal("truncated", "string longer than the input")
                at += argument
            elif major == _TSTR:
                at = _text(data, at, argument)
            if is_map and left & 1:
                key = data[begin:at]
                _check_key(key, last_key, major)
                last_key = key
            if _ARRAY <= major <= _MAP:
                if len(around) >= MAX_DEPTH:
                    raise WireRefusal("too_deep", f"more than {MAX_DEPTH} containers")
                around.append((left, is_map, last_key))
                left, is_map, last_key = argument, False, b""
                if major == _MAP:
                    left, is_map = 2 * argument, True
                if left > size - at:
                    raise WireRefusal("truncated", "container longer than the input")
        if not around:
            return at
        left, is_map, last_key = around.pop()


def _argument(data: bytes, at: int, major: int, info: int) -> tuple[int, int]:
    """An argument that stands behind its initial byte: (argument, offset behind it)."""
    if info > 27:
        raise WireRefusal("not_deterministic", "indefinite length or reserved head")
    end = at + (1 << (info - 24))
    if end > len(data):
        raise WireRefusal("truncated", "head is incomplete")
    argument = int.from_bytes(data[at:end], "big")
    if major >= _TAG:
        _check_simple_or_tag(major, info, argument)
    elif argument < _SHORTEST[info]:
        raise WireRefusal("not_deterministic", f"{argument} is not in its shortest form")
    return argument, end


def _check_simple_or_tag(major: int, info: int, argument: int) -> None:
    if major == _TAG:
        raise WireRefusal("forbidden_item", f"tag {argument}")
    _check_simple(info, argument)


def _check_simple(info: int, argument: int) -> None:
    """Accept false, true, null and floats in their shortest form (RFC 8949 §3.3, §4.2.2)."""
    if info in (20, 21, 22):
        return
    if info == 25:
        if argument & 0x7C00 == 0x7C00 and argument not in (0x7C00, 0xFC00, 0x7E00):
            raise WireRefusal("not_deterministic", "a NaN other than 7e00")
        return
    if info == 26:
        value = struct.unpack(">f", argument.to_bytes(4, "big"))[0]
        narrower = ">e"
    elif info == 27:
        value = struct.unpack(">d", argument.to_bytes(8, "big"))[0]
        narrower = ">f"
    else:
        raise WireRefusal("forbidden_item", f"simple value {argument}")
    try:
        fits = value != value or struct.unpack(narrower, struct.pack(narrower, value))[0] == value
    except OverflowError:
        fits = False
    if fits:
        raise WireRefusal("not_deterministic", "float is not in its shortest form")


def _text(data: bytes, at: int, length: int) -> int:
    """Check that a text's bytes are there and are UTF-8; return the offset behind it."""
    end = at + length
    if end > len(data):
        raise WireRefusal("truncated", "string longer than the input")
    if length > MAX_TEXT_BYTES:
        raise WireRefusal("too_long", f"text of {length} bytes, limit {MAX_TEXT_BYTES}")
    try:
        data[at:end].decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_text", "text is not UTF-8") from None
    return end


def _check_key(key: bytes, last_key: bytes, major: int) -> None:
    """Refuse a map's key, spelt, unless it may be one and follows the last one."""
    if major > _TSTR or major == _BSTR:
        raise WireRefusal("forbidden_item", "map key is neither integer nor text")
    if key <= last_key:
        if key == last_key:
            raise WireRefusal("duplicate_key", "a map key stands twice")
        raise WireRefusal("not_deterministic", "map keys are not in order")
