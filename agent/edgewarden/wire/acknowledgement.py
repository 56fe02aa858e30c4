"""The verifier's acknowledgement: up to which record of each class it has stored what it believes.

    verifier -> gateway  e/ack  {0: 1, 1: tenant, 2: device, 3: {class: [seq, hash, head]},
                                 ? 4: [kid, [[first, last, hash], ...]]}

Signed by the verifier's key, which the gateway pins at enrolment. For each class that it names:
every record up to ``seq`` is stored, or its absence is accounted for by a signed gap record, or the
gateway said itself that it had let go of it. ``hash`` is the record hash (wire/record.py) of that
very ``seq``: with it the whole history before it is named. ``head`` is the highest sequence
stored; above ``seq`` when something between them is missing.

Field 4 is there while a chain in memory stands open (ADR 38): whose key's it is, and up to MAX_RUNS
stretches of it that are stored without a hole, in order, each with the hash of its last record. A
run begins at most RUNS_BACK records behind the chain's head, wherever the stretch began. With runs
and not one number a record that its gateway gave up holds nothing up: no status says so of such a
chain.

It is cumulative: the same one twice, or an older one, says nothing new. Shapes only; what a gateway
makes of it is link/acknowledged.py. Refusal: ``bad_acknowledgement``, naming the field at fault.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.fields import Fields
from edgewarden.wire.record import MAX_SEQ, RecordClass

FORMAT = 1
HASH_BYTES = 32
MAX_ACKNOWLEDGEMENT_BYTES = 1024
"""Two names of 63 bytes, three classes of 52 bytes, eight runs of 53, the envelope: under 900."""
KID_BYTES = 8
MAX_RUNS = 8
"""A hole is a record that the broker lost or the verifier refused: more at once are one outage."""
RUNS_BACK = 512
"""Twice what a gateway keeps in memory (record/memory.py)."""


@dataclass(frozen=True, slots=True)
class Upto:
    """How far one class has come.

    Attributes:
        seq: everything up to here is accounted for.
        hash: of the record with this sequence.
        head: the highest sequence stored.
    """

    seq: int
    hash: bytes
    head: int


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a chain in memory, stored without a hole.

    Attributes:
        hash: of the record ``last``.
    """

    first: int
    last: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class InMemory:
    """What is stored of a chain in memory.

    Attributes:
        kid: of the report key whose chain it is.
        runs: in order, none touching the next.
    """

    kid: bytes
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """One message of e/ack."""

    tenant: str
    device: str
    upto: Mapping[RecordClass, Upto]
    memory: InMemory | None = None


def encode_acknowledgement(said: Acknowledgement) -> bytes:
    """Payload of e/ack."""
    upto: dict[int | str, cbor.Value] = {
        int(c): [u.seq, u.hash, u.head] for c, u in said.upto.items()
    }
    body: dict[int | str, cbor.Value] = {0: FORMAT, 1: said.tenant, 2: said.device, 3: upto}
    if said.memory is not None:
        body[4] = [said.memory.kid, [[r.first, r.last, r.hash] for r in said.memory.runs]]
    return cbor.encode(body)


def decode_acknowledgement(payload: bytes) -> Acknowledgement:
    """Read a verified payload; raises WireRefusal (cbor.py's names, ``bad_acknowledgement``)."""
    f = Fields(payload, "bad_acknowledgement", set(range(4)), may=frozenset({4}))
    f.constant(0, FORMAT)
    upto = {c: _upto(f, value) for c, value in f.classes(3).items()}
    memory = _memory(f, f.body[4]) if 4 in f.body else None
    if not upto and memory is None:
        raise f.no(3, "names no class")
    return Acknowledgement(f.identifier(1), f.identifier(2), upto, memory)


def _upto(f: Fields, value: object) -> Upto:
    if not isinstance(value, list) or len(value) != 3:
        raise f.no(3, "has a class that is not an array of three")
    seq, digest, head = value
    upto = Upto(_seq(f, 3, seq), _hash(f, 3, digest), _seq(f, 3, head))
    if upto.head < upto.seq:
        raise f.no(3, "has a head below its sequence")
    return upto


def _memory(f: Fields, value: object) -> InMemory:
    if not isinstance(value, list) or len(value) != 2:
        raise f.no(4, "is not an array of two")
    kid, rows = value
    if not isinstance(kid, bytes) or len(kid) != KID_BYTES:
        raise f.no(4, f"has a kid that is not {KID_BYTES} bytes")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_RUNS:
        raise f.no(4, f"has not 1 to {MAX_RUNS} runs")
    runs: list[Run] = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 3:
            raise f.no(4, "has a run that is not an array of three")
        run = Run(_seq(f, 4, row[0]), _seq(f, 4, row[1]), _hash(f, 4, row[2]))
        if run.last < run.first or (runs and run.first <= runs[-1].last + 1):
            raise f.no(4, "has runs that are not in order")
        runs.append(run)
    return InMemory(kid, tuple(runs))


def _seq(f: Fields, key: int, number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_SEQ:
        raise f.no(key, "has a sequence out of range")
    return number


def _hash(f: Fields, key: int, digest: object) -> bytes:
    if not isinstance(digest, bytes) or len(digest) != HASH_BYTES:
        raise f.no(key, f"has a hash that is not {HASH_BYTES} bytes")
    return digest
