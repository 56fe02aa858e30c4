"""The published vectors: our code says of each what its file says; the files are what is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import acknowledgement, cbor, cose, evidence, facts, quoted, record, topics
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import NO_PREDECESSOR, Kind, record_hash
from tests.vectors import make

FOLDER = Path(make.__file__).parent
NAMES = sorted(p.stem for p in FOLDER.glob("*.vec"))


def decode_evidence(payload: bytes) -> evidence.Evidence:
    return evidence.decode_evidence(quoted.decode_payload(payload)[0])


DECODERS = {
    ContentType.RECORD: record.decode_record,
    ContentType.MEMORY: record.decode_record,
    ContentType.EVIDENCE: decode_evidence,
    ContentType.NONCE: evidence.decode_challenge,
    ContentType.RESULT: evidence.decode_result,
    ContentType.STATUS: evidence.decode_status,
    ContentType.ACKNOWLEDGEMENT: acknowledgement.decode_acknowledgement,
}


@dataclass(frozen=True)
class Read:
    """A vector as read from its file."""

    fields: dict[str, str]
    data: bytes


def read(name: str) -> Read:
    head, _, digits = (FOLDER / f"{name}.vec").read_text().partition("\nhex:\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    return Read(fields, bytes.fromhex(digits))


def outcome(vector: Read) -> str:
    """What a receiver on that topic, holding that key, says of the message."""
    kind, key = ContentType(vector.fields["type"]), bytes.fromhex(vector.fields["key"])
    try:
        envelope = cose.open_envelope(vector.data, kind)
        cose.check_signature(envelope, verifier_for(key))
        body = DECODERS[kind](envelope.payload)
        if isinstance(body, record.Record):
            if body.kind == Kind.EVENT:
                facts.event_from_map(body.body)
            if body.kind == Kind.BATCH:
                facts.readings_from_senml(body.body["readings"], body.time.boot_ns)
    except WireRefusal as refusal:
        return refusal.name
    return "accepted"


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = read(name)
    assert list(vector.fields) == ["why", "expect", "topic", "type", "key"]
    assert outcome(vector) == vector.fields["expect"]
    topics.parse(vector.fields["topic"])


def test_making_them_again_gives_the_same_bytes() -> None:
    there = {p.name: p.read_text() for p in FOLDER.glob("*.vec")}
    there["ca.pem"] = (FOLDER / "ca.pem").read_text()
    assert there == make.files()


def test_every_refusal_of_a_single_message_has_a_vector() -> None:
    """``too_long`` has none: a message over the limit is half a megabyte of hexadecimal."""
    shown = {read(name).fields["expect"] for name in NAMES}
    assert shown == {
        "accepted", "truncated", "wrong_tag", "trailing_bytes", "not_deterministic", "bad_envelope",
        "bad_header", "duplicate_key", "unknown_algorithm", "wrong_type", "bad_signature",
        "bad_record", "forbidden_item", "bad_text", "too_deep", "bad_fact", "bad_challenge",
        "bad_evidence", "bad_result", "bad_status", "bad_acknowledgement",
    }  # fmt: skip


@pytest.mark.parametrize("label", ["audit", "alarm", "bulk", "memory"])
def test_the_good_records_are_chains_with_their_introduction(label: str) -> None:
    prev, key = NO_PREDECESSOR, None
    names = [n for n in NAMES if n.startswith("ok-") and f"-{label}-" in n]
    assert len(names) >= 2
    for seq, name in enumerate(names, start=1):
        data = read(name).data
        kind = ContentType.MEMORY if label == "memory" else ContentType.RECORD
        envelope = cose.open_envelope(data, kind)
        body = record.decode_record(envelope.payload)
        assert (body.seq, body.prev) == (seq, prev)
        if seq == 1:
            assert body.kind == Kind.REPORT_KEY
            assert len(envelope.x5chain) == 2
            key = body.body["key"]
        else:
            assert isinstance(key, bytes)
            assert envelope.kid == key_id(key)
        prev = record_hash(data)


def test_the_manual_quotes_the_event_vector() -> None:
    """docs/wire-format.md takes one message apart byte by byte."""
    page = (FOLDER.parents[1] / "docs" / "wire-format.md").read_text()
    data = read("ok-12-audit-event").data
    assert data.hex() in "".join(page.split())
    protected = cbor.decode(data[1:])
    assert isinstance(protected, list)
    assert protected[0].hex() in "".join(page.split())


def test_the_manuals_grammar_names_every_content_type() -> None:
    page = (FOLDER.parents[1] / "docs" / "wire-format.md").read_text()
    grammar = page[page.index("content-type =") : page.index("x5chain =")]
    assert {str(kind) for kind in ContentType} == set(re.findall(r'"([^"]+)"', grammar))
