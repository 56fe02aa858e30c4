"""A device's evidence: what is read, what it is worth, and when the fleet says another thing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from edgewarden.appraise.devices import (
    Submodule,
    contradiction,
    info_digest,
    judge_submodules,
    judge_token,
    worst,
)
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import low_s, public_cose_key, verifier_for
from edgewarden.wire import cbor
from edgewarden.wire.devices import (
    Statement,
    decode_statement,
    encode_statement,
)
from edgewarden.wire.eat import Token, open_token
from edgewarden.wire.evidence import Tier

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
NONCE, GOOD, EVIL = b"n" * 32, b"g" * 32, b"e" * 32
CLAIMS: dict[object, object] = {10: NONCE, 2399: [{1: "BL", 2: GOOD}], 256: b"x" * 33, -75000: 1}


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def eat(
    claims: object = CLAIMS, protected: object = None, unprotected: object = None,
    key: ec.EllipticCurvePrivateKey = KEY,
) -> bytes:  # fmt: skip
    """As a device's program makes it, with cbor2 and cryptography."""
    header = cbor2.dumps({1: -7} if protected is None else protected, canonical=True)
    payload = cbor2.dumps(claims, canonical=True)
    signature = sign(key, cbor2.dumps(["Signature1", header, b"", payload]))
    body = [header, {} if unprotected is None else unprotected, payload, signature]
    return b"\xd2" + cbor2.dumps(body, canonical=True)


def verify(cose_key: bytes, message: bytes, signature: bytes) -> bool:
    return verifier_for(cose_key)(message, low_s(signature))


READ: dict[str, bytes] = {
    "plain": eat(),
    "a kid beside it": eat(unprotected={4: b"k"}),
    "more in the protected header": eat(protected={1: -7, 3: "application/eat+cwt", 4: b"k"}),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str) -> None:
    token = open_token(READ[name])
    assert (token.nonce, token.measurements) == (NONCE, (GOOD,))
    assert verify(public_cose_key(KEY.public_key()), token.signed, token.signature)


def body(*parts: object) -> bytes:
    return b"\xd2" + cbor2.dumps(list(parts), canonical=True)


HEAD, PAYLOAD, SIGNATURE = cbor2.dumps({1: -7}), cbor2.dumps({10: NONCE}), b"s" * 64
UNREAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "bad_eat"),
    "too long": (b"\xd2" + b"\0" * 4096, "eat_too_long"),
    "no tag": (eat()[1:], "bad_eat"),
    "another tag": (b"\xd1" + eat()[1:], "bad_eat"),
    "three parts": (body(HEAD, {}, PAYLOAD), "bad_eat"),
    "no array": (b"\xd2" + cbor2.dumps({}), "bad_eat"),
    "a number": (b"\xd2\x05", "bad_eat"),
    "trailing bytes": (eat() + b"\0", "bad_eat"),
    "protected is a map": (body({1: -7}, {}, PAYLOAD, SIGNATURE), "bad_eat"),
    "payload is nil": (body(HEAD, {}, None, SIGNATURE), "bad_eat"),
    "signature is short": (body(HEAD, {}, PAYLOAD, b"s"), "bad_eat"),
    "signature is text": (body(HEAD, {}, PAYLOAD, "s" * 64), "bad_eat"),
    "algorithm unprotected": (eat(protected={}, unprotected={1: -7}), "bad_eat"),
    "unprotected is none": (body(HEAD, [], PAYLOAD, SIGNATURE), "bad_eat"),
    "more unprotected": (eat(unprotected={33: b"c"}), "bad_eat"),
    "another algorithm": (eat(protected={1: -8}), "bad_eat"),
    "algorithm as a float": (eat(protected={1: -7.0}), "bad_eat"),
    "critical": (eat(protected={1: -7, 2: [1]}), "bad_eat"),
    "protected is an array": (eat(protected=[1, -7]), "bad_eat"),
    "claims are no map": (eat([1]), "bad_eat"),
    "no nonce": (eat({2399: []}), "bad_eat"),
    "a short nonce": (eat({10: b"n"}), "bad_eat"),
    "nonce is text": (eat({10: "n" * 32}), "bad_eat"),
    "components are no list": (eat({10: NONCE, 2399: {}}), "bad_eat"),
    "too many components": (eat({10: NONCE, 2399: [{2: GOOD}] * 17}), "bad_eat"),
    "a component is no map": (eat({10: NONCE, 2399: [GOOD]}), "bad_eat"),
    "a measurement is missing": (eat({10: NONCE, 2399: [{1: "BL"}]}), "bad_eat"),
    "a measurement is short": (eat({10: NONCE, 2399: [{2: b"x"}]}), "bad_eat"),
    "a measurement is text": (eat({10: NONCE, 2399: [{2: "g" * 32}]}), "bad_eat"),
    "a nonce twice": (b"\xd2\x84\x43\xa1\x01\x26\xa0\x44\xa2\x0a\x40\x0a\x40" + b"x", "bad_eat"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read(name: str) -> None:
    data, refusal = UNREAD[name]
    with pytest.raises(WireRefusal) as refused:
        open_token(data)
    assert refused.value.name == refusal


def token(*measured: bytes) -> Token:
    return Token(NONCE, measured, b"", b"")


WORTH: list[tuple[tuple[bytes, ...], set[bytes], bool, Tier]] = [
    ((GOOD,), {GOOD}, True, Tier.AFFIRMING),
    ((GOOD, GOOD), {GOOD}, True, Tier.AFFIRMING),
    ((GOOD,), {GOOD, EVIL}, False, Tier.WARNING),
    ((GOOD, EVIL), {GOOD}, True, Tier.CONTRAINDICATED),
    ((EVIL,), {GOOD}, False, Tier.CONTRAINDICATED),
    ((), {GOOD}, True, Tier.WARNING),
    ((GOOD,), set(), True, Tier.NONE),
    ((), set(), False, Tier.NONE),
]


@pytest.mark.parametrize(("measured", "references", "named", "tier"), WORTH)
def test_what_it_is_worth(
    measured: tuple[bytes, ...], references: set[bytes], named: bool, tier: Tier
) -> None:
    assert judge_token(token(*measured), references, named)[0] is tier


COSE = public_cose_key(KEY.public_key())
PIN = info_digest(COSE)
HONEST = Statement(
    device="press-1", key=PIN, lineage=1, tier=Tier.AFFIRMING, why="", signed_by=COSE, named=True,
    nonce=NONCE, evidence=eat(), at_utc_s=5,
)  # fmt: skip
OWN = replace(HONEST, named=False, tier=Tier.WARNING)
CERTIFICATE = replace(HONEST, tier=Tier.NONE, signed_by=b"", nonce=b"", evidence=b"", named=False)

CLAIMED: dict[str, tuple[Statement, str]] = {
    "affirming": (HONEST, ""),
    "by its own key": (OWN, ""),
    "a certificate": (CERTIFICATE, ""),
    "in quarantine": (replace(CERTIFICATE, tier=Tier.CONTRAINDICATED), ""),
    "better than a certificate": (replace(CERTIFICATE, tier=Tier.WARNING), "without evidence"),
    "affirming out of nothing": (replace(CERTIFICATE, tier=Tier.AFFIRMING), "without evidence"),
    "garbled": (replace(HONEST, evidence=b"\xd2x"), "cannot be read"),
    "garbled key": (replace(HONEST, signed_by=b"x"), "cannot be read"),
    "forged": (replace(HONEST, evidence=eat(key=OTHER)), "not signed by"),
    "another key": (replace(OWN, key=b"k" * 32), "another key"),
    "another nonce": (replace(HONEST, nonce=b"m" * 32), "another challenge"),
    "affirming by its own word": (replace(HONEST, named=False), "cannot be"),
    "affirming without a measurement":
        (replace(HONEST, evidence=eat({10: NONCE})), "cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMED)
def test_what_a_gateway_claims_follows_from_what_it_shows(name: str) -> None:
    statement, why = CLAIMED[name]
    said = contradiction(statement, verify)
    assert (why in said) if why else said == ""


def judged(statement: bytes | None, digest: bytes | None = None) -> Submodule:
    named = digest or hashlib.sha256(statement or b"").digest()
    shown = {} if statement is None else {"press-1": statement}
    (one,) = judge_submodules({"press-1": named}, shown, verify)
    return one


TWO_DEVICES = encode_statement(replace(HONEST, device="press-2"))
LIE = encode_statement(replace(HONEST, evidence=eat(key=OTHER)))
SHOWN: dict[str, tuple[bytes | None, bytes | None, Tier]] = {
    "it holds": (encode_statement(HONEST), None, Tier.AFFIRMING),
    "not yet": (None, None, Tier.NONE),
    "another than named": (encode_statement(HONEST), b"d" * 32, Tier.CONTRAINDICATED),
    "garbled": (b"x", None, Tier.CONTRAINDICATED),
    "on another device": (TWO_DEVICES, None, Tier.CONTRAINDICATED),
    "a lie": (LIE, None, Tier.CONTRAINDICATED),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_submodule(name: str) -> None:
    statement, digest, tier = SHOWN[name]
    assert judged(statement, digest).tier is tier


def test_the_facet_is_the_worst_of_them() -> None:
    good, bad = Submodule("a", Tier.AFFIRMING, ""), Submodule("b", Tier.CONTRAINDICATED, "why")
    none, warned = Submodule("c", Tier.NONE, "no"), Submodule("d", Tier.WARNING, "hm")
    assert worst([]) == (Tier.NONE, "no device yet")
    assert worst([good]) == (Tier.AFFIRMING, "")
    assert worst([good, warned]) == (Tier.WARNING, "d: hm")
    assert worst([good, warned, none]) == (Tier.NONE, "c: no")
    assert worst([good, none, bad]) == (Tier.CONTRAINDICATED, "b: why")


def test_a_statement_is_read_as_it_was_written() -> None:
    for statement in (HONEST, OWN, CERTIFICATE):
        assert decode_statement(encode_statement(statement)) == statement


STATED = cbor.decode(encode_statement(HONEST))
assert isinstance(STATED, dict)
BAD: dict[str, dict[object, object]] = {
    "a claim more": {**STATED, 1: 1},
    "another profile": {**STATED, 265: "x"},
    "device": {**STATED, 2: "Press 1"},
    "device is a number": {**STATED, 2: 1},
    "why": {**STATED, -70024: 1},
    "why is long": {**STATED, -70024: "x" * 201},
    "named": {**STATED, -70026: 1},
    "lineage": {**STATED, -70022: True},
    "lineage is negative": {**STATED, -70022: -1},
    "time": {**STATED, 6: "now"},
    "time is large": {**STATED, 6: 1 << 63},
    "tier": {**STATED, -70023: 1},
    "key": {**STATED, -70021: b"k"},
    "key is text": {**STATED, -70021: "k" * 32},
    "nonce": {**STATED, 10: b"n"},
    "signed by": {**STATED, -70025: b"k" * 257},
    "signed by text": {**STATED, -70025: "k"},
    "evidence is long": {**STATED, -70027: b"k" * 4097},
    "evidence is text": {**STATED, -70027: "k"},
}


@pytest.mark.parametrize("name", BAD)
def test_a_statement_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        decode_statement(cbor2.dumps(BAD[name], canonical=True))
    assert refused.value.name == "bad_statement"


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", b"\x05", b"\0" * 7000])
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    with pytest.raises(WireRefusal) as refused:
        decode_statement(data)
    assert refused.value.name == "bad_statement"
