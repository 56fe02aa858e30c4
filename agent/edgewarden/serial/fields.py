"""Frames and lines to readings, by a table of fields.

Decides what a payload's bytes, or a line's columns, mean. Leaves to others where a frame ends
(framing.py, binary.py) and whether a value is plausible. Pure: no I/O, no clock.

Rules, in order:

1. A field that lies beyond the payload, or a column that is not there, refuses the whole frame
   (``too_short``): a device that sends something else than was said says nothing.
2. A number in a line is ASCII decimal, with a sign, a point and an exponent if need be; a number
   that is not finite, text that is not printable ASCII and anything else refuses the frame, by name
   (``bad_number``, ``not_finite``, ``bad_text``).
3. An empty column is "no value now" and yields nothing.

    line = LineReader((Field("level", 1, FieldType.NUMBER, senml_unit="m"),), ",")
    line(b"17,1.25") == [("level", "m", 1.25)]
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import chain
from typing import Protocol

from edgewarden.plain import dataclass
from edgewarden.serial.binary import ByteOrder
from edgewarden.serial.framing import FrameCounters
from edgewarden.wire.burst import Burst
from edgewarden.wire.facts import Reading

MAX_TEXT_CHARS = 256
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?"
)
_PLAIN_NUMBER = re.compile(_NUMBER.pattern.encode())
"""The usual column, with no blank about it: a number without the way over text."""
_PLAIN, MAX_PLAIN_CHARS = b"0123456789+-.", 20
"""Of these characters and at most so long: what float() takes then is what _NUMBER takes, and it is
finite."""
_TRUE, _FALSE = frozenset({"1", "true", "on"}), frozenset({"0", "false", "off"})

Value = float | str | bool
Channel = tuple[str, str, Value]
"""Name, SenML unit, value."""
Columns = tuple[tuple[tuple[str, str], ...], tuple[float, ...]]
"""Name and unit of each value, and the values."""


class FieldType(StrEnum):
    """How bytes or a column become a value; NUMBER is for columns, the sized ones for bytes."""

    NUMBER = "number"
    BOOL = "bool"
    TEXT = "text"
    U8 = "u8"
    S8 = "s8"
    U16 = "u16"
    S16 = "s16"
    U32 = "u32"
    S32 = "s32"
    U64 = "u64"
    S64 = "s64"
    F32 = "f32"
    F64 = "f64"


_CODES = {"u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i"}
_CODES |= {"u64": "Q", "s64": "q", "f32": "f", "f64": "d"}


@dataclass(frozen=True, slots=True)
class Field:
    """One value in every frame.

    Attributes:
        name: channel.
        at: first byte of the payload, or the column, from 0.
        type: how it is read.
        scale: a number is multiplied with it.
        senml_unit: SenML unit of the scaled number.
        bit: of a bool in a byte: which bit, 0 the lowest.
        size: bytes of a text.
    """

    name: str
    at: int
    type: FieldType
    scale: float = 1.0
    senml_unit: str = ""
    bit: int = 0
    size: int = 1


class Refused(Exception):
    """A frame that is not used; ``args[0]`` is the stable name."""


class Framer(Protocol):
    """Bytes in, whole frames out; never raises; memory flat."""

    counters: FrameCounters

    @property
    def checked(self) -> bool:
        """Whether what comes out has passed a checksum, and is counted as a frame already."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that ``data`` completes."""


class FieldsDecoder:
    """Bytes in, readings out, for one sensor.

    Args:
        source: name of the sensor in the settings.
        framer: where a frame ends; counts those that passed a checksum.
        read: one payload to channels; raises Refused.
    """

    def __init__(self, source: str, framer: Framer, read: Callable[[bytes], list[Channel]]) -> None:
        self._source = source
        self._framer = framer
        self._read = read
        self._plain = read.plain if isinstance(read, LineReader) else None
        self.counters = framer.counters

    def feed(self, data: bytes, seen_mono_ns: int) -> Sequence[Reading]:
        """Return the readings that ``data`` completes, all stamped ``seen_mono_ns``."""
        payloads = self._framer.feed(data)
        found = self._plain(payloads) if self._plain and payloads else None
        if found is not None:
            self.counters.frames += 0 if self._framer.checked else len(payloads)
            return Burst(self._source, *found, seen_mono_ns)
        out: list[Channel] = []
        for payload in payloads:
            try:
                channels = self._read(payload)
            except Refused as refusal:
                self.counters.refuse(refusal.args[0])
                self.counters.dropped_bytes += len(payload)
                continue
            self.counters.frames += not self._framer.checked
            out += channels
        return Burst.of(self._source, out, seen_mono_ns)


class PayloadReader:
    """Fields at fixed places of a binary payload.

    Args:
        fields: what to read.
        byte_order: big or little.
    """

    def __init__(self, fields: tuple[Field, ...], byte_order: ByteOrder) -> None:
        sign = ">" if byte_order == "big" else "<"
        self._fields = [(f, struct.Struct(sign + _CODES.get(f.type, f"{f.size}s"))) for f in fields]

    def __call__(self, payload: bytes) -> list[Channel]:
        """Return the channels of one payload; raises Refused (rules 1, 2)."""
        out: list[Channel] = []
        for field, shape in self._fields:
            if field.at + shape.size > len(payload):
                raise Refused("too_short")
            raw = shape.unpack_from(payload, field.at)[0]
            value: Value
            if field.type is FieldType.BOOL:
                value = bool(raw[0] >> field.bit & 1)
            elif field.type is FieldType.TEXT:
                value = _text(raw.split(b"\0", 1)[0])
            else:
                value = _scaled(float(raw), field)
            out.append((field.name, field.senml_unit, value))
        return out


class LineReader:
    """Columns of a line.

    Args:
        fields: what to read.
        separator: what stands between two columns; " " is any run of blanks.
    """

    def __init__(self, fields: tuple[Field, ...], separator: str) -> None:
        self._fields = [(f, f.at, f.type is FieldType.NUMBER) for f in fields]
        self._separator = None if separator == " " else separator.encode()
        self._all_numbers = {f.type for f in fields} == {FieldType.NUMBER}
        self._names = tuple((f.name, f.senml_unit) for f in fields)
        # What stands behind the last column that is read stays in one piece, unread.
        self._splits = max((f.at for f in fields), default=0) + 1

    def __call__(self, line: bytes) -> list[Channel]:
        """Return the channels of one line; raises Refused (rules 1, 2)."""
        columns = line.split(self._separator, self._splits)
        out: list[Channel] = []
        for field, at, is_number in self._fields:
            if at >= len(columns):
                raise Refused("too_short")
            raw = columns[at]
            if is_number and _PLAIN_NUMBER.fullmatch(raw):
                out.append((field.name, field.senml_unit, _scaled(float(raw), field)))
                continue
            text = _text(raw).strip(" ")
            if text:
                out.append((field.name, field.senml_unit, _column(text, field)))
        return out

    def plain(self, lines: Sequence[bytes]) -> Columns | None:
        """The same of many lines at once, where every column that is read is a number of digits
        and at most MAX_PLAIN_CHARS; None where one is not: then each has to be read by itself."""
        if not self._all_numbers:
            return None
        separator, splits = self._separator, self._splits
        split = [line.split(separator, splits) for line in lines]
        columns: list[list[float]] = []
        try:
            for field, at, _ in self._fields:
                texts = [columns_of[at] for columns_of in split]
                if (
                    b"".join(texts).translate(None, _PLAIN)
                    or max(map(len, texts)) > MAX_PLAIN_CHARS
                ):
                    return None
                values = list(map(float, texts))
                columns.append(
                    values if field.scale == 1.0 else [_scaled(v, field) for v in values]
                )
        except (IndexError, ValueError, Refused):
            return None
        if len(columns) == 1:
            return self._names * len(lines), tuple(columns[0])
        return self._names * len(lines), tuple(chain.from_iterable(zip(*columns, strict=True)))


def _column(text: str, field: Field) -> Value:
    if field.type is FieldType.TEXT:
        return text
    if field.type is FieldType.BOOL:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise Refused("bad_number")
    if _NUMBER.fullmatch(text) is None:
        raise Refused("bad_number")
    return _scaled(float(text), field)


def _scaled(raw: float, field: Field) -> float:
    value = raw * field.scale
    if not math.isfinite(value):
        raise Refused("not_finite")
    return value if field.scale == 1.0 else float(f"{value:.12g}")


def _text(raw: bytes) -> str:
    text = raw.decode("ascii", "replace")
    if len(text) > MAX_TEXT_CHARS or not text.isascii() or not text.isprintable():
        raise Refused("bad_text")
    return text
