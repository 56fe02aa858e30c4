"""The attester: which nonces it answers, what its evidence says, which verdicts it believes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.daemon.attester import MIN_INTERVAL_S, Attester, Who
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.trust.measure import Measurer
from edgewarden.wire import cose, evidence
from edgewarden.wire.evidence import Challenge, Heads, Result, Tier
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock

VERIFIER = FileSigner.generate()
HEAD = (7, b"h" * 32)


class Rig:
    """An attester with everything around it recorded."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(wall_ns=1_800_000_000 * 10**9, uncertainty_ms=50, state="ntp")
        self.identity, self.report = FileSigner.generate(), FileSigner.generate()
        self.kept: list[tuple[bytes, Heads]] = []
        self.published: list[bytes] = []
        settings = folder / "edgewarden.toml"
        settings.write_text("[host]\nperiod_s = 5\n")
        self.attester = Attester(
            Who(
                "main",
                "gw-demo",
                "G0",
                "0.1.0",
                self.report.public_key(),
                (),
                VERIFIER.public_key(),
            ),
            self.identity,
            Measurer([settings], []),
            self.clock,
            heads=lambda: {RecordClass.AUDIT: HEAD},
            control=lambda: ("T3", "enforce"),
            keep=self.keep,
            publish=self.publish,
        )

    async def keep(self, message: bytes, heads: Heads) -> None:
        assert message not in self.published, "published before it was durable"
        self.kept.append((message, heads))

    def publish(self, message: bytes) -> None:
        self.published.append(message)

    def ask(self, challenge: Challenge, signer: FileSigner = VERIFIER) -> None:
        payload = evidence.encode_challenge(challenge)
        message = cose.seal(payload, cose.ContentType.NONCE, signer.kid, signer.sign)
        asyncio.run(self.attester.on_nonce(message))

    def fresh(self, nonce: bytes = b"n" * 32) -> Challenge:
        now_s = self.clock.now().wall_ns // 10**9
        return Challenge("main", "gw-demo", nonce, now_s, now_s + 60)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_answers_with_signed_evidence_after_it_is_durable(rig: Rig) -> None:
    rig.ask(rig.fresh())
    [message] = rig.published
    envelope = cose.open_envelope(message, cose.ContentType.EVIDENCE)
    cose.check_signature(envelope, verifier_for(rig.identity.public_key()))
    claims = evidence.decode_evidence(envelope.payload)
    assert claims.nonce == b"n" * 32
    assert claims.report_key == rig.report.public_key()
    assert claims.heads == {RecordClass.AUDIT: HEAD}
    assert (claims.exec_tier, claims.exec_mode, claims.bytecode) == ("T3", "enforce", "match")
    assert len(claims.measurements["code"]) == 32
    assert rig.kept == [(message, {RecordClass.AUDIT: HEAD})]
    assert len(message) <= 2048


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"device": "gw-other"}, "foreign_device"),
        ({"tenant": "other"}, "foreign_device"),
        ({"expires_utc_s": 1}, "stale_nonce"),
    ],
)
def test_refuses_a_nonce_that_is_not_for_it(rig: Rig, change: dict[str, str], name: str) -> None:
    rig.ask(replace(rig.fresh(), **change))  # type: ignore[arg-type]
    assert rig.published == []
    assert rig.attester.refused == {name: 1}


def test_an_unsynchronised_clock_cannot_call_a_nonce_expired(rig: Rig) -> None:
    rig.clock.uncertainty_ms = None
    rig.ask(replace(rig.fresh(), expires_utc_s=1))
    assert len(rig.published) == 1


def test_refuses_another_verifier(rig: Rig) -> None:
    rig.ask(rig.fresh(), FileSigner.generate())
    assert rig.attester.refused == {"unknown_key": 1}
    assert rig.published == []


def test_refuses_a_forged_signature_under_the_right_kid(rig: Rig) -> None:
    payload = evidence.encode_challenge(rig.fresh())
    other = FileSigner.generate()
    message = cose.seal(payload, cose.ContentType.NONCE, VERIFIER.kid, other.sign)
    asyncio.run(rig.attester.on_nonce(message))
    assert rig.attester.refused == {"bad_signature": 1}


def test_answers_a_nonce_once(rig: Rig) -> None:
    rig.ask(rig.fresh())
    rig.clock.advance(MIN_INTERVAL_S + 1)
    rig.ask(rig.fresh())
    assert len(rig.published) == 1
    assert rig.attester.refused == {"stale_nonce": 1}


def test_a_flood_of_nonces_costs_one_answer(rig: Rig) -> None:
    rig.ask(rig.fresh(b"1" * 32))
    for i in range(50):
        rig.ask(rig.fresh(bytes([i]) * 31 + b"x"))
    assert len(rig.published) == 1
    assert rig.attester.refused == {"rate_limited": 50}


def verdict(
    rig: Rig, nonce: bytes, signer: FileSigner = VERIFIER, device: str = "gw-demo"
) -> bytes:
    result = Result(
        "main",
        device,
        nonce,
        1,
        2,
        "G0",
        Tier.AFFIRMING,
        {"identity": Tier.AFFIRMING},
        {},
        b"p" * 32,
    )
    return cose.seal(
        evidence.encode_result(result), cose.ContentType.RESULT, signer.kid, signer.sign
    )


def test_believes_the_verdict_on_its_last_evidence(rig: Rig) -> None:
    rig.ask(rig.fresh())
    rig.attester.on_result(verdict(rig, b"n" * 32))
    assert rig.attester.result is not None
    assert rig.attester.result.overall is Tier.AFFIRMING


@pytest.mark.parametrize(
    ("nonce", "device", "own_key", "name"),
    [
        (b"o" * 32, "gw-demo", True, "stale_nonce"),
        (b"n" * 32, "gw-other", True, "foreign_device"),
        (b"n" * 32, "gw-demo", False, "unknown_key"),
    ],
)
def test_refuses_other_verdicts(
    rig: Rig, nonce: bytes, device: str, own_key: bool, name: str
) -> None:
    rig.ask(rig.fresh())
    signer = VERIFIER if own_key else FileSigner.generate()
    rig.attester.on_result(verdict(rig, nonce, signer, device))
    assert rig.attester.result is None
    assert rig.attester.refused == {name: 1}


def test_a_nonce_is_never_read_as_a_verdict(rig: Rig) -> None:
    payload = evidence.encode_challenge(rig.fresh())
    message = cose.seal(payload, cose.ContentType.NONCE, VERIFIER.kid, VERIFIER.sign)
    rig.attester.on_result(message)
    assert rig.attester.refused == {"wrong_type": 1}
