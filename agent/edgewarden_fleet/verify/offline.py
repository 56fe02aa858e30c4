"""A file of records against the CA certificate alone: no registry, no store, nothing of ours
running.

The file is a CBOR sequence (RFC 8742): COSE_Sign1 messages one behind the other, as mosquitto_sub
writes them one by one. Checked as in pipeline.py, with two differences that a file forces:
revocation is not known, and certificates are judged at a time the caller names. Records stand in
the order of their arrival; an introduction must come before what it introduces.

    for line in check_file(data, roots, at_utc_s): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from edgewarden.errors import WireRefusal
from edgewarden.judge.continuity import Chain, Neighbours, Offer, Outcome, judge
from edgewarden.judge.report_keys import Introduction, refusal
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import (
    MAX_RECORD_BYTES,
    Kind,
    Record,
    RecordClass,
    decode_record,
    record_hash,
)
from edgewarden_fleet.verify.chain import check_chain

MAX_FILE_BYTES = 1 << 30
_SIGN1 = b"\xd2\x84"


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one message of the file."""

    offset: int
    accepted: bool
    outcome: str
    why: str = ""
    record: Record | None = None


@dataclass
class _State:
    keys: dict[tuple[str, bytes], cose.Verify] = field(default_factory=dict)
    introduced: dict[str, list[Introduction]] = field(default_factory=dict)
    chains: dict[tuple[str, RecordClass], Chain] = field(default_factory=dict)
    stored: dict[tuple[str, RecordClass, int], tuple[bytes, bytes]] = field(default_factory=dict)


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a sequence of COSE_Sign1 messages: (offset, message).

    Only heads are read, and only of the one shape that wire/cose.py accepts.

    Raises:
        WireRefusal: ``wrong_tag`` or ``truncated``; what came before it was whole.
    """
    at = 0
    while at < len(data):
        begin = at
        if data[at : at + 2] != _SIGN1:
            raise WireRefusal("wrong_tag", f"no COSE_Sign1 at byte {at}")
        at = _string(data, at + 2)
        if data[at : at + 1] != b"\xa0":
            raise WireRefusal("bad_header", f"unprotected header at byte {at} is not empty")
        at = _string(data, _string(data, at + 1))
        yield begin, data[begin:at]


def _string(data: bytes, at: int) -> int:
    """Offset behind the byte string at ``at``."""
    if at >= len(data) or data[at] >> 5 != 2:
        raise WireRefusal("bad_envelope", f"no byte string at byte {at}")
    info = data[at] & 31
    width = {24: 1, 25: 2, 26: 4}.get(info, 0)
    if info > 26:
        raise WireRefusal("not_deterministic", f"length at byte {at}")
    at += 1
    length = int.from_bytes(data[at : at + width], "big") if width else info
    if at + width + length > len(data):
        raise WireRefusal("truncated", "the file ends inside a message")
    return at + width + length


def check_file(data: bytes, roots: Sequence[x509.Certificate], at_utc_s: float) -> Iterator[Line]:
    """Verify every message of a file, in order; what cannot be cut ends it, at its own offset."""
    state, end = _State(), 0
    try:
        for offset, message in split(data):
            end = offset + len(message)
            try:
                record = _believe(message, roots, at_utc_s, state)
            except WireRefusal as fault:
                yield Line(offset, False, fault.name, _why(fault))
                continue
            line = _continue(offset, message, record, state)
            if line.accepted and record.kind == Kind.REPORT_KEY:
                _introduce(record, state)
            yield line
    except WireRefusal as fault:
        yield Line(end, False, fault.name, _why(fault))


def _why(fault: WireRefusal) -> str:
    return fault.text.removeprefix(fault.name).removeprefix(": ")


def _believe(
    message: bytes, roots: Sequence[x509.Certificate], at_utc_s: float, state: _State
) -> Record:
    envelope = cose.open_envelope(message, ContentType.RECORD, MAX_RECORD_BYTES)
    if envelope.x5chain:
        identity = check_chain(envelope.x5chain, roots, at_utc_s)
        if key_id(identity.public_key) != envelope.kid:
            raise WireRefusal("bad_header", "kid is not that of the certificate's key")
        cose.check_signature(envelope, verifier_for(identity.public_key))
        record = decode_record(envelope.payload)
        key = record.body.get("key")
        if record.device != identity.device:
            raise WireRefusal("wrong_topic", "the record names another device than its certificate")
        if record.kind != Kind.REPORT_KEY or not isinstance(key, bytes):
            raise WireRefusal("wrong_signer", f"kind {record.kind!r} is not this key's to sign")
        verifier_for(key)
        return record
    for (device, kid), verify in state.keys.items():
        if kid == envelope.kid and verify(envelope.signed_bytes(), envelope.signature):
            record = decode_record(envelope.payload)
            if record.device != device or record.kind == Kind.REPORT_KEY:
                raise WireRefusal("wrong_signer", "this key may not sign that")
            known_here = state.introduced[device]
            why = refusal(kid, record.record_class, record.seq, known_here)
            if why:
                raise WireRefusal("stale_key", why)
            return record
    known = any(kid == envelope.kid for _, kid in state.keys)
    raise WireRefusal("bad_signature" if known else "unknown_key")


def _introduce(record: Record, state: _State) -> None:
    key = record.body["key"]
    assert isinstance(key, bytes)
    kid, time = key_id(key), record.time
    state.keys[record.device, kid] = verifier_for(key)
    state.introduced.setdefault(record.device, []).append(
        Introduction(kid, record.record_class, record.seq, record.boot_id, time.boot_ns)
    )


def _continue(offset: int, message: bytes, record: Record, state: _State) -> Line:
    place, seq, digest = (record.device, record.record_class), record.seq, record_hash(message)
    stored = state.stored
    same, before, after = (stored.get((*place, n)) for n in (seq, seq - 1, seq + 1))
    around = Neighbours(
        same[0] if same else None, before[0] if before else None, after[1] if after else None
    )
    judged = judge(state.chains.get(place, Chain()), Offer(seq, record.prev, digest), around)
    state.chains[place] = judged.chain
    if judged.accepted:
        stored[(*place, seq)] = (digest, record.prev)
    why = judged.why
    if judged.outcome is Outcome.GAP and not why:
        why = "records are missing before it"
    return Line(offset, judged.accepted, str(judged.outcome), why, record)
