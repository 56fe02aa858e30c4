"""Records, evidence, facts, topics, enrolment: what goes out comes back the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden.errors import OurFault, WireRefusal
from edgewarden.wire import (
    burst,
    cbor,
    cose,
    enrol,
    enrol_tpm,
    evidence,
    facts,
    manifest,
    record,
    topics,
)
from edgewarden.wire.facts import Quality, Reading, Spread
from edgewarden.wire.record import CLOCK_STATES, RecordClass, RecordTime
from tests.wire import refusals_enrol, samples
from tests.wire.refusals import ANSWER, REQUEST, TOKEN

DECODERS: list[Callable[[bytes], object]] = [
    record.decode_record, evidence.decode_challenge, evidence.decode_evidence,
    evidence.decode_result, evidence.decode_status,
]  # fmt: skip
IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
UINT = st.integers(0, 2**63)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip


def refusal_of(read: Callable[[Any], object], data: object) -> str:
    try:
        read(data)
    except WireRefusal as refusal:
        return refusal.name
    return "accepted"


def test_a_board_is_named_so_that_no_name_is_another_devices() -> None:
    assert [topics.session_name("gw-demo", n) for n in (1, 2, 10)] == [
        "gw-demo", "gw-demo.2", "gw-demo.10",
    ]  # fmt: skip
    for n in (1, 2, 10, 12345):
        assert topics.device_of(topics.session_name("gw-demo", n)) == "gw-demo"
    for text in (
        "", ".2", "gw-demo.", "gw-demo.0", "gw-demo.1", "gw-demo.02", "gw-demo.2.2", "gw-demo.x",
        "gw-demo.²", "GW.2", "fleet.verifier",
    ):  # fmt: skip
        assert topics.device_of(text) == "", text


def test_each_message_comes_back_the_same() -> None:
    assert record.decode_record(record.encode_record(samples.record())) == samples.record()
    challenge = evidence.encode_challenge(samples.CHALLENGE)
    assert evidence.decode_challenge(challenge) == samples.CHALLENGE
    assert evidence.decode_evidence(samples.CLAIMS) == samples.EVIDENCE
    assert evidence.decode_result(evidence.encode_result(samples.RESULT)) == samples.RESULT
    assert evidence.decode_status(evidence.encode_status(samples.STATUS)) == samples.STATUS


@settings(deadline=None, max_examples=200)
@given(
    IDS, st.binary(min_size=16, max_size=16), st.sampled_from(RecordClass),
    st.integers(1, record.MAX_SEQ), st.binary(min_size=32, max_size=32), UINT, UINT,
    st.none() | UINT, st.sampled_from(CLOCK_STATES), st.text(min_size=1, max_size=32),
    st.dictionaries(st.text(max_size=8), PLAIN, max_size=4),
)  # fmt: skip
def test_any_record_comes_back_the_same(
    device: str, boot_id: bytes, record_class: RecordClass, seq: int, prev: bytes, boot_ns: int,
    wall_ns: int, uncertainty_ms: int | None, state: str, kind: str, body: dict[str, object],
) -> None:  # fmt: skip
    time = RecordTime(boot_ns, wall_ns, uncertainty_ms, state)
    made = record.Record(device, boot_id, record_class, seq, prev, time, kind, body)
    assert record.decode_record(record.encode_record(made)) == made


@pytest.mark.parametrize("decode", DECODERS)
def test_garbage_is_refused(decode: Callable[[bytes], object]) -> None:
    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200) | PLAIN.map(cbor.encode))  # type: ignore[arg-type]
    def check(data: bytes) -> None:
        with pytest.raises(WireRefusal):
            decode(data)

    check()


@pytest.mark.parametrize("decode", DECODERS)
def test_any_value_in_any_field_is_read_or_refused(decode: Callable[[bytes], object]) -> None:
    goods = [
        record.encode_record(samples.record()), evidence.encode_challenge(samples.CHALLENGE),
        evidence.encode_evidence(samples.EVIDENCE), evidence.encode_result(samples.RESULT),
        evidence.encode_status(samples.STATUS),
    ]  # fmt: skip
    body = cbor.decode(goods[DECODERS.index(decode)])
    assert isinstance(body, dict)

    @settings(deadline=None, max_examples=300)
    @given(st.sampled_from(sorted(body)), PLAIN | st.dictionaries(st.integers(0, 5), PLAIN))
    def check(field: int, value: object) -> None:
        data = cbor.encode({**body, field: value})
        assert refusal_of(decode, data).startswith(("bad_", "accepted"))

    check()


def test_record_hash_covers_the_whole_message() -> None:
    data = samples.sealed(record.encode_record(samples.record()))
    assert record.record_hash(data) != record.record_hash(data[:-1] + bytes([data[-1] ^ 1]))
    assert len(record.record_hash(data)) == 32


def test_class_labels_are_the_topic_names() -> None:
    assert [c.label for c in RecordClass] == ["alarm", "audit", "bulk"]
    for c in RecordClass:
        topic = topics.parse(topics.record_topic("main", "gw-test", c))
        assert topic == topics.Topic("main", "gw-test", "r", c.label)
    for name in ("e/evidence", "e/nonce", "e/result", "s/status"):
        assert str(topics.parse(f"ew/1/main/gw-test/{name}")) == f"ew/1/main/gw-test/{name}"


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_no_topic(text: str) -> None:
    with pytest.raises(WireRefusal):
        topics.parse(text)


@pytest.mark.parametrize("text", ["a", "0", "a-", "gw-demo", "a" * 63])
def test_identifiers(text: str) -> None:
    assert record.is_identifier(text)


def test_event_comes_back_the_same() -> None:
    over_the_wire = cbor.decode(cbor.encode(facts.event_to_map(samples.EVENT)))
    assert facts.event_from_map(over_the_wire) == samples.EVENT
    plain = facts.Event(facts.OCSF.HEALTH, 1, facts.Severity.LOW, 5)
    assert "code" not in facts.event_to_map(plain)


def test_readings_come_back_the_same() -> None:
    over_the_wire = cbor.decode(cbor.encode(samples.BATCH["readings"]))
    assert facts.readings_from_senml(over_the_wire, samples.BOOT_NS) == list(samples.READINGS)


@pytest.mark.parametrize(
    "reading",
    [
        Reading("gps", "lat", "lat", 2.5, samples.BOOT_NS, spread=Spread(3, 1.5, 2.0, 3.0)),
        Reading("gps", "fix", "", True, samples.BOOT_NS, spread=Spread(2, 0.0)),
        Reading("gps", "mode", "", "3d", samples.BOOT_NS, spread=Spread(2, 60.0)),
        Reading(
            "boiler", "t", "Cel", 25.0, samples.BOOT_NS, Quality.SUBSTITUTED, 400.0,
            Spread(9, 10.0, 399.0, 401.0),
        ),
    ],
)  # fmt: skip
def test_a_reading_that_stands_for_several_comes_back_the_same(reading: Reading) -> None:
    pack = cbor.decode(cbor.encode(facts.readings_to_senml([reading], samples.BOOT_NS)))
    assert facts.readings_from_senml(pack, samples.BOOT_NS) == [reading]


def test_senml_as_another_reader_resolves_it() -> None:
    """RFC 8428 §4.6 by hand: base name joined, time relative to the record."""
    base, names = "", []
    for entry in samples.BATCH["readings"]:
        assert isinstance(entry, dict)
        base = entry.get(-2, base)
        names.append(base + entry[0])
        assert entry[6] <= 0
    assert names == ["gps/lat", "gps/fix", "boiler/state", "boiler/rpm", "boiler/flow",
                     "boiler/temperature"]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.builds(
            Reading,
            st.sampled_from(["gps", "boiler", "a/b"]), st.text(max_size=8), st.text(max_size=4),
            st.floats(allow_nan=False) | st.text(max_size=8) | st.booleans(),
            st.integers(0, 10**15),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_readings_come_back_within_a_microsecond(readings: list[Reading]) -> None:
    anchor = 10**15
    pack = cbor.decode(cbor.encode(facts.readings_to_senml(readings, anchor)))
    back = facts.readings_from_senml(pack, anchor)
    assert len(back) == len(readings)
    for was, now in zip(readings, back, strict=True):
        assert (now.source, now.name, now.unit, now.value) == (
            was.source, was.name, was.unit, was.value)  # fmt: skip
        assert abs(now.seen_mono_ns - was.seen_mono_ns) <= 1000


SEVERAL = st.builds(Spread, st.integers(2, 9), st.floats(0, 1e6), st.just(1.0), st.just(2.0))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.builds(
            Reading,
            st.sampled_from(["gps", "a/b", "\udcff"]), st.sampled_from(["n", "n" * 70, ""]),
            st.sampled_from(["", "m/s"]),
            st.floats() | st.integers(-5, 5) | st.text(max_size=8) | st.booleans(),
            st.integers(-1, 3) | st.integers(10**15 - 2000, 10**15 + 2),
            st.sampled_from(list(Quality)), st.none() | st.just(4.5), st.none() | SEVERAL,
        ),
        max_size=12,
    )
)  # fmt: skip
def test_readings_spelt_at_once_are_the_encoding_of_their_pack(readings: list[Reading]) -> None:
    body = {"readings": facts.readings_to_senml(readings, 10**15), "counts": {"n": 1}}
    at_once = body | {"readings": burst.spell_readings(readings, 10**15)}
    assert cbor.encode(at_once) == cbor.encode(body)


SAID = st.tuples(
    st.sampled_from(["n", "n" * 70, ""]), st.sampled_from(["", "m/s"]),
    st.floats() | st.sampled_from([0.0, -0.0, 1.5, 21.37]) | st.integers(-5, 5)
    | st.text(max_size=8) | st.booleans(),
)  # fmt: skip
NUMBERED = st.tuples(st.just("n"), st.just(""), st.floats() | st.integers(-9, 9).map(float))


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gps", "a/b"]),
            st.lists(SAID, max_size=4) | st.lists(NUMBERED, max_size=6),
            st.integers(-1, 3) | st.integers(10**15 - 2000, 10**15 + 2),
            st.sampled_from(["burst", "each", "marked"]),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_bursts_are_spelt_as_the_pack_of_their_readings(
    reads: list[tuple[str, list[tuple[str, str, float | str | bool]], int, str]],
) -> None:
    parts: list[burst.Part] = []
    for source, said, seen_ns, way in reads:
        came = burst.Burst(source, tuple((n, u) for n, u, _ in said), tuple(v for *_, v in said),
                           seen_ns)  # fmt: skip
        if way == "burst":
            parts.append(came)
        elif way == "each":
            parts += came
        else:
            parts += [replace(reading, quality=Quality.STALE) for reading in came]
    singles = list(burst.each(parts))
    pack = cbor.encode(facts.readings_to_senml(singles, 10**15))
    assert cbor.encode(burst.spell_readings(parts, 10**15)) == pack
    cbor.check(pack)


def test_a_burst_is_the_sequence_of_its_readings_and_frozen() -> None:
    said = [("lat", "lat", 48.1), ("fix", "", True), ("lon", "lon", 11.5)]
    listed = [Reading("gps", name, unit, value, 7) for name, unit, value in said]
    came = burst.Burst.of("gps", said, 7)
    assert (len(came), list(came), came[1], came[-1]) == (3, listed, listed[1], listed[2])
    assert came == listed == came == tuple(listed)
    assert came == burst.Burst.of("gps", said, 7)
    assert (came[1:], came[3:]) == (listed[1:], [])
    assert came not in (listed[:2], burst.Burst.of("gps", said, 8), "gps", None)
    assert burst.Burst.of("gps", [], 7) == []
    with pytest.raises(FrozenInstanceError):
        came.seen_mono_ns = 8  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(came)
    with pytest.raises(ValueError, match="1 channels for 2 values"):
        burst.Burst("gps", (("lat", "lat"),), (1.0, 2.0), 7)


def test_each_field_of_a_reading_is_where_its_name_says_and_stays() -> None:
    spread = Spread(2, 1.0, 9.0, 9.5)
    given_all = {
        "source": "s", "name": "n", "unit": "u", "value": 1.5, "seen_mono_ns": 7,
        "quality": Quality.SUBSTITUTED, "raw": 9.5, "spread": spread,
    }  # fmt: skip
    full = Reading(**given_all)  # type: ignore[arg-type]
    assert asdict(full) == given_all | {"spread": asdict(spread)}
    plain = Reading("s", "n", "u", 1.5, 7)
    assert (plain.quality, plain.raw, plain.spread) == (Quality.GOOD, None, None)
    assert replace(full, quality=Quality.GOOD, raw=None, spread=None) == plain
    with pytest.raises(FrozenInstanceError):
        plain.value = 2.0  # type: ignore[misc]


def test_a_text_too_long_is_refused_when_it_is_spelt_at_once() -> None:
    for odd in (Reading("s" * 40_000, "n", "", 1.0, 1), Reading("s", "n" * 40_000, "", 1.0, 1)):
        with pytest.raises(OurFault, match="cannot be encoded"):
            burst.spell_readings([odd], 2)


def test_a_reading_from_behind_the_anchor_is_not_in_the_future() -> None:
    late = Reading("gps", "lat", "lat", 1.0, samples.BOOT_NS + 5)
    (entry,) = facts.readings_to_senml([late], samples.BOOT_NS)
    assert entry[6] == 0


@settings(deadline=None, max_examples=300)
@given(PLAIN | st.lists(st.dictionaries(st.sampled_from([-2, 0, 1, 2, 3, 4, 6]), PLAIN)))
def test_any_value_is_facts_or_refused(value: object) -> None:
    for read in (facts.event_from_map, lambda v: facts.readings_from_senml(v, 0)):
        assert refusal_of(read, value) in ("bad_fact", "accepted")


def test_enrolment_with_a_tpm_comes_back_the_same() -> None:
    for request in (refusals_enrol.WITH_TPM, refusals_enrol.SEALED):
        data = enrol.encode_request(request)
        assert json.loads(data)["schema"] == enrol.GRADED_SCHEMA
        assert enrol.parse_request(data) == request
    challenge = enrol_tpm.encode_challenge(refusals_enrol.CHALLENGE)
    assert enrol_tpm.parse_challenge(challenge) == refusals_enrol.CHALLENGE
    assert enrol_tpm.is_challenge(challenge)
    assert not enrol_tpm.is_challenge(enrol.encode_answer(ANSWER))
    activation = enrol_tpm.encode_activation(refusals_enrol.ACTIVATION)
    assert enrol_tpm.parse_activation(activation) == refusals_enrol.ACTIVATION


def test_an_older_fleet_is_spoken_to_in_its_own_words() -> None:
    for request in (REQUEST, replace(REQUEST, recorded="G0")):
        assert json.loads(enrol.encode_request(request))["schema"] == enrol.REQUEST_SCHEMA
    told = replace(REQUEST, recorded="G2")
    assert enrol.parse_request(enrol.encode_request(told)) == told, "a lower grade is not hidden"


def test_enrolment_messages_come_back_the_same() -> None:
    assert str(enrol.parse_token(f"  {TOKEN}\n")) == TOKEN
    assert enrol.parse_request(enrol.encode_request(REQUEST)) == REQUEST
    assert enrol.parse_answer(enrol.encode_answer(ANSWER)) == ANSWER


def test_a_refusal_keeps_name_and_next_step_and_nothing_a_terminal_obeys() -> None:
    data = enrol.encode_refusal("token_used\x1b[2J", "used \x1b]0;x\x07twice\n", "ask\r again")
    with pytest.raises(WireRefusal) as caught:
        enrol.parse_answer(data)
    assert caught.value.name == "token_used[2J"
    assert str(caught.value) == "token_used[2J: used ]0;xtwice"
    assert caught.value.next_step == "ask again"
    with pytest.raises(WireRefusal) as caught:
        enrol.parse_answer(json.dumps({"schema": enrol.REFUSAL_SCHEMA}).encode())
    assert caught.value.name == "refused"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_garbage_is_no_enrolment_message(data: bytes) -> None:
    for parse in (enrol.parse_request, enrol.parse_answer):
        with pytest.raises(WireRefusal):
            parse(data)
    with pytest.raises(WireRefusal):
        enrol.parse_token(data.decode("utf-8", "replace"))


def test_manifest_leaves_out_compiled_files_and_no_other() -> None:
    assert not manifest.is_measured("edgewarden/wire/__pycache__/cose.cpython-311.pyc")
    for path in (
        "edgewarden/wire/cose.py", "edgewarden/codes.toml", "edgewarden/wire/cose.pyc",
        "edgewarden/wire/cose/__init__.pyc", "edgewarden/__pycache__/x.so",
        "edgewarden/__pycache__/deeper/x.pyc", "edgewarden/not__pycache__/x.pyc",
    ):  # fmt: skip
        assert manifest.is_measured(path), path


def test_manifest_digest_depends_on_every_entry_and_not_on_order() -> None:
    entries = [("edgewarden/a.py", bytes(32)), ("edgewarden/b.py", bytes([1]) * 32)]
    digest = manifest.manifest_digest(entries)
    assert manifest.manifest_digest(reversed(entries)) == digest
    assert manifest.manifest_digest(entries[:1]) != digest
    assert manifest.manifest_digest([*entries, ("edgewarden/c.py", bytes(32))]) != digest
    renamed = [("edgewarden/c.py", bytes(32)), entries[1]]
    assert manifest.manifest_digest(renamed) != digest


def test_files_digest_depends_on_content_and_order() -> None:
    assert manifest.files_digest([b"a", b"b"]) != manifest.files_digest([b"b", b"a"])
    assert manifest.files_digest([b"ab"]) != manifest.files_digest([b"a", b"b"])


def test_what_a_record_adds_to_its_facts() -> None:
    """Row A13 of attestation asks for 180 bytes; this is what the format costs."""
    signer, body = samples.REPORT, {"n": 1}
    at = RecordTime(10**15, 1_900_000_000 * 10**9, 20, "ntp")
    for record_class in RecordClass:
        one = record.Record(
            "gw-demo", bytes(16), record_class, 2**40, bytes(32), at, record.Kind.BATCH, body
        )
        payload = record.encode_record(one)
        sealed = cose.seal(payload, cose.ContentType.RECORD, signer.kid, signer.sign)
        assert len(sealed) - len(cbor.encode(body)) <= 223
