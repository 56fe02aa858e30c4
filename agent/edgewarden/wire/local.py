"""What gate says to link, to guard and to the person who controls it: one seqpacket message each.

What this decides: the bytes. Every message is ``version, type, length`` (1, 1, 2 bytes,
little-endian) and a body whose length is fixed by its type and the counts in it; anything else is
refused by name before a field is used. What it leaves to others: who may connect (daemon/gate.py
asks the kernel for the peer's uid), what a fact means (link).

    gate  → link    ExecVerdict, PeripheralVerdict, NetworkVerdict,        run/gate-facts.sock
                    ProcBatch, GateStats, AreaStats, Alarm, ProcessAlert, Repeated,
                    TierSaid
    link  → gate    NameAnswer                                             run/gate-names.sock
    gate  ⇄ guard   Heartbeat → , ← TripInfo                               run/guard.sock
    person⇄ gate    Request → , ← Answer, ← GateStats, ← AreaStats         run/gate.sock

Rules, in order: too_short, too_long, bad_version, bad_length (header against datagram),
unknown_type, not_expected (a known type where the caller does not take it), bad_length (body),
bad_value.

    parse(encode(Heartbeat(7)), Heartbeat) == Heartbeat(7)
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import field_names
from edgewarden.wire.local_messages import (
    AREAS,
    DECISIONS,
    MODES,
    PROC_KINDS,
    REASONS,
    SOURCES,
    UNKNOWN_UID,
    VERBS,
    Alarm,
    Answer,
    AreaStats,
    ExecVerdict,
    GateStats,
    Heartbeat,
    ProcBatch,
    ProcEntry,
    Repeated,
    Request,
    TripInfo,
)  # fmt: skip
from edgewarden.wire.local_network import (
    NameAnswer,
    NetworkVerdict,
    answer_body,
    answer_parse,
    verdict_body,
    verdict_parse,
)
from edgewarden.wire.local_peripherals import peripheral_body, peripheral_parse
from edgewarden.wire.local_processes import ALERTS, ProcessAlert, alert_body, alert_parse
from edgewarden.wire.local_tier import TIERS, TierSaid, tier_body, tier_parse
from edgewarden.wire.peripherals import PeripheralVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Message = TypeVar("Message", bound="AnyMessage")

AnyMessage = (
    ExecVerdict | ProcBatch | GateStats | AreaStats | Alarm | Repeated
    | PeripheralVerdict | ProcessAlert | NetworkVerdict | TierSaid
    | Heartbeat | TripInfo | Request | Answer | NameAnswer
)  # fmt: skip
COUNTED = (ExecVerdict, Alarm, PeripheralVerdict, ProcessAlert, NetworkVerdict)
"""What may repeat: the first is told whole, then ``Repeated`` counts."""
FACTS = (*COUNTED, TierSaid, ProcBatch, GateStats, AreaStats, Repeated)
"""What gate sends to link."""
VERSION = 1
MAX_MESSAGE_BYTES = 2048
"""Twice the longest message; what a reader must offer to recv()."""
MAX_PATH_BYTES = 512
"""Longer paths keep their end, which names the program; PATH_MAX (4096) would let one user fill the
ring of unsent facts with 60 of them."""
MAX_RULE_BYTES = 64
MAX_TEXT_BYTES = 240
MAX_CODE_BYTES = 16
MAX_BATCH = 64

__all__ = [
    "ALERTS", "AREAS", "COUNTED", "DECISIONS", "FACTS", "MAX_BATCH", "MAX_MESSAGE_BYTES",
    "MAX_PATH_BYTES",
    "MODES", "PROC_KINDS", "REASONS", "SOURCES", "TIERS", "UNKNOWN_UID", "VERBS", "Alarm", "Answer",
    "AnyMessage", "AreaStats", "ExecVerdict", "GateStats", "Heartbeat", "NameAnswer",
    "NetworkVerdict", "ProcBatch", "ProcEntry", "ProcessAlert", "Repeated", "Request", "TierSaid",
    "TripInfo", "encode", "parse",
]  # fmt: skip

_HEADER = struct.Struct("<BBH")
_TYPES: dict[int, type[AnyMessage]] = {
    0x01: ExecVerdict, 0x02: ProcBatch, 0x03: GateStats, 0x04: Alarm, 0x05: Repeated,
    0x06: AreaStats, 0x07: PeripheralVerdict, 0x08: ProcessAlert, 0x09: TierSaid,
    0x0A: NetworkVerdict, 0x10: Heartbeat, 0x11: TripInfo, 0x20: Request, 0x21: Answer,
    0x30: NameAnswer,
}  # fmt: skip
_NUMBERS = {kind: number for number, kind in _TYPES.items()}

_EXEC = struct.Struct("<BBBBIIQBBH")  # ... digest length, rule length, path length
_BATCH = struct.Struct("<IIIBB")  # ... resync, entries
_ENTRY = struct.Struct("<BIIQ")
_STATS = struct.Struct("<BBBBBBHHIQ14Q")
_ALARM = struct.Struct("<BQBH")  # ... code length, text length
_REPEATED = struct.Struct("<QQQB")  # ... others; a whole message of COUNTED follows
_COUNTER = struct.Struct("<Q")
_TRIPS = struct.Struct("<HHI")
_AREA = struct.Struct("<BBBHIQ4QBB")  # ... length of why_not, of limits
_REQUEST = struct.Struct("<BBHB")
_ANSWER = struct.Struct("<BBH")  # ok, name length, text length


def encode(message: AnyMessage) -> bytes:
    """The bytes of a message; what is too long is cut, never refused: gate must not fail on a long
    path."""
    body = _BODIES[type(message)](message)
    number = _NUMBERS[type(message)]
    return _HEADER.pack(VERSION, number, _HEADER.size + len(body)) + body


def parse(data: bytes, *expected: type[Message]) -> Message:
    """Read one message.

    Args:
        data: one datagram, whole.
        expected: the types the caller takes; a type that is not among them is refused.

    Raises:
        WireRefusal: the names in the module's rules.
    """
    if len(data) < _HEADER.size:
        raise WireRefusal("too_short", f"{len(data)} bytes")
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireRefusal("too_long", f"{len(data)} bytes")
    version, number, length = _HEADER.unpack_from(data)
    if version != VERSION:
        raise WireRefusal("bad_version", str(version))
    if length != len(data):
        raise WireRefusal("bad_length", f"header says {length}, got {len(data)}")
    kind = _TYPES.get(number)
    if kind is None:
        raise WireRefusal("unknown_type", str(number))
    if kind not in expected:
        raise WireRefusal("not_expected", kind.__name__)
    message = _PARSERS[kind](data[_HEADER.size :])
    return message  # type: ignore[return-value]  # kind is in expected


def _word(words: tuple[str, ...], index: int, field: str) -> str:
    if index >= len(words):
        raise WireRefusal("bad_value", f"{field} {index}")
    return words[index]


def _truth(value: int, field: str) -> bool:
    if value > 1:
        raise WireRefusal("bad_value", f"{field} {value}")
    return value == 1


def _text(data: bytes, field: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_value", f"{field} is not UTF-8") from None


def _fixed(layout: struct.Struct, body: bytes, tail: bool = False) -> tuple[int, ...]:
    if len(body) < layout.size or (not tail and len(body) != layout.size):
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    return layout.unpack_from(body)


def _tail(body: bytes, at: int, *lengths: int) -> list[bytes]:
    if len(body) != at + sum(lengths):
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    parts = []
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    return parts


def _cut(text: str, most: int) -> bytes:
    """At most ``most`` bytes of UTF-8, never half a character."""
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[:most].decode("utf-8", "ignore").encode()


def _exec_body(m: ExecVerdict) -> bytes:
    rule, path = _cut(m.rule, MAX_RULE_BYTES), m.path[-MAX_PATH_BYTES:]
    head = _EXEC.pack(
        DECISIONS.index(m.decision), REASONS.index(m.reason), MODES.index(m.mode),
        TIERS.index(m.tier), m.pid, m.uid, m.boot_ns, len(m.sha256), len(rule), len(path),
    )  # fmt: skip
    return head + m.sha256 + rule + path


def _exec_parse(body: bytes) -> ExecVerdict:
    decision, reason, mode, tier, pid, uid, boot_ns, n_hash, n_rule, n_path = _fixed(
        _EXEC, body, tail=True
    )
    if n_hash not in (0, 32) or n_rule > MAX_RULE_BYTES or n_path > MAX_PATH_BYTES:
        raise WireRefusal("bad_value", f"lengths {n_hash}, {n_rule}, {n_path}")
    digest, rule, path = _tail(body, _EXEC.size, n_hash, n_rule, n_path)
    return ExecVerdict(
        _word(DECISIONS, decision, "decision"), _word(REASONS, reason, "reason"),
        _word(MODES, mode, "mode"), _word(TIERS, tier, "tier"),
        digest, _text(rule, "rule"), path, pid, uid, boot_ns,
    )  # fmt: skip


def _batch_body(m: ProcBatch) -> bytes:
    entries = m.entries[:MAX_BATCH]
    head = _BATCH.pack(m.forks, m.execs, m.exits, m.resync, len(entries))
    return head + b"".join(
        _ENTRY.pack(PROC_KINDS.index(e.kind), e.pid, e.other, e.boot_ns) for e in entries
    )


def _batch_parse(body: bytes) -> ProcBatch:
    forks, execs, exits, resync, count = _fixed(_BATCH, body, tail=True)
    if count > MAX_BATCH:
        raise WireRefusal("bad_value", f"{count} entries")
    (rest,) = _tail(body, _BATCH.size, count * _ENTRY.size)
    entries = tuple(
        ProcEntry(_word(PROC_KINDS, kind, "kind"), pid, other, boot_ns)
        for kind, pid, other, boot_ns in _ENTRY.iter_unpack(rest)
    )
    return ProcBatch(forks, execs, exits, _truth(resync, "resync"), entries)


def _stats_body(m: GateStats) -> bytes:
    numbers = [getattr(m, slot) for slot in field_names(m)[3:]]
    return _STATS.pack(MODES.index(m.mode), TIERS.index(m.tier), SOURCES.index(m.source), *numbers)


def _stats_parse(body: bytes) -> GateStats:
    mode, tier, source, armed, link, guard, *numbers = _fixed(_STATS, body)
    return GateStats(
        _word(MODES, mode, "mode"), _word(TIERS, tier, "tier"), _word(SOURCES, source, "source"),
        _truth(armed, "armed"), _truth(link, "link"), _truth(guard, "guard"), *numbers,
    )  # fmt: skip


def _area_body(m: AreaStats) -> bytes:
    why_not, limits = _cut(m.why_not, MAX_TEXT_BYTES), _cut(m.limits, MAX_TEXT_BYTES)
    head = _AREA.pack(
        AREAS.index(m.area), MODES.index(m.mode), m.armed, m.trial_s, m.rules, m.generation,
        m.allowed, m.denied, m.would_deny, m.dropped, len(why_not), len(limits),
    )  # fmt: skip
    return head + why_not + limits


def _area_parse(body: bytes) -> AreaStats:
    area, mode, armed, trial_s, rules, generation, *counts, n_why, n_limits = _fixed(
        _AREA, body, tail=True
    )
    if max(n_why, n_limits) > MAX_TEXT_BYTES:
        raise WireRefusal("bad_value", f"lengths {n_why}, {n_limits}")
    why_not, limits = _tail(body, _AREA.size, n_why, n_limits)
    allowed, denied, would_deny, dropped = counts
    return AreaStats(
        _word(AREAS, area, "area"), _word(MODES, mode, "mode"), _truth(armed, "armed"), trial_s,
        rules, generation, allowed, denied, would_deny, dropped,
        _text(why_not, "why_not"), _text(limits, "limits"),
    )  # fmt: skip


def _alarm_body(m: Alarm) -> bytes:
    code, text = _cut(m.code, MAX_CODE_BYTES), _cut(m.text, MAX_TEXT_BYTES)
    return _ALARM.pack(m.severity, m.boot_ns, len(code), len(text)) + code + text


def _alarm_parse(body: bytes) -> Alarm:
    severity, boot_ns, n_code, n_text = _fixed(_ALARM, body, tail=True)
    if not 1 <= severity <= 5 or n_code > MAX_CODE_BYTES or n_text > MAX_TEXT_BYTES:
        raise WireRefusal("bad_value", f"severity {severity}, lengths {n_code}, {n_text}")
    code, text = _tail(body, _ALARM.size, n_code, n_text)
    return Alarm(_text(code, "code"), severity, _text(text, "text"), boot_ns)


def _repeated_body(m: Repeated) -> bytes:
    return _REPEATED.pack(m.count, m.first_boot_ns, m.last_boot_ns, m.others) + encode(m.message)


def _repeated_parse(body: bytes) -> Repeated:
    count, first_ns, last_ns, others = _fixed(_REPEATED, body, tail=True)
    if not count:
        raise WireRefusal("bad_value", "repeated 0 times")
    message = parse(body[_REPEATED.size :], *COUNTED)
    return Repeated(count, first_ns, last_ns, _truth(others, "others"), message)


def _request_parse(body: bytes) -> Request:
    verb, mode, confirm_s, area = _fixed(_REQUEST, body)
    return Request(
        _word(VERBS, verb, "verb"), _word(MODES, mode, "mode"), confirm_s,
        _word(AREAS, area, "area"),
    )  # fmt: skip


def _answer_body(m: Answer) -> bytes:
    name, text = _cut(m.name, MAX_RULE_BYTES), _cut(m.text, MAX_TEXT_BYTES)
    return _ANSWER.pack(m.ok, len(name), len(text)) + name + text


def _answer_parse(body: bytes) -> Answer:
    ok, n_name, n_text = _fixed(_ANSWER, body, tail=True)
    if n_name > MAX_RULE_BYTES or n_text > MAX_TEXT_BYTES:
        raise WireRefusal("bad_value", f"lengths {n_name}, {n_text}")
    name, text = _tail(body, _ANSWER.size, n_name, n_text)
    return Answer(_truth(ok, "ok"), _text(name, "name"), _text(text, "text"))


_BODIES: dict[type[AnyMessage], Callable[[Any], bytes]] = {
    ExecVerdict: _exec_body,
    ProcBatch: _batch_body,
    GateStats: _stats_body,
    AreaStats: _area_body,
    Alarm: _alarm_body,
    ProcessAlert: alert_body,
    TierSaid: tier_body,
    Repeated: _repeated_body,
    Heartbeat: lambda m: _COUNTER.pack(m.mono_ns),
    TripInfo: lambda m: _TRIPS.pack(m.trips, m.window_s, m.pid),
    Request: lambda m: _REQUEST.pack(
        VERBS.index(m.verb), MODES.index(m.mode), m.confirm_s, AREAS.index(m.area)
    ),
    Answer: _answer_body,
    PeripheralVerdict: peripheral_body,
    NetworkVerdict: verdict_body,
    NameAnswer: answer_body,
}
_PARSERS: dict[type[AnyMessage], Callable[[bytes], AnyMessage]] = {
    ExecVerdict: _exec_parse,
    ProcBatch: _batch_parse,
    GateStats: _stats_parse,
    AreaStats: _area_parse,
    Alarm: _alarm_parse,
    ProcessAlert: alert_parse,
    TierSaid: tier_parse,
    Repeated: _repeated_parse,
    Heartbeat: lambda body: Heartbeat(*_fixed(_COUNTER, body)),
    TripInfo: lambda body: TripInfo(*_fixed(_TRIPS, body)),
    Request: _request_parse,
    Answer: _answer_parse,
    PeripheralVerdict: peripheral_parse,
    NetworkVerdict: verdict_parse,
    NameAnswer: answer_parse,
}
