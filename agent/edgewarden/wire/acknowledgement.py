"""The verifier's acknowledgement: up to which record of each class it has stored what it believes.

    verifier -> gateway  e/ack  {0: 1, 1: tenant, 2: device, 3: {class: [seq, hash, head]}}

Signed by the verifier's key, which the gateway pins at enrolment. For each class that it names:
every record up to ``seq`` is stored, or its absence is accounted for by a signed gap record, or the
gateway said itself that it had let go of it. ``hash`` is the record hash (wire/record.py) of that
very ``seq``: with it the whole history before it is named. ``head`` is the highest sequence
stored; above ``seq`` when something between them is missing.

It is cumulative: the same one twice, or an older one, says nothing new. Shapes only; what a gateway
makes of it is link/acknowledged.py. Refusal: ``bad_acknowledgement``, naming the field at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgewarden.wire import cbor
from edgewarden.wire.fields import Fields
from edgewarden.wire.record import MAX_SEQ, RecordClass

FORMAT = 1
HASH_BYTES = 32
MAX_ACKNOWLEDGEMENT_BYTES = 1024
"""Two names of 63 bytes, three classes of 52 bytes, and the envelope: under 400."""


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
class Acknowledgement:
    """One message of e/ack."""

    tenant: str
    device: str
    upto: Mapping[RecordClass, Upto]


def encode_acknowledgement(said: Acknowledgement) -> bytes:
    """Payload of e/ack."""
    upto: dict[int | str, cbor.Value] = {
        int(c): [u.seq, u.hash, u.head] for c, u in said.upto.items()
    }
    return cbor.encode({0: FORMAT, 1: said.tenant, 2: said.device, 3: upto})


def decode_acknowledgement(payload: bytes) -> Acknowledgement:
    """Read a verified payload; raises WireRefusal (cbor.py's names, ``bad_acknowledgement``)."""
    f = Fields(payload, "bad_acknowledgement", set(range(4)))
    f.constant(0, FORMAT)
    upto = {c: _upto(f, value) for c, value in f.classes(3).items()}
    if not upto:
        raise f.no(3, "names no class")
    return Acknowledgement(f.identifier(1), f.identifier(2), upto)


def _upto(f: Fields, value: object) -> Upto:
    if not isinstance(value, list) or len(value) != 3:
        raise f.no(3, "has a class that is not an array of three")
    seq, digest, head = value
    for number in (seq, head):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_SEQ:
            raise f.no(3, "has a sequence out of range")
    if not isinstance(digest, bytes) or len(digest) != HASH_BYTES:
        raise f.no(3, f"has a hash that is not {HASH_BYTES} bytes")
    if head < seq:
        raise f.no(3, "has a head below its sequence")
    return Upto(seq, digest, head)
