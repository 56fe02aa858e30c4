"""What one read of a port brought, in columns: thousands of readings a second as tens of objects.

A ``Burst`` is a sequence of plain readings: one source, one stamp, quality good, each standing for
itself. It is equal to the list of them, whoever asks for one gets a ``Reading``, and what is made
of it (quality, record, copy) is the same as of the list, byte for byte; it only costs less where
nobody looks at the single one. What is marked, substituted or aggregated is no burst any more.

Decides how bursts and readings are spelt in a record. Leaves to others what they mean.

    Burst.of("gps", [("lat", "lat", 48.1), ("lon", "lon", 11.5)], 7)
    == [Reading("gps", "lat", "lat", 48.1, 7), Reading("gps", "lon", "lon", 11.5, 7)]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.facts import (
    KEY_BN,
    KEY_N,
    KEY_T,
    KEY_U,
    KEY_V,
    KEY_VB,
    KEY_VS,
    Quality,
    Reading,
    entry_of,
    offset_s,
)

Value = float | str | bool
Channel = tuple[str, str]
"""Name, SenML unit."""

_MAP = 0xA0
"""The head of a map of fewer than 24 entries (RFC 8949 §3.1)."""
_TRUE, _FALSE = KEY_VB + cbor.encode(True), KEY_VB + cbor.encode(False)
_FLOATS = frozenset({float})


@dataclass(frozen=True, slots=True, eq=False)
class Burst(Sequence[Reading]):
    """Plain readings of one read; a frozen fact as each of them is.

    Attributes:
        source: name of the sensor in the settings.
        channels: of each reading.
        values: of each reading, as many.
        seen_mono_ns: CLOCK_BOOTTIME in nanoseconds, of all of them.
    """

    source: str
    channels: tuple[Channel, ...]
    values: tuple[Value, ...]
    seen_mono_ns: int

    def __post_init__(self) -> None:
        """Refuse columns of two lengths."""
        if len(self.channels) != len(self.values):
            raise ValueError(f"{len(self.channels)} channels for {len(self.values)} values")

    @classmethod
    def of(
        cls, source: str, said: Sequence[tuple[str, str, Value]], seen_mono_ns: int
    ) -> Sequence[Reading]:
        """Name, unit and value of each reading."""
        if not said:
            return []
        names, units, values = zip(*said, strict=True)
        return cls(source, tuple(zip(names, units, strict=True)), values, seen_mono_ns)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Reading]:
        source, seen_ns = self.source, self.seen_mono_ns
        for (name, unit), value in zip(self.channels, self.values, strict=True):
            yield Reading(source, name, unit, value, seen_ns)

    @overload
    def __getitem__(self, at: int) -> Reading: ...

    @overload
    def __getitem__(self, at: slice) -> Burst: ...

    def __getitem__(self, at: int | slice) -> Reading | Burst:
        if isinstance(at, slice):
            return Burst(self.source, self.channels[at], self.values[at], self.seen_mono_ns)
        name, unit = self.channels[at]
        return Reading(self.source, name, unit, self.values[at], self.seen_mono_ns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Burst, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


Part = Reading | Burst
"""What a batch is gathered of."""


def each(parts: Iterable[Part]) -> Iterator[Reading]:
    """Every reading of these, in order."""
    for part in parts:
        if isinstance(part, Reading):
            yield part
        else:
            yield from part


def spell_readings(parts: Iterable[Part], anchor_mono_ns: int) -> cbor.Spelt:
    """Return the encoding of ``readings_to_senml`` of each of them, without the maps in between.

    A plain number of good quality is two texts, a number and a time: the texts are spelt once a
    channel, the time once for all that came with one read, and of a burst of one channel all but
    the numbers at once. What is marked or stands for several goes the long way.
    """
    spelt: list[bytes] = []
    heads = _Heads()
    count, base = 0, None
    seen_ns: int | None = None
    time = b""
    for part in parts:
        source, begun = part.source, len(spelt)
        if part.seen_mono_ns != seen_ns:
            seen_ns = part.seen_mono_ns
            time = KEY_T + cbor.spell_float(offset_s(seen_ns, anchor_mono_ns))
        if not isinstance(part, Reading):
            spelt += _of_burst(part, heads, time)
            count += len(part)
        elif part.quality is not Quality.GOOD or part.spread is not None:
            spelt.append(cbor.encode(entry_of(part, anchor_mono_ns, base)))
            base, count = source, count + 1
        else:
            spelt.append(heads[part.name, part.unit] + _of_value(part.value) + time)
            count += 1
        if source != base and len(spelt) > begun:
            base, first = source, spelt[begun]
            # One entry more; its key stands behind the others (RFC 8949 §4.2.1).
            spelt[begun] = b"%c%b%b%b" % (first[0] + 1, first[1:], KEY_BN, cbor.encode(f"{base}/"))
    return cbor.spell_array(spelt, count)


class _Heads(dict[Channel, bytes]):
    """Channel -> everything of its readings' entries in front of the value."""

    def __missing__(self, channel: Channel) -> bytes:
        name, unit = channel
        texts = KEY_N + cbor.encode(name) + (KEY_U + cbor.encode(unit) if unit else b"")
        made = self[channel] = b"%c%b" % (_MAP + (4 if unit else 3), texts)
        return made


def _of_burst(burst: Burst, heads: _Heads, time: bytes) -> list[bytes]:
    """Its entries; the first of them alone, so that the source can be put in."""
    channels, values = burst.channels, burst.values
    if not values:
        return []
    if channels.count(channels[0]) == len(channels) and _FLOATS.issuperset(map(type, values)):
        before = heads[channels[0]] + KEY_V
        first, *rest = map(cbor.spell_float, values)  # type: ignore[arg-type]
        if not rest:
            return [before + first + time]
        return [before + first + time, before + (time + before).join(rest) + time]
    return [
        heads[channel] + _of_value(value) + time
        for channel, value in zip(channels, values, strict=True)
    ]


def _of_value(value: Value) -> bytes:
    """A value behind its label."""
    if type(value) is float:
        return KEY_V + cbor.spell_float(value)
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    return (KEY_VS if isinstance(value, str) else KEY_V) + cbor.encode(value)
