"""Records: what the spool keeps and the fleet believes.

One record is one COSE_Sign1 whose payload is this map (docs/wire-format.md §3):

    0 format (1)   1 device   2 boot id   3 class   4 sequence   5 predecessor's SHA-256
    6 time [boot_ns, wall_ns, uncertainty_ms or null, state]      7 kind   8 body

Sequence and chain are per (device, class) and persist across boots; sequence starts at 1 and the
predecessor of the first record is 32 zero bytes. A record's own hash is SHA-256 over its whole
COSE bytes.

Kinds and bodies:

    report-key   {"key": COSE_Key bytes, "agent": version, "acked": int}
                 signed by the identity key, with x5chain
    batch        {"readings": SenML pack, "events": [event, ...], "counts": {name: int}}
    event        an event map (facts.py)
    gap          {"class": int, "first": int, "last": int, "before": hash, "after": hash,
                  "reason": text}
    evidence     {"evidence": evidence message}: made while there was nobody to ask (wire/quoted.py)
    memory       {"key": 8 bytes, "last": int, "hash": hash, "records": [record, ...],
                  "more": bool}: how far a chain in memory came, what nobody accepted of it (below)
    attestation  {"evidence": SHA-256 of the evidence message, "heads": {class: [seq, hash]}}

**In memory.** While the disk takes nothing, the same nine fields are signed under another content
type (ew-memory) as a chain of the report key alone: its first record introduces the key, sequence
begins at 1 with every key and counts all three classes together; field 3 says what class a fact is
of. A report key ends with its process, so no number of such a chain can be signed a second time,
whatever the disk remembers (ADR 38).

This module checks shapes; believing (keys, chain, time) is the verifier's.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import cast

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor

FORMAT = 1
NO_PREDECESSOR = bytes(32)
MAX_RECORD_BYTES = 128 * 1024
"""A bulk commit is cut at 64 kB of facts; twice that leaves room for one over-long fact and the
envelope."""
MAX_SEQ = 2**53 - 1
"""Largest integer every JSON reader keeps exact; one record a millisecond reaches it in 285,000
years."""


_IDENTIFIER = "abcdefghijklmnopqrstuvwxyz0123456789-"
MEMORY = 0
"""In the place of a class's number: the chain in memory, on its way to the broker."""


class RecordClass(IntEnum):
    """The three classes, in order of priority on the uplink."""

    ALARM = 1
    AUDIT = 2
    BULK = 3

    @property
    def label(self) -> str:
        """Name in topics, status and file names: ``alarm``, ``audit``, ``bulk``."""
        return self.name.lower()


class Kind:
    """Kinds of record bodies."""

    REPORT_KEY = "report-key"
    BATCH = "batch"
    EVENT = "event"
    GAP = "gap"
    ATTESTATION = "attestation"
    EVIDENCE = "evidence"
    MEMORY = "memory"


CLOCK_STATES = ("unsynced", "ntp", "gps", "signed")


def label_of(number: int) -> str:
    """Name of a class, or of the chain in memory."""
    return "memory" if number == MEMORY else RecordClass(number).label


@dataclass(frozen=True, slots=True)
class RecordTime:
    """When a record was made.

    Attributes:
        boot_ns: CLOCK_BOOTTIME, nanoseconds.
        wall_ns: CLOCK_REALTIME, nanoseconds since 1970.
        uncertainty_ms: how far wall_ns may be off; None when nothing vouches for it.
        state: one of CLOCK_STATES.
    """

    boot_ns: int
    wall_ns: int
    uncertainty_ms: int | None
    state: str


@dataclass(frozen=True, slots=True)
class Record:
    """The payload of one record; see the module's docstring for the body of each kind."""

    device: str
    boot_id: bytes
    record_class: RecordClass
    seq: int
    prev: bytes
    time: RecordTime
    kind: str
    body: dict[str, object]


def record_hash(data: bytes) -> bytes:
    """SHA-256 over a record's whole COSE bytes: what its successor carries as predecessor."""
    return hashlib.sha256(data).digest()


def encode_record(record: Record) -> bytes:
    """Return the payload bytes of a record."""
    t = record.time
    return cbor.encode(
        {
            0: FORMAT,
            1: record.device,
            2: record.boot_id,
            3: int(record.record_class),
            4: record.seq,
            5: record.prev,
            6: [t.boot_ns, t.wall_ns, t.uncertainty_ms, CLOCK_STATES.index(t.state)],
            7: record.kind,
            8: cast("cbor.Value", record.body),
        }
    )


def decode_record(payload: bytes) -> Record:
    """Read a verified payload.

    Raises:
        WireRefusal: names of cbor.py, or ``bad_record`` naming the first field at fault.
    """
    body = cbor.decode(payload, MAX_RECORD_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(9)):
        raise WireRefusal("bad_record", "not the nine fields of a record")
    if not _is_uint(body[0]) or body[0] != FORMAT:
        raise WireRefusal("bad_record", f"format {body[0]!r} is not {FORMAT}")
    device, boot_id, seq, prev, kind, inner = body[1], body[2], body[4], body[5], body[7], body[8]
    if not isinstance(device, str) or not is_identifier(device):
        raise WireRefusal("bad_record", "device is not a device id")
    if not isinstance(boot_id, bytes) or len(boot_id) != 16:
        raise WireRefusal("bad_record", "boot id is not 16 bytes")
    if not _is_uint(body[3]) or body[3] not in (1, 2, 3):
        raise WireRefusal("bad_record", f"class {body[3]!r} is not known")
    if not _is_uint(seq) or not 1 <= seq <= MAX_SEQ:
        raise WireRefusal("bad_record", "sequence is out of range")
    if not isinstance(prev, bytes) or len(prev) != 32:
        raise WireRefusal("bad_record", "predecessor is not 32 bytes")
    if not isinstance(kind, str) or not 1 <= len(kind) <= 32:
        raise WireRefusal("bad_record", "kind is not a short text")
    if not isinstance(inner, dict) or not all(isinstance(k, str) for k in inner):
        raise WireRefusal("bad_record", "body is not a map of names")
    return Record(device, boot_id, RecordClass(body[3]), seq, prev, _time(body[6]), kind, inner)


def is_identifier(text: str) -> bool:
    """Is text a device or tenant id: [a-z0-9][a-z0-9-]{0,62}."""
    return 1 <= len(text) <= 63 and text[0] != "-" and not text.strip(_IDENTIFIER)


def _is_uint(value: object) -> bool:
    """Is value spelt as an unsigned integer; True and 1.0 equal 1 in Python and are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _time(value: object) -> RecordTime:
    if not isinstance(value, list) or len(value) != 4:
        raise WireRefusal("bad_record", "time is not an array of four")
    boot_ns, wall_ns, uncertainty_ms, state = value
    if not (_is_uint(boot_ns) and _is_uint(wall_ns)):
        raise WireRefusal("bad_record", "time is not unsigned nanoseconds")
    if uncertainty_ms is not None and not _is_uint(uncertainty_ms):
        raise WireRefusal("bad_record", "uncertainty is not unsigned milliseconds")
    if not _is_uint(state) or state >= len(CLOCK_STATES):
        raise WireRefusal("bad_record", f"clock state {state!r} is not known")
    return RecordTime(boot_ns, wall_ns, uncertainty_ms, CLOCK_STATES[state])
