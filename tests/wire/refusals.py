"""The table of everything wire/ refuses: a vector for each check, each with the exact name.

test_refusals.py runs it twice: every vector is refused by exactly its name, and every check, taken
out of the code, changes what happens to one of its vectors. So a check without a vector is red,
and so is a check that another one makes pointless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from edgewarden.wire import (
    acknowledgement,
    bodies,
    cbor,
    cose,
    enrol,
    evidence,
    facts,
    quoted,
    ratchet,
    record,
    references,
    timing,
    topics,
)
from edgewarden.wire.cose import ContentType
from tests.wire import refusals_enrol, refusals_tpm, samples
from tests.wire.samples import assembled, header

BLOB31, BLOB33 = bytes(31), bytes(33)


@dataclass(frozen=True)
class Refused:
    """A call that must end in WireRefusal(name), its text holding says."""

    id: str
    call: Callable[[], object]
    name: str
    says: str = ""


def refused(where: str, call: Callable[[bytes], object], data: bytes, name: str, says: str = "",
            id: str = "") -> Refused:  # fmt: skip
    label = id or (data.hex()[:40] or "empty")
    return Refused(f"{where}-{name}-{label}", partial(call, data), name, says)


# --- cbor.py -----------------------------------------------------------------------------------

CBOR = [
    ("", "truncated"),
    ("18", "truncated"),
    ("19ff", "truncated"),
    ("1b00000000000000", "truncated"),
    ("41", "truncated"),
    ("6261", "truncated"),
    ("5bffffffffffffffff", "truncated"),
    ("81", "truncated"),
    ("8200", "truncated"),
    ("826161", "truncated"),
    ("a1", "truncated"),
    ("a100", "truncated"),
    ("9bffffffffffffffff", "truncated"),
    ("bb8000000000000000", "truncated"),
    ("1800", "not_deterministic"),
    ("1817", "not_deterministic"),
    ("1900ff", "not_deterministic"),
    ("1a0000ffff", "not_deterministic"),
    ("1b00000000ffffffff", "not_deterministic"),
    ("3817", "not_deterministic"),
    ("5800", "not_deterministic"),
    ("7800", "not_deterministic"),
    ("9800", "not_deterministic"),
    ("b800", "not_deterministic"),
    ("1c", "not_deterministic"),
    ("1f", "not_deterministic"),
    ("5f4100ff", "not_deterministic"),
    ("7f6100ff", "not_deterministic"),
    ("9f00ff", "not_deterministic"),
    ("bf0000ff", "not_deterministic"),
    ("ff", "not_deterministic"),
    ("f97e01", "not_deterministic"),
    ("f9fe00", "not_deterministic"),
    ("fa7fc00000", "not_deterministic"),
    ("fa3fc00000", "not_deterministic"),
    ("fa7f800000", "not_deterministic"),
    ("fa477fe000", "not_deterministic"),
    ("fa471c4000", "not_deterministic"),
    ("fb7ff8000000000000", "not_deterministic"),
    ("fb3ff8000000000000", "not_deterministic"),
    ("fb7ff0000000000000", "not_deterministic"),
    ("a201000000", "not_deterministic"),
    ("a2616100181800", "not_deterministic"),
    ("f7", "forbidden_item"),
    ("e0", "forbidden_item"),
    ("f0", "forbidden_item"),
    ("f818", "forbidden_item"),
    ("f814", "forbidden_item"),
    ("c000", "forbidden_item"),
    ("d81800", "forbidden_item"),
    ("d8236161", "forbidden_item"),
    ("d9d9f700", "forbidden_item"),
    ("a1f400", "forbidden_item"),
    ("a14000", "forbidden_item"),
    ("a18000", "forbidden_item"),
    ("a1a000", "forbidden_item"),
    ("a1f9000000", "forbidden_item"),
    ("61ff", "bad_text"),
    ("62c328", "bad_text"),
    ("63eda080", "bad_text"),
    ("a161ff00", "bad_text"),
    ("a200000000", "duplicate_key"),
    ("a2616100616100", "duplicate_key"),
    ("0000", "trailing_bytes"),
    ("f6f6", "trailing_bytes"),
    ("8000", "trailing_bytes"),
    ("81" * 17 + "00", "too_deep"),
    ("a100" * 17 + "00", "too_deep"),
    ("81" * 16 + "80", "too_deep"),
]


def _cbor() -> Iterator[Refused]:
    for text, name in CBOR:
        yield refused("cbor", cbor.decode, bytes.fromhex(text), name)
    nested = b"\x81" * 100_000 + b"\x00"
    yield refused("cbor", cbor.decode, nested, "too_deep", id="100000-nested-arrays")
    yield refused("cbor", cbor.decode, b"\xa1\x00" * 100_000, "too_deep", id="100000-nested-maps")
    over = bytes(cbor.MAX_BYTES + 1)
    yield refused("cbor", cbor.decode, over, "too_long", "limit 262144", id="over-the-limit")
    long = b"\x79\x80\x01" + b"a" * (cbor.MAX_TEXT_BYTES + 1)
    yield refused("cbor", cbor.decode, long, "too_long", "text of 32769", id="long-text")


# --- cose.py -----------------------------------------------------------------------------------


def opened(data: bytes, kind: ContentType = ContentType.RECORD) -> cose.Envelope:
    return cose.open_envelope(data, kind)


def _envelopes() -> Iterator[tuple[str, bytes, str]]:
    good = samples.sealed(record.encode_record(samples.record()))
    yield "empty", b"", "truncated"
    yield "ten-megabytes", bytes(10 * 1024 * 1024), "too_long"
    yield "untagged", good[1:], "wrong_tag"
    yield "tag-17-mac0", b"\xd1" + good[1:], "wrong_tag"
    yield "tag-98-sign", b"\xd8\x62" + good[1:], "wrong_tag"
    yield "tag-18-in-two-bytes", b"\xd8\x12" + good[1:], "wrong_tag"
    yield "tag-18-twice", b"\xd2" + good, "forbidden_item"
    yield "trailing", good + b"\x00", "trailing_bytes"
    yield "nothing-behind-the-tag", good[:1], "truncated"
    yield "cut-in-the-signature", good[:-1], "truncated"
    yield "nested-in-the-array", b"\xd2" + b"\x81" * 100_000 + b"\x00", "too_deep"
    yield "not-an-array", b"\xd2\xa0", "bad_envelope"
    yield "map-of-four", b"\xd2" + cbor.encode(dict.fromkeys(range(4), b"")), "bad_envelope"
    yield "array-of-three", b"\xd2" + cbor.encode([header(), {}, b""]), "bad_envelope"
    yield "array-of-five", assembled(more=(0,)), "bad_envelope"
    yield "header-not-in-bytes", assembled(protected={1: -7}), "bad_envelope"
    yield (
        "payload-detached",
        assembled(payload=cbor.decode(b"\xf6"), signature=bytes(64)),
        ("bad_envelope"),
    )
    yield "payload-text", assembled(payload="text"), "bad_envelope"
    yield "signature-of-63", assembled(signature=bytes(63)), "bad_envelope"
    yield "signature-in-der", assembled(signature=bytes(70)), "bad_envelope"
    yield "signature-text", assembled(signature="s" * 64), "bad_envelope"
    yield "alg-unprotected", assembled(header(without=(1,)), {1: -7}), "bad_header"
    yield "kid-unprotected", assembled(unprotected={4: samples.REPORT.kid}), "bad_header"
    yield "unprotected-not-a-map", assembled(unprotected=[]), "bad_header"
    yield "header-empty", assembled(b""), "truncated"
    yield "header-not-a-map", assembled(b"\x80"), "bad_header"
    yield "header-trailing", assembled(header() + b"\x00"), "trailing_bytes"
    yield "header-nested", assembled(b"\x81" * 100_000), "too_deep"
    yield "header-duplicate", assembled(b"\xa2\x01\x26\x01\x26"), "duplicate_key"
    yield "header-crit", assembled(header({2: [1]})), "bad_header"
    yield "header-text-label", assembled(header({"alg": -7})), "bad_header"
    yield "no-alg", assembled(header(without=(1,))), "unknown_algorithm"
    for algorithm in (-8, -35, -36, -37, -257, 5, 0, -7.0, "ES256", None):
        yield f"alg-{algorithm}", assembled(header({1: algorithm})), "unknown_algorithm"
    yield "no-kid", assembled(header(without=(4,))), "bad_header"
    yield "kid-of-7", assembled(header({4: bytes(7)})), "bad_header"
    yield "kid-text", assembled(header({4: "12345678"})), "bad_header"
    for other in ContentType:
        if other is not ContentType.RECORD:
            yield f"type-{other.name}", assembled(header({3: str(other)})), "wrong_type"
    yield "type-number", assembled(header({3: 60})), "wrong_type"
    yield "no-type", assembled(header(without=(3,))), "wrong_type"
    chains: dict[str, object] = {
        "null": None, "empty": b"", "text": "c", "none": [], "one-in-an-array": [b"c"],
        "five": [b"c"] * 5, "empty-second": [b"c", b""], "text-second": [b"c", "c"], "map": {},
    }  # fmt: skip
    for name, chain in chains.items():
        yield f"x5chain-{name}", assembled(header({33: chain})), "bad_header"


def _cose() -> Iterator[Refused]:
    for label, data, name in _envelopes():
        yield refused("cose", opened, data, name, id=label)
    envelope = opened(samples.sealed(b"\xa0"))
    yield Refused(
        "cose-bad_signature",
        lambda: cose.check_signature(envelope, lambda message, signature: False),
        "bad_signature",
    )
    x, y = cose.decode_key(samples.REPORT.public_key())
    keys: dict[str, object] = {
        "not-a-map": [2, 1, x, y],
        "list-of-the-labels": [1, -1, -2, -3],
        "x-text": {1: 2, -1: 1, -2: "x" * 32, -3: y},
        "no-y": {1: 2, -1: 1, -2: x},
        "with-kid": {1: 2, 2: b"kid", -1: 1, -2: x, -3: y},
        "symmetric": {1: 4, -1: 1, -2: x, -3: y},
        "kty-float": {1: 2.0, -1: 1, -2: x, -3: y},
        "p-384": {1: 2, -1: 2, -2: x, -3: y},
        "x-of-31": {1: 2, -1: 1, -2: x[1:], -3: y},
        "y-of-33": {1: 2, -1: 1, -2: x, -3: y + b"\x00"},
        "y-compressed": {1: 2, -1: 1, -2: x, -3: True},
    }
    for label, key in keys.items():
        data = cbor.encode(key)  # type: ignore[arg-type]
        yield refused("key", cose.decode_key, data, "bad_key", id=label)
    yield refused("key", cose.decode_key, bytes(257), "too_long", id="257-bytes")


# --- the messages: one field wrong at a time ----------------------------------------------------

NOT_UINT = (-1, True, 1.0, "1", b"1", None, [1])
NOT_TEXT = (1, b"text", None, True, ["text"])
NOT_BLOB32 = (BLOB31, BLOB33, b"", "x" * 32, 32, None)
NOT_ID = ("", "-a", "A", "gw_1", "ä", "a" * 64, "a/b", "+", 1, b"gw")
NOT_HEADS = ([1], {4: [1, bytes(32)]}, {0: [1, bytes(32)]}, {"1": [1, bytes(32)]}, {1: 1},
             {1: [1]}, {1: [1, bytes(32), 0]}, {1: [-1, bytes(32)]}, {1: [True, bytes(32)]},
             {1: ["1", bytes(32)]}, {1: [1, BLOB31]}, {1: [1, "x" * 32]})  # fmt: skip
NOT_SEQUENCES = ([1], {4: 1}, {"1": 1}, {1: -1}, {1: True}, {1: 1.0}, {1: "1"}, {1: None})

NOT_ISSUED = ([], [1], [1, bytes(32), 0], [0, bytes(32)], [-1, bytes(32)], [True, bytes(32)],
              [1.0, bytes(32)], [2**53, bytes(32)], [1, BLOB31], [1, "x" * 32], {1: 2}, 1,
              "token")  # fmt: skip
NOT_SPENT = ([], None, 1, [1, bytes(32)], [1, bytes(32), bytes(16), 0], [-1, bytes(32), bytes(16)],
             [True, bytes(32), bytes(16)], [2**53, bytes(32), bytes(16)],
             [1, BLOB33, bytes(16)], [1, "x" * 32, bytes(16)], [1, bytes(32), bytes(15)],
             [1, bytes(32), None], [1, bytes(32), "x" * 16])  # fmt: skip

RECORD_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0, "1"),
    1: NOT_ID,
    2: (bytes(15), bytes(17), "x" * 16, None),
    3: (0, 4, True, 1.0, "1", None),
    4: (0, record.MAX_SEQ + 1, *NOT_UINT),
    5: NOT_BLOB32,
    6: (
        None, [], [1, 2, 3], [1, 2, 3, 0, 0], [-1, 2, 3, 0], [1, -2, 3, 0], [1, 2, -3, 0],
        [1.0, 2, 3, 0], [1, True, 3, 0], [1, 2, 3.0, 0], [1, 2, None, 4], [1, 2, None, "ntp"],
        [1, 2, None, True], [1, 2, None, -1],
    ),
    7: ("", "k" * 33, *NOT_TEXT),
    8: (None, [], "body", {1: 2}, {"a": 1, 2: 3}),
}  # fmt: skip
CHALLENGE_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0, "1"), 1: NOT_ID, 2: NOT_ID, 3: NOT_BLOB32, 4: NOT_UINT, 5: NOT_UINT,
    6: (0, 1, "true", None),
}  # fmt: skip
STATUS_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: NOT_ID, 2: NOT_ID, 3: (bytes(15), bytes(17), "x" * 16), 4: NOT_UINT,
    5: (0, 1, "true", None), 6: NOT_SEQUENCES, 7: NOT_SEQUENCES,
}  # fmt: skip
RESULT_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: NOT_ID, 2: NOT_ID, 3: NOT_BLOB32, 4: NOT_UINT, 5: NOT_UINT,
    6: ("G9", "", "g0", *NOT_TEXT), 7: (1, 3, True, False, 2.0, "affirming", None),
    8: ([], {"taste": 2}, {1: 2}, {"boot": 3}, {"boot": True}, {"boot": 2.0}),
    9: ([], {"taste": "x"}, {1: "x"}, {"boot": 2}, {"boot": b"x"}), 10: NOT_BLOB32,
    11: NOT_ISSUED, 12: ("p" * 129, *NOT_TEXT), 13: NOT_BLOB32,
}  # fmt: skip
EVIDENCE_FIELDS: dict[int, tuple[object, ...]] = {
    2: NOT_ID, 6: NOT_UINT, 8: ("text", 1, None), 10: NOT_BLOB32, 261: NOT_UINT,
    265: ("urn:edgewarden:evidence:1", 1), 268: (bytes(15), bytes(17), "x" * 16),
    270: ("other", 1), 271: ("v" * 129, *NOT_TEXT),
    -70001: ("G9", "", *NOT_TEXT),
    -70002: ([], {"kernel": bytes(32)}, {1: bytes(32)}, {"code": BLOB31}, {"code": "x" * 32},
             {str(n): b"" for n in range(17)}),
    -70003: NOT_HEADS,
    -70004: ([], {"tier": "T1"}, {"mode": "learn"}, {"tier": 1, "mode": "learn"},
             {"tier": "T1", "mode": None}, {"tier": "T1", "mode": "learn", "why": "x"}),
    -70005: ("c" * 129, *NOT_TEXT), -70006: ("d" * 513, *NOT_TEXT), -70007: NOT_ID,
    -70008: NOT_SPENT,
    -70009: ([], {}, {"secure_boot": "on"}, {"ima": "tpm"}, {"secure_boot": "on", "ima": "good"},
             {"secure_boot": True, "ima": "tpm"}, {"secure_boot": "on", "ima": "tpm", "x": "y"},
             {"secure_boot": "on", "ima": None}),
    -70010: (-1, True, 1.0, "1", b"1"),
    266: ([], 1, {"Press 1": [-16, bytes(32)]}, {1: [-16, bytes(32)]},
          {f"d{n}": [-16, bytes(32)] for n in range(65)}, {"a": bytes(32)}, {"a": 5},
          {"a": [-16]}, {"a": [-16, bytes(32), 1]}, {"a": [-43, bytes(32)]},
          {"a": [-16.0, bytes(32)]}, {"a": ["sha-256", bytes(32)]}, {"a": [-16, BLOB31]},
          {"a": [-16, "x" * 32]}),
}  # fmt: skip

REFERENCE_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: NOT_ID, 2: ("r" * 129, *NOT_TEXT), 3: ("v" * 129, *NOT_TEXT),
    4: ("-a", "A", 1, None), 5: NOT_UINT, 6: NOT_UINT, 7: (-1, True, 1.0, "1"),
    8: (-1, True, 1.0, "1"), 9: ("v" * 129, *NOT_TEXT), 10: ("r" * 129, *NOT_TEXT),
    11: ([], {"taste": [bytes(32)]}, {1: [bytes(32)]}, {"code": []}, {"code": bytes(32)},
         {"code": [bytes(32)] * 65}, {"code": [BLOB31]}, {"code": ["x" * 32]},
         {"code": [bytes(32), None]}),
    12: (BLOB31, BLOB33, "x" * 32, None),
}  # fmt: skip

ACKNOWLEDGEMENT_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: NOT_ID, 2: NOT_ID,
    3: ([], {}, {0: [1, bytes(32), 1]}, {4: [1, bytes(32), 1]}, {"audit": [1, bytes(32), 1]},
        {2: [0, bytes(32), 1]}, {2: [1, BLOB31, 1]}, {2: [1, BLOB33, 1]}, {2: [2, bytes(32), 1]},
        {2: [1, bytes(32)]}, {2: [1, bytes(32), 1, 1]}, {2: [2**53, bytes(32), 2**53]},
        {2: [True, bytes(32), 1]}, {2: [1.0, bytes(32), 1]}, {2: [1, "x" * 32, 1]}),
}  # fmt: skip

Decode = Callable[[bytes], object]
Finish = Callable[[bytes], bytes]
MESSAGES: list[tuple[str, bytes, Decode, dict[int, tuple[object, ...]]]] = [
    ("bad_record", record.encode_record(samples.record()), record.decode_record, RECORD_FIELDS),
    ("bad_challenge", evidence.encode_challenge(samples.CHALLENGE), evidence.decode_challenge,
     CHALLENGE_FIELDS),
    ("bad_evidence", samples.CLAIMS, evidence.decode_evidence,
     EVIDENCE_FIELDS),
    ("bad_result", evidence.encode_result(samples.RESULT), evidence.decode_result, RESULT_FIELDS),
    ("bad_references", references.encode_references(samples.REFERENCES),
     references.decode_references, REFERENCE_FIELDS),
    ("bad_acknowledgement", acknowledgement.encode_acknowledgement(samples.ACKNOWLEDGEMENT),
     acknowledgement.decode_acknowledgement, ACKNOWLEDGEMENT_FIELDS),
    ("bad_status", evidence.encode_status(samples.STATUS), evidence.decode_status, STATUS_FIELDS),
]  # fmt: skip


def _messages() -> Iterator[Refused]:
    for name, good, decode, fields in MESSAGES:
        body = cbor.decode(good)
        assert isinstance(body, dict)
        yield refused(name, decode, b"\x80", name, id="not-a-map")
        yield refused(name, decode, good + b"\x00", "trailing_bytes", id="trailing")
        labels = cbor.encode(list(body))
        yield refused(name, decode, labels, name, "not ", id="list-of-the-fields")
        for field in body:
            left = {k: v for k, v in body.items() if k != field}
            yield refused(name, decode, cbor.encode(left), name, id=f"without-{field}")
        more = cbor.encode({**body, 99: 0})
        yield refused(name, decode, more, name, id="with-one-more")
        for field, values in fields.items():
            for number, value in enumerate(values):
                data = cbor.encode({**body, field: value})  # type: ignore[arg-type]
                says = f"field {field} " if name != "bad_record" else ""
                yield refused(name, decode, data, name, says, id=f"field-{field}-{number}")
    long = bytes(record.MAX_RECORD_BYTES + 1)
    yield refused("record", record.decode_record, long, "too_long", id="128-kB-and-one")
    long = bytes(evidence.MAX_EVIDENCE_BYTES + 1)
    yield refused("status", evidence.decode_status, long, "too_long", id="8-kB-and-one")


# --- facts.py ----------------------------------------------------------------------------------

EVENT_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "unknown": ({"colour": "red"}, "event.colour"),
    "class-unknown": ({"class_uid": 9999}, "9999"),
    "class-text": ({"class_uid": "1007"}, "event.class_uid"),
    "class-true": ({"class_uid": True}, "event.class_uid"),
    "activity-negative": ({"activity_id": -1}, "event.activity_id"),
    "severity-unknown": ({"severity_id": 9}, "9"),
    "severity-none": ({"severity_id": None}, "event.severity_id"),
    "seen-float": ({"seen_mono_ns": 1.5}, "event.seen_mono_ns"),
    "detail-list": ({"detail": []}, "event.detail"),
    "detail-numbered": ({"detail": {1: 2}}, "event.detail"),
    "code-number": ({"code": 7}, "event.code"),
}
READING_FAULTS: dict[str, object] = {
    "not-a-map": 7,
    "unknown-label": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, 9: 1},
    "base-value": {-2: "gps/", -5: 1.0, 0: "lat", 2: 1.0, 6: 0},
    "no-base": {0: "lat", 2: 1.0, 6: 0},
    "base-number": {-2: 5, 0: "lat", 2: 1.0, 6: 0},
    "base-without-slash": {-2: "gps", 0: "lat", 2: 1.0, 6: 0},
    "base-empty": {-2: "/", 0: "lat", 2: 1.0, 6: 0},
    "no-name": {-2: "gps/", 2: 1.0, 6: 0},
    "name-number": {-2: "gps/", 0: 5, 2: 1.0, 6: 0},
    "unit-number": {-2: "gps/", 0: "lat", 1: 5, 2: 1.0, 6: 0},
    "no-value": {-2: "gps/", 0: "lat", 6: 0},
    "two-values": {-2: "gps/", 0: "lat", 2: 1.0, 3: "one", 6: 0},
    "text-as-number": {-2: "gps/", 0: "lat", 2: "1", 6: 0},
    "truth-as-number": {-2: "gps/", 0: "lat", 2: True, 6: 0},
    "number-as-text": {-2: "gps/", 0: "lat", 3: 1, 6: 0},
    "number-as-truth": {-2: "gps/", 0: "lat", 4: 1, 6: 0},
    "no-time": {-2: "gps/", 0: "lat", 2: 1.0},
    "time-text": {-2: "gps/", 0: "lat", 2: 1.0, 6: "now"},
    "time-true": {-2: "gps/", 0: "lat", 2: 1.0, 6: False},
    "time-ahead": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0.5},
    "time-long-ago": {-2: "gps/", 0: "lat", 2: 1.0, 6: -1e10},
    "quality-of-others": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "fine"},
    "quality-number": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": 1},
    "quality-good": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "good"},
    "substitute-alone": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "substituted"},
    "measured-alone": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-raw": 2.0},
    "measured-and-suspect": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "suspect", "ew-raw": 2},
    "measured-null": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "substituted", "ew-raw": None},
    "measured-list": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-q": "substituted", "ew-raw": [2]},
    "of-number": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": 2},
    "of-one": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [1, 0.0, 1.0, 1.0]},
    "of-many": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2**53, 0.0, 1.0, 1.0]},
    "of-fraction": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2.5, 0.0, 1.0, 1.0]},
    "of-truth": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [True, 0.0, 1.0, 1.0]},
    "of-without-ends": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, 0.0]},
    "of-text-with-ends": {-2: "gps/", 0: "lat", 3: "x", 6: 0, "ew-of": [2, 0.0, 1.0, 1.0]},
    "of-back-in-time": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, -1.0, 1.0, 1.0]},
    "of-for-ever": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, float("inf"), 1.0, 1.0]},
    "of-span-text": {-2: "gps/", 0: "lat", 3: "x", 6: 0, "ew-of": [2, "0"]},
    "of-end-true": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, 0.0, True, 2.0]},
    "of-mean-outside": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, 0.0, 2.0, 3.0]},
    "of-ends-nan": {-2: "gps/", 0: "lat", 2: 1.0, 6: 0, "ew-of": [2, 0.0, float("nan"), 3.0]},
    "time-nan": {-2: "gps/", 0: "lat", 2: 1.0, 6: float("nan")},
    "time-infinite": {-2: "gps/", 0: "lat", 2: 1.0, 6: float("-inf")},
}


TPM_WORD = [b"quote", b"signature", {n: bytes(32) for n in range(11)}, [b"k"] * 4]
PAYLOADS: dict[str, tuple[object, str]] = {
    "claims-alone": ({2: "gw-test"}, "claims and a"),
    "one": ([b"c"], "claims and a"),
    "three": ([b"c", None, None], "claims and a"),
    "map-of-two": ({0: b"c", 1: None}, "claims and a"),
    "claims-text": (["c", None], "claims are not"),
    "tpm-text": ([b"c", "quote"], "array of four"),
    "tpm-of-three": ([b"c", TPM_WORD[:3]], "array of four"),
    "quote-text": ([b"c", ["q", *TPM_WORD[1:]]], "TPM structure"),
    "quote-null": ([b"c", [None, *TPM_WORD[1:]]], "TPM structure"),
    "signature-long": ([b"c", [b"q", bytes(1025), *TPM_WORD[2:]]], "TPM structure"),
    "pcrs-list": ([b"c", [b"q", b"s", [bytes(32)] * 11, None]], "PCR 0 to 10"),
    "pcrs-as-list-of-numbers": ([b"c", [b"q", b"s", list(range(11)), None]], "PCR 0 to 10"),
    "pcrs-ten": ([b"c", [b"q", b"s", {n: bytes(32) for n in range(10)}, None]], "PCR 0 to 10"),
    "pcrs-twelve": ([b"c", [b"q", b"s", {n: bytes(32) for n in range(12)}, None]], "PCR 0 to 10"),
    "pcr-of-20": ([b"c", [b"q", b"s", {n: bytes(20) for n in range(11)}, None]], "32 bytes"),
    "pcr-text": ([b"c", [b"q", b"s", dict.fromkeys(range(11), "x" * 32), None]], "32 bytes"),
    "keys-of-three": ([b"c", [b"q", b"s", None, [b"k"] * 3]], "array of four"),
    "keys-text": ([b"c", [b"q", b"s", None, "kkkk"]], "array of four"),
    "tpm-text-of-four": ([b"c", "quot"], "array of four"),
    "key-number": ([b"c", [b"q", b"s", None, [b"k", b"k", b"k", 4]]], "TPM structure"),
}


def _payloads() -> Iterator[Refused]:
    for label, (value, says) in PAYLOADS.items():
        data = cbor.encode(value)  # type: ignore[arg-type]
        yield refused("payload", quoted.decode_payload, data, "bad_evidence", says, id=label)


def _facts() -> Iterator[Refused]:
    good = facts.event_to_map(samples.EVENT)
    call: Callable[[], object] = partial(facts.event_from_map, [])
    yield Refused("event-not-a-map", call, "bad_fact", "event is not a map")
    for label, (change, says) in EVENT_FAULTS.items():
        call = partial(facts.event_from_map, {**good, **change})
        yield Refused(f"event-{label}", call, "bad_fact", says)
    for key in good:
        if key != "code":
            left = {k: v for k, v in good.items() if k != key}
            call = partial(facts.event_from_map, left, "events[3]")
            yield Refused(f"event-without-{key}", call, "bad_fact", f"events[3].{key}")
    call = partial(facts.readings_from_senml, {}, samples.BOOT_NS)
    yield Refused("senml-not-a-list", call, "bad_fact", "not a list")
    for label, entry in READING_FAULTS.items():
        call = partial(facts.readings_from_senml, [entry], samples.BOOT_NS)
        yield Refused(f"senml-{label}", call, "bad_fact", "readings[0]")


# --- topics.py ---------------------------------------------------------------------------------

TOPICS = (
    "", "ew/1/main/gw-test/r", "ew/1/main/gw-test/r/alarm/x", "ew/2/main/gw-test/r/alarm",
    "/ew/1/main/gw-test/r/alarm", "xx/1/main/gw-test/r/alarm", "ew/1/main/gw-test/r/nonce",
    "ew/1/main/gw-test/e/alarm", "ew/1/main/gw-test/x/alarm", "ew/1/main/gw-test/s/",
    "ew/1/main/GW/r/alarm", "ew/1/+/gw-test/r/alarm", "ew/1/main/#/r/alarm",
    "ew/1//gw-test/r/alarm", "ew/1/main/gw-test/r/ALARM", "ew/1/main/gw-test\x00/r/alarm",
)  # fmt: skip


def _topics() -> Iterator[Refused]:
    for text in TOPICS:
        yield Refused(f"topic-{text!r}", partial(topics.parse, text), "bad_topic")


# --- enrol.py ----------------------------------------------------------------------------------

SECRET, FINGERPRINT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "ab" * 32
TOKEN = f"ew1.gw-test.{SECRET}.{FINGERPRINT}"
TOKENS = {
    "empty": "",
    "three-parts": f"ew1.gw-test.{SECRET}",
    "five-parts": f"{TOKEN}.x",
    "version": TOKEN.replace("ew1", "ew2"),
    "device": TOKEN.replace("gw-test", "GW"),
    "secret-short": TOKEN.replace(SECRET, SECRET[:-4]),
    "secret-padded": TOKEN.replace(SECRET, SECRET + "="),
    "secret-letter": TOKEN.replace(SECRET, "?" + SECRET[1:]),
    "secret-not-ascii": TOKEN.replace(SECRET, "ä" + SECRET[1:]),
    "secret-other-spelling": TOKEN.replace(SECRET, SECRET[:-1] + "9"),
    "fingerprint-short": TOKEN[:-2],
    "fingerprint-letter": TOKEN[:-2] + "xx",
    "fingerprint-upper-case": TOKEN.replace(FINGERPRINT, FINGERPRINT.upper()),
    "fingerprint-spaced": TOKEN.replace(FINGERPRINT, "ab " + FINGERPRINT[2:]),
}
REQUEST = enrol.EnrolRequest(TOKEN, "gw-test", "PEM")
ANSWER = enrol.EnrolAnswer("main", "PEM", "PEM", b"\xa0", "broker.example", 8883)
REQUEST_FAULTS: dict[str, tuple[object, ...]] = {
    "schema": ("edgewarden.enroll/9", None), "token": (1, None, []), "device": ("GW", 1, ""),
    "csr": (1, None),
}  # fmt: skip
ANSWER_FAULTS: dict[str, tuple[object, ...]] = {
    "schema": ("edgewarden.enrolled/2", None), "tenant": ("Main", 1), "certificate": (1, None),
    "ca": (1, None), "verifier_key": ("xx", 1, None),
    "broker": (
        [], ["host", "port"], {"host": "b"}, {"host": 1, "port": 1},
        {"host": "b", "port": 1, "tls": False},
        {"host": "b", "port": 0}, {"host": "b", "port": 65536}, {"host": "b", "port": True},
        {"host": "b", "port": "1"}, {"host": "b", "port": 1.0},
    ),
}  # fmt: skip


def _enrol() -> Iterator[Refused]:
    for label, text in TOKENS.items():
        yield Refused(f"token-{label}", partial(enrol.parse_token, text), "token_malformed")
    both = (
        ("request", enrol.encode_request(REQUEST), enrol.parse_request, REQUEST_FAULTS),
        ("answer", enrol.encode_answer(ANSWER), enrol.parse_answer, ANSWER_FAULTS),
    )
    for where, good, parse, faults in both:
        body = json.loads(good)
        for key, values in faults.items():
            for number, value in enumerate(values):
                data = json.dumps({**body, key: value}).encode()
                yield refused(where, parse, data, "bad_request", id=f"{key}-{number}")
            left = json.dumps({k: v for k, v in body.items() if k != key}).encode()
            yield refused(where, parse, left, "bad_request", id=f"without-{key}")
        more = json.dumps({**body, "extra": 1}).encode()
        yield refused(where, parse, more, "bad_request", "not exactly", id="with-one-more")
        twice = good[:-1] + b',"schema":"' + str(body["schema"]).encode() + b'"}'
        yield refused(where, parse, twice, "bad_request", "stands twice", id="key-twice")
        for label, junk in (("empty", b""), ("html", b"<html>"), ("list", b"[]"),
                            ("not-utf-8", b"\xff\xfe\x00"), ("cut", good[:-1]),
                            ("nested", b"[" * 30_000)):  # fmt: skip
            yield refused(where, parse, junk, "bad_request", id=label)
        long = good[:-1] + b" " * bodies.MAX_MESSAGE_BYTES + b"}"
        yield refused(where, parse, long, "too_long", id="32-kB-and-more")
    for name in ("token_unknown", "token_used", "token_expired", "token_foreign_device",
                 "csr_invalid", "device_exists", "rate_limited"):  # fmt: skip
        data = enrol.encode_refusal(name, "text", "next")
        yield refused("answer", enrol.parse_answer, data, name, "text", id="server")
    for label, parse, data in refusals_enrol.faults():
        yield refused("enrol", parse, data, "bad_request", id=label)


def _token() -> Iterator[Refused]:
    """The slots of state/link/continuity."""
    good = ratchet.encode_slot("main", "gw-test", ratchet.Held(7, bytes(32), bytes(16)), 3)
    body = cbor.decode(good[2:-16])
    assert isinstance(body, dict)
    faults: dict[int, tuple[object, ...]] = {
        0: (0, 2), 1: NOT_ID, 2: NOT_ID, 3: (-1, True, 1.0, 2**53, None), 4: NOT_BLOB32,
        5: (bytes(15), bytes(17), "x" * 16, 1), 6: (-1, True, 2**53, None),
    }  # fmt: skip
    for label, data in (
        ("empty", b""), ("zeros", bytes(4096)), ("torn", good[:40] + bytes(4056)),
        ("flipped", good[:20] + b"\xff" + good[21:]), ("other-checksum", good[:-1] + b"\xff"),
    ):  # fmt: skip
        yield refused("slot", ratchet.decode_slot, data, "bad_token", "checksum", id=label)
    for label, odd in (
        ("not-a-map", [1]), ("list-of-the-fields", list(range(7))), ("one-more", {**body, 7: 0}),
        ("one-less", {k: v for k, v in body.items() if k != 6}),
    ):  # fmt: skip
        yield refused("slot", ratchet.decode_slot, _slot(odd), "bad_token", "seven", id=label)
    for field, values in faults.items():
        for number, value in enumerate(values):
            data = _slot({**body, field: value})
            yield refused(
                "slot", ratchet.decode_slot, data, "bad_token", id=f"field-{field}-{number}"
            )


def _slot(body: object) -> bytes:
    encoded = cbor.encode(body)  # type: ignore[arg-type]
    checksum = hashlib.sha256(encoded).digest()[:16]
    return len(encoded).to_bytes(2, "big") + encoded + checksum


TIME_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: NOT_ID, 2: NOT_BLOB32, 3: (timing.MAX_UTC_MS + 1, *NOT_UINT),
}  # fmt: skip
NOT_NS = (2**63, *NOT_UINT)
KEPT_FIELDS: dict[int, tuple[object, ...]] = {
    0: (0, 2, True, 1.0), 1: (bytes(15), bytes(17), "x" * 16), 2: NOT_NS, 3: NOT_NS,
    4: ([], 1, "x", [1, 2], [1, 2, 3, 4], [-1, 2, 3], [1, True, 3], [1, 2, 2**63]),
}  # fmt: skip


def _whole(data: bytes) -> bytes:
    return data


def _summed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()[:16]


def _times() -> Iterator[Refused]:
    """Signed time, and the file that keeps the floor."""
    moment = timing.Moment(1, 2, 3)
    time = timing.encode_time(timing.SignedTime("main", bytes(32), 7))
    kept = timing.encode_kept(timing.Kept(bytes(16), 5, 6, moment))[:-16]
    kinds: list[tuple[str, bytes, Decode, dict[int, tuple[object, ...]], Finish]] = [
        ("time", time, timing.decode_time, TIME_FIELDS, _whole),
        ("kept", kept, timing.decode_kept, KEPT_FIELDS, _summed),
    ]
    for where, good, decode, fields, finish in kinds:
        body = cbor.decode(good)
        assert isinstance(body, dict)
        for label, odd in (
            ("list", [1, 0, *range(2, len(body))]), ("more", {**body, 9: 0}), ("one", [1]),
            ("less", {k: v for k, v in body.items() if k != 1}),
        ):  # fmt: skip
            data = finish(cbor.encode(odd))  # type: ignore[arg-type]
            yield refused(where, decode, data, "bad_time", "fields", id=label)
        for field, values in fields.items():
            for number, value in enumerate(values):
                data = finish(cbor.encode({**body, field: value}))  # type: ignore[arg-type]
                yield refused(where, decode, data, "bad_time", id=f"field-{field}-{number}")
    for label, data in (("empty", b""), ("zeros", bytes(100)), ("cut", _summed(kept)[:-1]),
                        ("flipped", b"\xa6" + _summed(kept)[1:])):  # fmt: skip
        yield refused("kept", timing.decode_kept, data, "bad_time", "checksum", id=label)


def _tpm() -> Iterator[Refused]:
    for label, parse, data, says in refusals_tpm.faults():
        yield refused("tpm", parse, data, "bad_tpm", says, id=label)


REFUSED: list[Refused] = [
    *_cbor(), *_cose(), *_messages(), *_payloads(), *_facts(), *_topics(), *_enrol(), *_tpm(),
    *_token(), *_times(),
]  # fmt: skip
