"""Bundles of evidence, field by field: what is not exactly one is refused, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.appraise.quotes import Enrolled, Mark
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cbor, cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.quoted import TpmKeys
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.verify.appraising import Facts
from edgewarden_fleet.verify.bundle import Bundle, decode_facts, encode_facts, seal, unseal

KEY = FileSigner.generate()
KEYS = TpmKeys(b"ak", b"tls", b"certify", b"signature")
PCRS = {number: bytes(32) for number in range(11)}
ENROLLED = Enrolled(b"ak", KEYS, PCRS, Mark(7, 1000, bytes(16)))
FACTS = Facts(
    grade="G2", revoked=False, key_boot=bytes(16), asked_utc_s=1.0, expires_utc_s=3.0,
    received_utc_s=2.0, heads={RecordClass.AUDIT: 4}, hashes={RecordClass.AUDIT: bytes(32)},
    withheld={RecordClass.BULK: (2, 3)}, enrolled=ENROLLED, age_s=4.0, quarantine="two of it",
)  # fmt: skip
WHOLE = Bundle("main", "gw-demo", b"evidence", b"result", FACTS, (b"set",), b"issuing", (b"said",))


def fields(data: bytes) -> dict[object, object]:
    body = cbor.decode(data)
    assert isinstance(body, dict)
    return dict(body)


def test_facts_come_back_as_they_were() -> None:
    for facts in (FACTS, replace(FACTS, enrolled=None, key_boot=None, age_s=None)):
        assert decode_facts(encode_facts(facts)) == facts
    bare = replace(FACTS, enrolled=Enrolled(b"ak", None, None, None))
    assert decode_facts(encode_facts(bare)) == bare


def test_a_bundle_comes_back_as_it_was() -> None:
    again = unseal(seal(WHOLE, KEY), KEY.public_key())
    assert replace(again, facts=FACTS) == WHOLE
    assert list(again.facts.detached.values()) == [b"said"]


KEYS_LIST = [b"ak", b"tls", b"certify", b"signature"]
MARK = [7, 1000, bytes(16)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0, 2), (1, "G9"), (2, 1), (2, None), (3, "boot"), (4, None), (5, []), (6, "x"), (7, []),
        (7, {9: 1}), (8, {2: "x"}), (9, {3: [1]}), (9, {3: 1}), (11, 0), (12, "old"),
        # numbers that no clock and no chain says: what is reckoned with them would end in an error
        (4, float("nan")), (5, float("inf")), (6, float("nan")), (6, -1.0), (6, 1e18), (6, True),
        (7, {3: float("inf")}), (7, {3: 1.5}), (7, {3: -1}), (7, {3: 2**63}),
        (9, {3: [1, float("inf")]}), (9, {3: [True, 2]}), (12, float("nan")), (13, 7),
        # the device's TPM
        (10, 7), (10, []), (10, [b"ak", None, None]),
        (10, ["ak", None, None, None]),
        (10, [b"ak", {}, None, None]), (10, [b"ak", KEYS_LIST[:3], None, None]),
        (10, [b"ak", [*KEYS_LIST, b"more"], None, None]),
        (10, [b"ak", ["ak", *KEYS_LIST[1:]], None, None]),
        (10, [b"ak", None, [], None]), (10, [b"ak", None, {0: "x"}, None]),
        # values whose digest is that of eleven, under other numbers
        (10, [b"ak", None, {0: bytes(352)}, None]), (10, [b"ak", None, {"0": bytes(32)}, None]),
        (10, [b"ak", None, {**PCRS, 10: bytes(31)}, None]),
        (10, [b"ak", None, {**PCRS, 10: "x" * 32}, None]),
        (10, [b"ak", None, {**PCRS, 11: bytes(32)}, None]),
        (10, [b"ak", None, None, {}]), (10, [b"ak", None, None, MARK[:2]]),
        (10, [b"ak", None, None, ["7", 1000, bytes(16)]]),
        (10, [b"ak", None, None, [True, 1000, bytes(16)]]),
        (10, [b"ak", None, None, [7, 1000, "boot"]]),
        (14, 0),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_facts_that_are_none(key: int, value: object) -> None:
    body = {**fields(encode_facts(FACTS)), key: value}
    with pytest.raises(WireRefusal) as refused:
        decode_facts(cbor.encode(body))  # type: ignore[arg-type]
    assert refused.value.name == "bad_bundle"


@pytest.mark.parametrize("body", [[1], 7, {}], ids=repr)
def test_what_is_no_map_of_facts(body: cbor.Value) -> None:
    with pytest.raises(WireRefusal, match="bad_bundle"):
        decode_facts(cbor.encode(body))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0, 2), (1, "A/B"), (1, 7), (2, "../x"), (2, b"gw"), (3, "evidence"), (4, None),
        (5, "facts"), (6, {}), (6, b"set"), (6, ["set"]), (7, 0), (8, {}), (8, ["said"]), (9, 0),
    ],
    ids=repr,
)  # fmt: skip
def test_a_bundle_that_is_none(key: int, value: object) -> None:
    envelope = cose.open_envelope(seal(WHOLE, KEY), ContentType.APPRAISAL)
    body = {**fields(envelope.payload), key: value}
    message = cose.seal(cbor.encode(body), ContentType.APPRAISAL, KEY.kid, KEY.sign)  # type: ignore[arg-type]
    with pytest.raises(WireRefusal) as refused:
        unseal(message, KEY.public_key())
    assert refused.value.name == "bad_bundle"


def test_a_bundle_of_another_key_is_refused() -> None:
    sealed, other = seal(WHOLE, KEY), FileSigner.generate()
    with pytest.raises(WireRefusal, match="unknown_key"):
        unseal(sealed, other.public_key())
    other.kid = KEY.kid
    with pytest.raises(WireRefusal, match="bad_signature"):
        unseal(seal(WHOLE, other), KEY.public_key())
