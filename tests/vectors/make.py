"""Makes the test vectors: ``python -m tests.vectors.make``; a test holds the files to it.

Every byte is fixed: keys from samples.py (TEST-ONLY), signatures by RFC 6979, certificates signed
the same way. Each file is header lines and then hexadecimal:

    why:     what the vector shows
    expect:  accepted, or the name of the refusal (docs/wire-format.md)
    topic:   where it would be published
    type:    the content type that the receiver of that topic asks for
    key:     COSE_Key of the key that the receiver would check the signature with
    hex:     the message, in lines

The good records form chains that begin with their introduction, so a whole verifier can be fed with
them in the order of their names; ca.pem is the root they lead to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from edgewarden.trust.keys import FileSigner
from edgewarden.wire import acknowledgement, cbor, cose, evidence, quoted, record
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import Kind, RecordClass
from tests.vectors.fixed import DEVICE, ORDER, TENANT, ca_pem, chain, fixed_sign
from tests.wire import samples, tpm_vectors

HERE = Path(__file__).parent
RECORDS, AUDIT = ContentType.RECORD, f"ew/1/{TENANT}/{DEVICE}/r/audit"
MEMORIES, MEMORY_TOPIC = ContentType.MEMORY, f"ew/1/{TENANT}/{DEVICE}/r/memory"
AUDIT_HEAD = 4
"""Records of audit in record_vectors()."""


@dataclass(frozen=True)
class Vector:
    """One file."""

    name: str
    why: str
    expect: str
    topic: str
    type: ContentType
    key: bytes
    data: bytes

    def text(self) -> str:
        digits = self.data.hex()
        lines = [digits[i : i + 96] for i in range(0, len(digits), 96)]
        head = (f"why: {self.why}", f"expect: {self.expect}", f"topic: {self.topic}",
                f"type: {self.type}", f"key: {self.key.hex()}", "hex:")  # fmt: skip
        return "\n".join((*head, *lines, ""))


# --- the good messages --------------------------------------------------------------------------


def sealed(
    payload: bytes,
    kind: ContentType = RECORDS,
    signer: FileSigner = samples.REPORT,
    x5chain: tuple[bytes, ...] = (),
) -> bytes:
    return cose.seal(payload, kind, signer.kid, fixed_sign(signer), x5chain)


def record_vectors() -> list[Vector]:
    """Three chains, each introduced: audit, alarm, bulk."""
    bodies: dict[RecordClass, list[tuple[str, dict[str, object]]]] = {
        RecordClass.AUDIT: [
            (Kind.EVENT, dict(samples.record().body)),
            (Kind.GAP, {"class": 3, "first": 5, "last": 9, "before": bytes([5]) * 32,
                        "after": bytes([9]) * 32, "reason": "spool full"}),
            (Kind.ATTESTATION, {"evidence": hashlib.sha256(b"evidence").digest(),
                                "heads": {1: [1, bytes([1]) * 32]}}),
        ],
        RecordClass.ALARM: [(Kind.EVENT, dict(samples.record().body))],
        RecordClass.BULK: [(Kind.BATCH, dict(samples.BATCH))],
    }  # fmt: skip
    made = []
    for place, (record_class, kinds) in enumerate(bodies.items()):
        prev = record.NO_PREDECESSOR
        introduction = {"key": samples.REPORT.public_key(), "agent": "0.1.0", "acked": 0}
        for seq, (kind, body) in enumerate([(Kind.REPORT_KEY, introduction), *kinds], start=1):
            payload = record.encode_record(
                samples.record(record_class=record_class, seq=seq, prev=prev, kind=kind, body=body)
            )
            first = seq == 1
            signer = samples.IDENTITY if first else samples.REPORT
            data = sealed(payload, RECORDS, signer, chain() if first else ())
            name = f"ok-{place + 1}{seq}-{record_class.label}-{kind}"
            why = f"record {seq} of class {record_class.label}, kind {kind}"
            topic = AUDIT.replace("audit", record_class.label)
            made.append(Vector(name, why, "accepted", topic, RECORDS, signer.public_key(), data))
            prev = record.record_hash(data)
    return made


def memory_vectors(audit: Vector) -> list[Vector]:
    """A chain in memory behind the last record of audit, and the record of audit that ends it."""
    rows: list[tuple[RecordClass, str, dict[str, object]]] = [
        (RecordClass.AUDIT, Kind.REPORT_KEY, {"key": samples.REPORT.public_key(), "agent": "0.1.0",
                                              "acked": 0, "behind": AUDIT_HEAD}),
        (RecordClass.ALARM, Kind.EVENT, dict(samples.record().body)),
        (RecordClass.BULK, Kind.BATCH, dict(samples.BATCH)),
    ]  # fmt: skip
    made, prev = [], record.NO_PREDECESSOR
    for seq, (record_class, kind, body) in enumerate(rows, start=1):
        payload = record.encode_record(
            samples.record(record_class=record_class, seq=seq, prev=prev, kind=kind, body=body)
        )
        signer = samples.IDENTITY if seq == 1 else samples.REPORT
        data = sealed(payload, MEMORIES, signer, chain() if seq == 1 else ())
        name, why = f"ok-4{seq}-memory-{kind}", f"record {seq} of a chain in memory, kind {kind}"
        made.append(
            Vector(name, why, "accepted", MEMORY_TOPIC, MEMORIES, signer.public_key(), data)
        )
        prev = record.record_hash(data)
    end: dict[str, object] = {"key": samples.REPORT.kid, "last": len(rows), "hash": prev,
                              "records": [made[-1].data], "more": False}  # fmt: skip
    last = samples.record(
        seq=AUDIT_HEAD + 1, prev=record.record_hash(audit.data), kind=Kind.MEMORY, body=end
    )
    why = "ends the chain in memory and carries the record of it that nobody had accepted"
    data, key = sealed(record.encode_record(last)), samples.REPORT.public_key()
    return [*made, Vector("ok-44-audit-memory", why, "accepted", AUDIT, RECORDS, key, data)]


def other_vectors() -> list[Vector]:
    """Challenge, evidence, result, status."""
    evidences = quoted.encode_payload(samples.CLAIMS, None)
    by_tpm = quoted.encode_payload(samples.CLAIMS, quoted.whole(tpm_vectors.QUOTE))
    online = evidence.encode_status(samples.STATUS)
    will = evidence.encode_status(replace(samples.STATUS, online=False))
    nonce = evidence.encode_challenge(samples.CHALLENGE)
    result = evidence.encode_result(samples.RESULT)
    rows = [
        ("nonce", "a challenge", "e/nonce", ContentType.NONCE, samples.VERIFIER, nonce),
        ("evidence", "the answer to it", "e/evidence", ContentType.EVIDENCE, samples.IDENTITY,
         evidences),
        ("result", "the verdict on it", "e/result", ContentType.RESULT, samples.VERIFIER, result),
        ("status", "a session begins", "s/status", ContentType.STATUS, samples.IDENTITY, online),
        ("will", "the last will", "s/status", ContentType.STATUS, samples.IDENTITY, will),
        ("evidence-tpm", "evidence beside which a TPM's word stands", "e/evidence",
         ContentType.EVIDENCE, samples.IDENTITY, by_tpm),
        ("ack", "up to where the verifier has stored what it believes", "e/ack",
         ContentType.ACKNOWLEDGEMENT, samples.VERIFIER,
         acknowledgement.encode_acknowledgement(samples.ACKNOWLEDGEMENT)),
        ("ack-memory", "the same, and what is stored of a chain in memory", "e/ack",
         ContentType.ACKNOWLEDGEMENT, samples.VERIFIER,
         acknowledgement.encode_acknowledgement(samples.ACKNOWLEDGEMENT_IN_MEMORY)),
    ]  # fmt: skip
    made = []
    for number, (name, why, place, kind, signer, payload) in enumerate(rows, start=1):
        certificates = chain() if signer is samples.IDENTITY else ()
        data = sealed(payload, kind, signer, certificates)
        topic = f"ew/1/{TENANT}/{DEVICE}/{place}"
        key = signer.public_key()
        made.append(Vector(f"ok-5{number}-{name}", why, "accepted", topic, kind, key, data))
    return made


# --- the bad ones -------------------------------------------------------------------------------


def signed_anyway(protected: bytes, payload: bytes, unprotected: object = None) -> bytes:
    """A message whose signature holds although its header or payload is not ours."""
    message = cbor.encode(["Signature1", protected, b"", payload])
    signature = fixed_sign(samples.REPORT)(message)
    return samples.assembled(protected, unprotected, payload, signature)


def bad_envelopes() -> list[tuple[str, str, str, bytes]]:
    """(refusal, label, why, message) for everything open_envelope refuses."""
    payload = record.encode_record(samples.record())
    good = sealed(payload)
    header, parts = samples.header, cbor.decode(good[1:])
    assert isinstance(parts, list)
    nonce = samples.header({3: str(ContentType.NONCE)})
    indefinite = b"\xd2\x9f" + b"".join(cbor.encode(p) for p in parts) + b"\xff"
    return [
        ("truncated", "empty", "no bytes at all", b""),
        ("truncated", "cut", "the last byte is missing", good[:-1]),
        ("wrong_tag", "untagged", "no tag", good[1:]),
        ("wrong_tag", "mac0", "tag 17, COSE_Mac0", b"\xd1" + good[1:]),
        ("wrong_tag", "long-head", "tag 18 in two bytes", b"\xd8\x12" + good[1:]),
        ("trailing_bytes", "one", "one byte follows", good + b"\x00"),
        ("not_deterministic", "indefinite", "array of indefinite length", indefinite),
        ("bad_envelope", "three", "array of three", b"\xd2" + cbor.encode(parts[:3])),
        ("bad_envelope", "detached", "payload is null",
         b"\xd2" + cbor.encode([parts[0], {}, None, parts[3]])),
        ("bad_envelope", "signature", "63 bytes of signature",
         b"\xd2" + cbor.encode([parts[0], {}, payload, parts[3][:63]])),
        ("bad_header", "unprotected-alg", "the algorithm stands in the unprotected header",
         signed_anyway(header(without=(1,)), payload, {1: -7})),
        ("bad_header", "label", "a label that is not ours",
         signed_anyway(header({2: [4]}), payload)),
        ("bad_header", "kid", "kid of 7 bytes", signed_anyway(header({4: bytes(7)}), payload)),
        ("bad_header", "x5chain", "one certificate in an array",
         signed_anyway(header({33: [chain()[0]]}), payload)),
        ("duplicate_key", "header", "the algorithm twice",
         signed_anyway(b"\xa4\x01\x26\x01\x26" + header()[3:], payload)),
        ("unknown_algorithm", "none", "no algorithm", signed_anyway(header(without=(1,)), payload)),
        ("unknown_algorithm", "es384", "ES384", signed_anyway(header({1: -35}), payload)),
        ("unknown_algorithm", "float", "-7.0 is not -7",
         signed_anyway(header({1: -7.0}), payload)),
        ("wrong_type", "nonce", "a nonce where a record is expected",
         signed_anyway(nonce, payload)),
    ]  # fmt: skip


def bad_signatures() -> list[tuple[str, str, str, bytes]]:
    payload = record.encode_record(samples.record())
    good = sealed(payload)
    parts = cbor.decode(good[1:])
    assert isinstance(parts, list)
    signature = parts[3]
    s = int.from_bytes(signature[32:], "big")
    twin = signature[:32] + (ORDER - s).to_bytes(32, "big")
    later = record.encode_record(samples.record(seq=2))

    def altered(payload: bytes, signature: bytes) -> bytes:
        return b"\xd2" + cbor.encode([parts[0], {}, payload, signature])

    return [
        ("bad_signature", "payload", "another sequence under the same signature",
         altered(later, signature)),
        ("bad_signature", "r", "one bit of r", altered(payload, b"\x01" + signature[1:])),
        ("bad_signature", "zero", "r and s are zero", altered(payload, bytes(64))),
        ("bad_signature", "twin", "(r, n - s): any ECDSA library takes it; s is in the upper half",
         altered(payload, twin)),
        ("bad_signature", "stranger", "signed by another key under this key's kid",
         cose.seal(payload, RECORDS, samples.REPORT.kid, fixed_sign(samples.STRANGER))),
    ]  # fmt: skip


def bad_payloads() -> list[tuple[str, str, str, bytes]]:
    """Payloads under a signature that holds."""
    good = record.encode_record(samples.record())
    body = cbor.decode(good)
    assert isinstance(body, dict)

    def put(field: int, value: object) -> bytes:
        return cbor.encode({**body, field: value})

    rows = [
        ("bad_record", "eight", "one field is missing",
         cbor.encode({k: v for k, v in body.items() if k != 5})),
        ("bad_record", "format", "format 2", put(0, 2)),
        ("bad_record", "device", "a device id with a slash", put(1, "gw/test")),
        ("bad_record", "boot", "boot id of 15 bytes", put(2, bytes(15))),
        ("bad_record", "class", "class 4", put(3, 4)),
        ("bad_record", "class-float", "class 1.0", put(3, 1.0)),
        ("bad_record", "seq", "sequence 0", put(4, 0)),
        ("bad_record", "prev", "predecessor of 31 bytes", put(5, bytes(31))),
        ("bad_record", "time", "time of three", put(6, [1, 2, 3])),
        ("bad_record", "kind", "kind is empty", put(7, "")),
        ("bad_record", "body", "body is a list", put(8, [])),
        ("trailing_bytes", "payload", "a byte follows the map", good + b"\x00"),
        ("duplicate_key", "payload", "field 0 twice", b"\xaa\x00\x01" + good[1:]),
        ("not_deterministic", "long-int", "format as 1801", b"\xa9\x00\x18\x01" + good[3:]),
        ("not_deterministic", "order", "field 1 before field 0",
         b"\xa9" + good[3:3 + 9] + good[1:3] + good[12:]),
        ("not_deterministic", "long-float", "40000.0 in five bytes",
         put(8, {"x": 40000.0}).replace(b"\xf9\x78\xe2", b"\xfa\x47\x1c\x40\x00")),
        ("forbidden_item", "tag", "a tagged text (35, a regular expression)",
         put(8, {"x": "a("}).replace(b"\x62a(", b"\xd8\x23\x62a(")),
        ("forbidden_item", "key", "a byte string as map key",
         put(8, {"x": 1}).replace(b"\xa1\x61x\x01", b"\xa1\x41x\x01")),
        ("bad_text", "utf-8", "a text that is not UTF-8",
         put(8, {"x": "ab"}).replace(b"\x62ab", b"\x62\xc3\x28")),
        ("too_deep", "17", "17 containers inside each other",
         put(8, {"x": 1}).replace(b"\x61x\x01", b"\x61x" + b"\x81" * 15 + b"\x01")),
    ]  # fmt: skip
    return [(refusal, label, why, sealed(payload)) for refusal, label, why, payload in rows]


def bad_facts() -> list[tuple[str, str, str, bytes]]:
    event = dict(samples.record().body)
    rows: list[tuple[str, str, str, dict[str, object]]] = [
        ("event", "an event of an unknown class", Kind.EVENT, {**event, "class_uid": 9999}),
        ("reading", "a reading from the future", Kind.BATCH,
         {"readings": [{-2: "gps/", 0: "lat", 2: 1.0, 6: 0.5}], "events": [], "counts": {}}),
    ]  # fmt: skip
    substitute = {-2: "gps/", 0: "lat", 2: 1.0, 6: 0.0, "ew-q": "substituted"}
    rows.append(("quality", "a substituted reading without what was measured", Kind.BATCH,
                 {"readings": [substitute], "events": [], "counts": {}}))  # fmt: skip
    made = []
    for label, why, kind, body in rows:
        payload = record.encode_record(samples.record(kind=kind, body=body))
        made.append(("bad_fact", label, why, sealed(payload)))
    return made


def bad_messages() -> list[Vector]:
    """One bad field of each of the four other messages, under a signature that holds."""
    rows = [
        ("bad_challenge", "e/nonce", ContentType.NONCE, samples.VERIFIER, 3, bytes(31),
         "nonce of 31 bytes", evidence.encode_challenge(samples.CHALLENGE)),
        ("bad_evidence", "e/evidence", ContentType.EVIDENCE, samples.IDENTITY, -70001, "G9",
         "a grade that does not exist", samples.CLAIMS),
        ("bad_result", "e/result", ContentType.RESULT, samples.VERIFIER, 7, 3,
         "a tier that does not exist", evidence.encode_result(samples.RESULT)),
        ("bad_acknowledgement", "e/ack", ContentType.ACKNOWLEDGEMENT, samples.VERIFIER, 3,
         {2: [12, bytes(32), 11]}, "a head below the sequence",
         acknowledgement.encode_acknowledgement(samples.ACKNOWLEDGEMENT)),
        ("bad_status", "s/status", ContentType.STATUS, samples.IDENTITY, 5, 1,
         "1 where true or false is expected", evidence.encode_status(samples.STATUS)),
    ]  # fmt: skip
    made = []
    for refusal, place, kind, signer, field, value, why, good in rows:
        body = cbor.decode(good)
        assert isinstance(body, dict)
        payload = cbor.encode({**body, field: value})
        if kind is ContentType.EVIDENCE:
            payload = quoted.encode_payload(payload, None)
        data = sealed(payload, kind, signer, chain() if signer is samples.IDENTITY else ())
        topic = f"ew/1/{TENANT}/{DEVICE}/{place}"
        name, key = f"bad-{refusal}", signer.public_key()
        made.append(Vector(name, why, refusal, topic, kind, key, data))
    return made


def bad_places() -> list[Vector]:
    """A sound record of the one kind on the topic of the other."""
    payload, key = record.encode_record(samples.record(seq=2)), samples.REPORT.public_key()
    rows = [
        ("memory", "a record of a chain in memory where one of audit is expected", AUDIT, RECORDS,
         MEMORIES),
        ("record", "a record of audit where one of a chain in memory is expected", MEMORY_TOPIC,
         MEMORIES, RECORDS),
    ]  # fmt: skip
    return [
        Vector(f"bad-wrong_type-{label}", why, "wrong_type", topic, asked, key,
               sealed(payload, sent))
        for label, why, topic, asked, sent in rows
    ]  # fmt: skip


def vectors() -> list[Vector]:
    """Every vector, good ones first."""
    records = record_vectors()
    audit = [v for v in records if v.topic == AUDIT]
    assert len(audit) == AUDIT_HEAD
    made = [*records, *memory_vectors(audit[-1]), *other_vectors()]
    rows = [*bad_envelopes(), *bad_signatures(), *bad_payloads(), *bad_facts()]
    key = samples.REPORT.public_key()
    for refusal, label, why, data in rows:
        made.append(Vector(f"bad-{refusal}-{label}", why, refusal, AUDIT, RECORDS, key, data))
    return [*made, *bad_messages(), *bad_places()]


def files() -> dict[str, str]:
    """File name -> content."""
    return {f"{v.name}.vec": v.text() for v in vectors()} | {"ca.pem": ca_pem()}


def main() -> None:
    """Write all files, remove vectors that are no longer made."""
    made = files()
    for old in HERE.glob("*.vec"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (HERE / name).write_text(text)
    print(f"{len(made)} files")


if __name__ == "__main__":
    main()
