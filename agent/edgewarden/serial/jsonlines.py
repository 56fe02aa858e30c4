"""One JSON object per line, or per frame, to readings.

Decides which lines are objects of plain channels. Leaves to others the port (serialport.py), frames
other than lines (binary.py) and plausibility (judge/).
Pure: no I/O, no clock. The standard library's parser is laxer than RFC 8259; what it lets through
is refused here.

Rules, in order; each breach refuses the whole line, by name:

1. At most ``MAX_LINE_BYTES``, strict UTF-8, one object (``not_utf8``, ``not_json``,
   ``not_object``).
2. No NaN, no Infinity, no number beyond a double, no integer beyond 2**53 (``not_finite``,
   ``number_range``).
3. No key twice in one object (``duplicate_key``): two readers must never see two different values.
4. Objects inside objects become dotted names, at most ``MAX_DEPTH`` deep (``too_deep``); no lists
   (``list_value``).
5. Names are SenML names (RFC 8428 §4.5.1), text is printable and short (``bad_name``,
   ``bad_text``).
6. At most ``MAX_CHANNELS`` names over the sensor's life (``too_many_channels``): a line cannot
   grow our tables.

null means "no value now" and yields nothing. Units come from the settings, never from the line.

    JsonLinesDecoder("env", {"temperature": "Cel"}).feed(b'{"temperature": 21.5}\\n',
    seen_mono_ns=7) == [Reading("env", "temperature", "Cel", 21.5, 7)]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from edgewarden.serial.fields import Framer, Refused
from edgewarden.serial.framing import FrameCounters, LineFramer
from edgewarden.wire.burst import Burst
from edgewarden.wire.facts import Reading

MAX_LINE_BYTES = 4096
"""A hundred channels with long names; also what keeps the parser's own recursion far from its
limit."""
MAX_DEPTH = 4
MAX_CHANNELS = 64
MAX_TEXT_CHARS = 256
MAX_EXACT_INTEGER = 2**53
"""RFC 8259 §6: beyond this two readers may disagree about an integer."""

Value = float | str | bool

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]{0,63}")
# The closing quote is optional so that an open string is eaten once: a failing match would start
# again at every later quote, quadratic in the line.
_BRACKETS = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)


class JsonLinesDecoder:
    """Bytes in, readings out, for one sensor.

    Args:
        source: name of the sensor in the settings.
        units: channel name -> SenML unit.
        framer: where an object ends; lines unless given.
    """

    def __init__(
        self,
        source: str,
        units: Mapping[str, str] | None = None,
        framer: Framer | None = None,
    ) -> None:
        self._source = source
        self._units = dict(units or {})
        self._known: set[str] = set()
        self._framer = framer or LineFramer(MAX_LINE_BYTES, FrameCounters())
        self.counters = self._framer.counters

    def feed(self, data: bytes, seen_mono_ns: int) -> Sequence[Reading]:
        """Return the readings that ``data`` completes, all stamped ``seen_mono_ns``."""
        units = self._units
        out: list[tuple[str, str, Value]] = []
        for line in self._framer.feed(data):
            try:
                channels = read_line(line)
                self._admit(channels)
            except Refused as refusal:
                self.counters.refuse(refusal.args[0])
                self.counters.dropped_bytes += len(line) + 1
                continue
            self.counters.frames += not self._framer.checked
            out += [(name, units.get(name, ""), value) for name, value in channels.items()]
        return Burst.of(self._source, out, seen_mono_ns)

    def _admit(self, channels: Mapping[str, Value]) -> None:
        new = channels.keys() - self._known
        if len(self._known) + len(new) > MAX_CHANNELS:
            raise Refused("too_many_channels")
        self._known |= new


def read_line(line: bytes) -> dict[str, Value]:
    """Return channel -> value of one line.

    Raises:
        Refused: see the module's rules 1-5.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("not_utf8") from None
    _check_depth(text)
    try:
        root = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Refused("not_json") from None
    if not isinstance(root, dict):
        raise Refused("not_object")
    channels: dict[str, Value] = {}
    for name, value in _flatten(root, ""):
        if name in channels:  # {"a": {"b": 1}, "a.b": 2}
            raise Refused("duplicate_key")
        channels[name] = value
    return channels


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the parser recurses into it."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused("too_deep")
        elif bracket in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused("duplicate_key")
    return made


def _constant(_: str) -> float:
    raise Refused("not_finite")


def _integer(text: str) -> float:
    if len(text) > 17 or abs(int(text)) > MAX_EXACT_INTEGER:
        raise Refused("number_range")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # "1e999" is valid JSON and an infinity to Python
        raise Refused("number_range")
    return value


def _flatten(node: Mapping[str, object], prefix: str) -> Iterator[tuple[str, Value]]:
    for key, value in node.items():
        name = prefix + key
        if _NAME.fullmatch(name) is None:
            raise Refused("bad_name")
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list):
            raise Refused("list_value")
        elif isinstance(value, str):
            # Lone surrogates ("\ud800" is valid JSON) are not printable either: CBOR cannot carry
            # them.
            if len(value) > MAX_TEXT_CHARS or not value.isprintable():
                raise Refused("bad_text")
            yield name, value
        elif isinstance(value, (bool, int, float)):
            yield name, value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float
)
"""``json.loads`` with hooks makes one for each line, which takes longer than the line."""
