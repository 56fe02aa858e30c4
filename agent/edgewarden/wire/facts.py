"""Facts: what was seen, frozen when it is made, in the field's own words.

Two families leave the sensors:

* ``Reading``: one measured value of one channel (SenML, RFC 8428: name, unit, value).
* ``Event``: something that happened, named after an OCSF class (class_uid, activity_id,
  severity_id) with the class's own attribute names inside ``detail``.

A fact knows when it was seen by the monotonic boot clock only (``CLOCK_BOOTTIME``, nanoseconds):
a board without an RTC cannot promise more. Wall time is added once per record, with its
uncertainty, by the journal.

What this module leaves to others: deciding what a fact means (judge/), storing it (record/).

    Reading("gps", "lat", "lat", 48.1173, seen_mono_ns)
    Event(OCSF.PROCESS_ACTIVITY, 1, Severity.LOW, seen_mono_ns, {"process": {"pid": 7}})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import IntEnum, StrEnum

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass, field
from edgewarden.wire import cbor

Plain = None | bool | int | float | str | bytes | list["Plain"] | dict[str, "Plain"]
"""What a fact may hold: the JSON-like subset of CBOR."""


class OCSF(IntEnum):
    """OCSF 1.8 class uids that this agent speaks (uid = category * 1000 + class)."""

    PROCESS_ACTIVITY = 1007
    PERIPHERAL_ACTIVITY = 1010
    DEVICE_POWER_STATE = 1011
    DETECTION_FINDING = 2004
    NETWORK_ACTIVITY = 4001
    CONFIG_STATE = 5002
    EVENT_LOG_ACTIVITY = 1008
    HEALTH = 6002
    """application_lifecycle: start, stop and health of the agent's own parts."""


class Severity(IntEnum):
    """OCSF severity_id."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


class Quality(StrEnum):
    """How far a reading can be believed, best first."""

    GOOD = "good"
    STALE = "stale"
    """It does not move any more."""
    SUSPECT = "suspect"
    UNTRUSTED = "untrusted"
    SUBSTITUTED = "substituted"
    """Not measured: a fail-safe value in the place of a measured one, which stands in ``raw``."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a reading that stands for several says of them, beside the one value.

    Attributes:
        count: readings that it stands for, itself among them; two or more.
        span_s: from the first of them to the last, which is the reading's own time.
        low, high: least and greatest of what was measured; None where it is no number.
    """

    count: int
    span_s: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, init=False)
class Reading:
    """One value of one channel.

    Attributes:
        source: name of the sensor in the settings (``gps``).
        name: channel within the sensor (``lat``, ``temperature``).
        unit: SenML unit (RFC 8428 §12.1: ``Cel``, ``lat``, ``m/s``, ``%RH``) or "" for none.
        value: number, text or truth value.
        seen_mono_ns: CLOCK_BOOTTIME in nanoseconds.
        quality: how far it can be believed.
        raw: what was measured, when ``value`` is a substitute; else None.
        spread: None for one reading. Else value (raw, of a substitute) is the mean of several, or
            the last of them where it is no number.
    """

    source: str
    name: str
    unit: str
    value: float | str | bool
    seen_mono_ns: int
    quality: Quality = Quality.GOOD
    raw: float | str | bool | None = None
    spread: Spread | None = None

    def __init__(
        self,
        source: str,
        name: str,
        unit: str,
        value: float | str | bool,
        seen_mono_ns: int,
        quality: Quality = Quality.GOOD,
        raw: float | str | bool | None = None,
        spread: Spread | None = None,
    ) -> None:
        # What dataclass would write asks object.__setattr__ for each field by its name: twice the
        # time, for what is made thousands of times a second.
        put_source, put_name, put_unit, put_value, put_seen, put_quality, put_raw, put_spread = _PUT
        put_source(self, source)
        put_name(self, name)
        put_unit(self, unit)
        put_value(self, value)
        put_seen(self, seen_mono_ns)
        put_quality(self, quality)
        put_raw(self, raw)
        put_spread(self, spread)


_PUT = tuple(Reading.__dict__[field.name].__set__ for field in fields(Reading))
"""The places of a reading's fields, which only its own beginning fills."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        class_uid: OCSF class.
        activity_id: OCSF activity within the class (process_activity: 1 launch, 2 terminate, ...).
        severity_id: OCSF severity.
        seen_mono_ns: CLOCK_BOOTTIME in nanoseconds.
        detail: the class's attributes, plain values only.
        code: EW code when the event is one that ``explain`` knows, else "".
    """

    class_uid: OCSF
    activity_id: int
    severity_id: Severity
    seen_mono_ns: int
    detail: Mapping[str, Plain] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True, slots=True)
class FramesSeen:
    """What a read of a port completed: what framing and timing are judged by. Leaves no process.

    Attributes:
        source: name of the sensor in the settings.
        seen_mono_ns: CLOCK_BOOTTIME in nanoseconds, when the read came back.
        size_bytes: how much was read since the last of these.
        frames: good frames that it completed.
        bad: frames that it completed and that yield nothing (checksum, length, content).
        took_ns: for a port that answers questions (Modbus): from the question to this answer.
        voice: and who was asked, its unit; 0 for a port on which one speaks.
    """

    source: str
    seen_mono_ns: int
    size_bytes: int
    frames: int
    bad: int
    took_ns: int | None = None
    voice: int = 0


def event_to_map(event: Event) -> dict[str, Plain]:
    """Return the event as the map that goes on the wire (docs/wire-format.md, "event")."""
    body: dict[str, Plain] = {
        "class_uid": int(event.class_uid),
        "activity_id": event.activity_id,
        "severity_id": int(event.severity_id),
        "seen_mono_ns": event.seen_mono_ns,
        "detail": dict(event.detail),
    }
    if event.code:
        body["code"] = event.code
    return body


def event_from_map(body: object, path: str = "event") -> Event:
    """Read an event map; raises WireRefusal("bad_fact") naming the path of the first fault."""
    if not isinstance(body, dict):
        raise WireRefusal("bad_fact", f"{path} is not a map")
    allowed = {"class_uid", "activity_id", "severity_id", "seen_mono_ns", "detail", "code"}
    unknown = [str(k) for k in body if k not in allowed]
    if unknown:
        raise WireRefusal("bad_fact", f"{path}.{unknown[0]} is not known")
    for key in ("class_uid", "activity_id", "severity_id", "seen_mono_ns"):
        value = body.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise WireRefusal("bad_fact", f"{path}.{key} is not an unsigned integer")
    detail, code = body.get("detail"), body.get("code", "")
    if not isinstance(detail, dict) or not all(isinstance(k, str) for k in detail):
        raise WireRefusal("bad_fact", f"{path}.detail is not a map of names")
    if not isinstance(code, str):
        raise WireRefusal("bad_fact", f"{path}.code is not text")
    try:
        class_uid, severity = OCSF(body["class_uid"]), Severity(body["severity_id"])
    except ValueError as fault:
        raise WireRefusal("bad_fact", f"{path}: {fault}") from None
    return Event(class_uid, body["activity_id"], severity, body["seen_mono_ns"], detail, code)


# SenML CBOR labels, RFC 8428 §6 table 4.
_BN, _BV, _N, _U, _V, _VS, _VB, _T = -2, -5, 0, 1, 2, 3, 4, 6
# Ours. RFC 8428 §4.4: a reader passes over a label it does not know unless it ends in "_".
_QUALITY, _RAW, _SPREAD = "ew-q", "ew-raw", "ew-of"
_LABELS = frozenset({_BN, _N, _U, _V, _VS, _VB, _T, _QUALITY, _RAW, _SPREAD})
# The labels of a plain reading as they are spelt (burst.py), in the order of their bytes
# (RFC 8949 §4.2.1).
KEY_N, KEY_U, KEY_V, KEY_VS, KEY_VB, KEY_T, KEY_BN = (
    cbor.encode(label) for label in (_N, _U, _V, _VS, _VB, _T, _BN)
)
MAX_SPREAD = 2**53 - 1
"""Readings in one: what every reader of numbers keeps exact."""


def readings_to_senml(
    readings: Iterable[Reading], anchor_mono_ns: int
) -> list[dict[int | str, Plain]]:
    """Return a SenML pack (RFC 8428, CBOR labels) in which every time is relative.

    Times are seconds before the record that carries the pack (never positive): RFC 8428 §4.5.3
    reads values below 2**28 as relative to now, and "now" is the record's own time.
    """
    pack: list[dict[int | str, Plain]] = []
    base = None
    for r in readings:
        pack.append(entry_of(r, anchor_mono_ns, base))
        base = r.source
    return pack


def entry_of(r: Reading, anchor_mono_ns: int, base: str | None) -> dict[int | str, Plain]:
    """One entry of a pack, behind one of the source ``base``."""
    entry: dict[int | str, Plain] = {}
    if r.source != base:
        entry[_BN] = f"{r.source}/"
    entry[_N] = r.name
    if r.unit:
        entry[_U] = r.unit
    label = _VB if isinstance(r.value, bool) else _VS if isinstance(r.value, str) else _V
    entry[label] = r.value
    entry[_T] = offset_s(r.seen_mono_ns, anchor_mono_ns)
    if r.quality is not Quality.GOOD:
        entry[_QUALITY] = r.quality.value
        if r.raw is not None:
            entry[_RAW] = r.raw
    if r.spread is not None:
        of = r.spread
        ends: list[Plain] = [] if of.low is None else [of.low, of.high]
        entry[_SPREAD] = [of.count, of.span_s, *ends]
    return entry


def offset_s(seen_mono_ns: int, anchor_mono_ns: int) -> float:
    """A reading's time in a pack: seconds before the anchor, never behind it."""
    return min(0.0, round((seen_mono_ns - anchor_mono_ns) / 1e9, 6))


def readings_from_senml(pack: object, anchor_mono_ns: int) -> list[Reading]:
    """Read a pack made by ``readings_to_senml``; raises WireRefusal("bad_fact")."""
    if not isinstance(pack, list):
        raise WireRefusal("bad_fact", "readings is not a list")
    out: list[Reading] = []
    base = ""
    for i, entry in enumerate(pack):
        if not isinstance(entry, dict) or set(entry) - _LABELS:
            raise WireRefusal("bad_fact", f"readings[{i}] is not a SenML record of ours")
        if _BN in entry:
            bn = entry[_BN]
            if not isinstance(bn, str) or not bn.endswith("/"):
                raise WireRefusal("bad_fact", f"readings[{i}] base name is not a source")
            base = bn.removesuffix("/")
        values = [entry[label] for label in (_V, _VS, _VB) if label in entry]
        name, unit, offset_s = entry.get(_N), entry.get(_U, ""), entry.get(_T)
        if len(values) != 1 or not _fits_label(entry):
            raise WireRefusal("bad_fact", f"readings[{i}] has not exactly one value")
        if not base or not isinstance(name, str) or not isinstance(unit, str):
            raise WireRefusal("bad_fact", f"readings[{i}] has no name")
        if not isinstance(offset_s, (int, float)) or isinstance(offset_s, bool) or offset_s > 0:
            raise WireRefusal("bad_fact", f"readings[{i}] has no time")
        if not offset_s > -1e9:  # also refuses NaN and -inf
            raise WireRefusal("bad_fact", f"readings[{i}] time is out of range")
        seen_ns = anchor_mono_ns + round(offset_s * 1e9)
        quality, raw = _quality(entry, i)
        spread = _spread(entry, i, values[0] if raw is None else raw)
        out.append(Reading(base, name, unit, values[0], seen_ns, quality, raw, spread))
    return out


def _quality(entry: dict[int | str, Plain], i: int) -> tuple[Quality, float | str | bool | None]:
    """Absent is good, and good is absent: one meaning has one form."""
    named, raw = entry.get(_QUALITY), entry.get(_RAW)
    if _QUALITY in entry and (named not in list(Quality) or named == Quality.GOOD):
        raise WireRefusal("bad_fact", f"readings[{i}] has no quality of ours")
    if (named == Quality.SUBSTITUTED) is not (_RAW in entry):
        raise WireRefusal("bad_fact", f"readings[{i}] has a substitute or what was measured alone")
    if _RAW in entry and not isinstance(raw, (int, float, str, bool)):
        raise WireRefusal("bad_fact", f"readings[{i}] measured no number, text or truth value")
    assert raw is None or isinstance(raw, (int, float, str, bool))  # refused above
    return Quality(str(named)) if named is not None else Quality.GOOD, raw


def _spread(entry: dict[int | str, Plain], i: int, measured: float | str | bool) -> Spread | None:
    """Absent is one reading, and one reading is absent; ends stand where a number was measured."""
    if _SPREAD not in entry:
        return None
    said = entry[_SPREAD]
    is_number = isinstance(measured, (int, float)) and not isinstance(measured, bool)
    if not isinstance(said, list) or len(said) != (4 if is_number else 2):
        raise WireRefusal("bad_fact", f"readings[{i}] does not say what it stands for")
    count, *figures = said
    if type(count) is not int or not 2 <= count <= MAX_SPREAD:
        raise WireRefusal("bad_fact", f"readings[{i}] stands for no number of readings")
    numbers = [float(n) for n in figures if isinstance(n, (int, float)) and type(n) is not bool]
    if len(numbers) != len(figures) or not 0 <= numbers[0] < float("inf"):
        raise WireRefusal("bad_fact", f"readings[{i}] stands for no span of time")
    if not is_number:
        return Spread(count, numbers[0])
    span_s, low, high = numbers
    assert isinstance(measured, (int, float))  # is_number
    if not low <= measured <= high:
        raise WireRefusal("bad_fact", f"readings[{i}] is not between its least and its greatest")
    return Spread(count, span_s, low, high)


def _fits_label(entry: dict[int | str, Plain]) -> bool:
    """Does the value's type fit its SenML label (v: number, vs: text, vb: truth value)?"""
    if _VS in entry:
        return isinstance(entry[_VS], str)
    if _VB in entry:
        return isinstance(entry[_VB], bool)
    return isinstance(entry[_V], (int, float)) and not isinstance(entry[_V], bool)
