"""The attester: which nonces it answers, what its evidence says, which verdicts it believes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.appraise import quotes
from edgewarden.appraise.quotes import Bound, Enrolled, Vouched
from edgewarden.daemon.attester import (
    MIN_INTERVAL_S,
    QUOTES_FOR_IMA,
    UNASKED_S,
    Attester,
    Who,
)
from edgewarden.daemon.clock import SystemRandomness
from edgewarden.daemon.continuity import Continuity
from edgewarden.trust.boot import BootFacts
from edgewarden.trust.continuity import TokenFile
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.trust.measure import Measurer
from edgewarden.wire import cose, evidence, quoted
from edgewarden.wire.evidence import Challenge, Heads, Result, Tier
from edgewarden.wire.quoted import Quoted, unasked_nonce
from edgewarden.wire.ratchet import NOTHING_SPENT
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.verify.tpm import verify
from tests.fakes.clock import FakeClock
from tests.fakes.tpm import PCRS, SoftTpm
from tests.fleet.makers import authority

VERIFIER = FileSigner.generate()
HEAD = (7, b"h" * 32)


class Rig:
    """An attester with everything around it recorded."""

    def __init__(
        self, folder: Path, *, tpm: bool = False, chain: tuple[bytes, ...] = (),
        boot: BootFacts | None = None,
    ) -> None:  # fmt: skip
        self.control, self.gate_told = ("T3", "enforce"), asyncio.Event()
        self.gate_told.set()
        self.clock = FakeClock(wall_ns=1_800_000_000 * 10**9, uncertainty_ms=50, state="ntp")
        self.identity, self.report = FileSigner.generate(), FileSigner.generate()
        self.tpm = SoftTpm(self.identity.private_key()) if tpm else None
        self.kept: list[tuple[bytes, Heads]] = []
        self.published: list[bytes] = []
        settings = folder / "edgewarden.toml"
        settings.write_text("[host]\nperiod_s = 5\n")
        self.attester = Attester(
            Who(
                "main",
                "gw-demo",
                "G2" if tpm else "G0",
                "0.1.0",
                self.report.public_key(),
                chain,
                VERIFIER.public_key(),
            ),
            self.identity,
            Measurer([settings], [], wall_ns=time.time_ns),
            self.clock,
            Continuity(lambda: TokenFile(folder, "main", "gw-demo"), SystemRandomness()),
            heads=lambda: {RecordClass.AUDIT: HEAD},
            control=lambda: self.control,
            keep=self.keep,
            publish=self.publish,
            quoter=self.tpm,
            boot=boot or BootFacts(folder),
            settled=self.settled,
        )

    async def settled(self) -> None:
        await self.gate_told.wait()

    async def keep(self, message: bytes, heads: Heads) -> None:
        assert message not in self.published, "published before it was durable"
        self.kept.append((message, heads))

    def publish(self, message: bytes) -> None:
        self.published.append(message)

    def ask(self, challenge: Challenge, signer: FileSigner = VERIFIER) -> None:
        asyncio.run(self.attester.on_nonce(self.sealed(challenge, signer)))

    def sealed(self, challenge: Challenge, signer: FileSigner = VERIFIER) -> bytes:
        payload = evidence.encode_challenge(challenge)
        return cose.seal(payload, cose.ContentType.NONCE, signer.kid, signer.sign)

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
    encoded, word = quoted.decode_payload(envelope.payload)
    assert word is None
    claims = evidence.decode_evidence(encoded)
    assert claims.nonce == b"n" * 32
    assert claims.report_key == rig.report.public_key()
    assert claims.heads == {RecordClass.AUDIT: HEAD}
    assert (claims.exec_tier, claims.exec_mode, claims.bytecode) == ("T3", "enforce", "match")
    assert len(claims.measurements["code"]) == 32
    assert rig.kept == [(message, {RecordClass.AUDIT: HEAD})]
    assert len(message) <= 2048


def test_a_start_answers_with_what_gate_says_and_the_last_challenge_alone(rig: Rig) -> None:
    rig.control = ("T0", "learn")
    rig.gate_told.clear()

    async def play() -> None:
        first = asyncio.create_task(rig.attester.on_nonce(rig.sealed(rig.fresh(b"1" * 32))))
        await asyncio.sleep(0)
        rig.clock.advance(3)
        second = asyncio.create_task(rig.attester.on_nonce(rig.sealed(rig.fresh(b"2" * 32))))
        await asyncio.sleep(0)
        assert rig.published == []
        rig.control = ("T3", "enforce")
        rig.gate_told.set()
        await asyncio.gather(first, second)

    asyncio.run(play())
    [message] = rig.published
    encoded, _ = quoted.decode_payload(
        cose.open_envelope(message, cose.ContentType.EVIDENCE).payload
    )
    claims = evidence.decode_evidence(encoded)
    assert (claims.nonce, claims.exec_tier) == (b"2" * 32, "T3")
    assert rig.attester.refused == {"stale_nonce": 1}


def test_a_challenge_that_ends_while_gate_is_waited_for_spends_no_token(rig: Rig) -> None:
    rig.gate_told.clear()

    async def play() -> None:
        asked = replace(rig.fresh(), expires_utc_s=rig.clock.now().wall_ns // 10**9 + 5)
        waiting = asyncio.create_task(rig.attester.on_nonce(rig.sealed(asked)))
        await asyncio.sleep(0)
        rig.clock.advance(8)
        rig.gate_told.set()
        await waiting

    asyncio.run(play())
    assert (rig.published, rig.kept) == ([], [])
    assert rig.attester.refused == {"stale_nonce": 1}


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
        "edgewarden-appraisal-2",
        b"e" * 32,
    )
    return cose.seal(
        evidence.encode_result(result), cose.ContentType.RESULT, signer.kid, signer.sign
    )


def test_believes_the_verdict_on_its_last_evidence(rig: Rig) -> None:
    rig.ask(rig.fresh())
    asyncio.run(rig.attester.on_result(verdict(rig, b"n" * 32)))
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
    asyncio.run(rig.attester.on_result(verdict(rig, nonce, signer, device)))
    assert rig.attester.result is None
    assert rig.attester.refused == {name: 1}


def test_a_nonce_is_never_read_as_a_verdict(rig: Rig) -> None:
    payload = evidence.encode_challenge(rig.fresh())
    message = cose.seal(payload, cose.ContentType.NONCE, VERIFIER.kid, VERIFIER.sign)
    asyncio.run(rig.attester.on_result(message))
    assert rig.attester.refused == {"wrong_type": 1}


# --- with a TPM -------------------------------------------------------------------------------


def chain_for(key: FileSigner) -> tuple[bytes, bytes]:
    """A chain as enrolment gives it: leaf and issuing certificate."""
    _, issuing = authority()
    public = key.private_key().public_key()
    leaf = certificates.make_gateway(issuing, public, "main", "gw-demo", 1_900_000_000.0)
    return certificates.der(leaf), certificates.der(issuing.certificate)


def parts(message: bytes) -> tuple[bytes, Quoted]:
    """Claims and TPM's part of a message."""
    payload = cose.open_envelope(message, cose.ContentType.EVIDENCE).payload
    claims, word = quoted.decode_payload(payload)
    assert word is not None
    return claims, word


def judged(rig: Rig, message: bytes, enrolled: Enrolled) -> Vouched | None:
    claims, word = parts(message)
    said = evidence.decode_evidence(claims)
    bound = Bound(said.nonce, claims, said.boot_id, rig.identity.public_key())
    return quotes.judge(word, bound, enrolled, verify)


def test_a_tpm_vouches_for_the_claims(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tpm=True)
    assert rig.tpm is not None
    rig.ask(rig.fresh())
    vouched = judged(rig, rig.published[0], Enrolled(rig.tpm.ak_public))
    assert vouched is not None
    assert vouched.pcrs == PCRS


def test_the_first_evidence_is_whole_and_the_rest_short(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tpm=True, chain=chain_for(FileSigner.generate()))
    for i in range(3):
        rig.ask(replace(rig.fresh(bytes([i]) * 32), whole=i == 2))
        rig.clock.advance(MIN_INTERVAL_S + 1)
    words = [parts(message)[1] for message in rig.published]
    assert [word.keys is not None for word in words] == [True, False, True]
    assert [word.pcrs is not None for word in words] == [True, False, True]


def test_pcr_values_that_moved_are_told_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tpm=True)
    assert rig.tpm is not None
    rig.ask(rig.fresh(b"1" * 32))
    rig.clock.advance(MIN_INTERVAL_S + 1)
    rig.tpm.pcrs = {**PCRS, 10: b"i" * 32}
    rig.ask(rig.fresh(b"2" * 32))
    word = parts(rig.published[1])[1]
    assert word.pcrs == rig.tpm.pcrs
    assert word.keys is None


def with_package(rig: Rig, folder: Path) -> Path:
    """The rig measures a package of the test's own; a file of it."""
    source = folder / "package/code.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    rig.attester._measurer = Measurer([], [], source.parent)
    return source


def counted(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls, real = list[object](), getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: (calls.append(given), real(*given))[1])
    return calls


def test_files_that_changed_while_it_was_signed_are_in_what_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, tpm=True)
    source = with_package(rig, tmp_path)
    quotes_made = counted(rig.tpm, "quote", monkeypatch)
    spent = counted(rig.attester._continuity, "spend", monkeypatch)
    told = []
    for i in range(4):
        if i == 2:
            source.write_text("x = 2\n")
        rig.ask(rig.fresh(bytes([i]) * 32))
        rig.clock.advance(MIN_INTERVAL_S + 1)
        told.append(evidence.decode_evidence(parts(rig.published[-1])[0]))
    code = [one.measurements["code"] for one in told]
    assert code[0] == code[1] != code[2] == code[3]
    assert code[2] == Measurer([], [], source.parent).take()[0]["code"]
    assert len(rig.published) == len(rig.kept) == 4, "what was signed before never left"
    assert len(quotes_made) == 5, "once more, where files had changed"
    assert len(spent) == 4, "and the token once for each"
    assert told[2].spent == told[1].spent != NOTHING_SPENT
    assert rig.tpm is not None
    enrolled = Enrolled(rig.tpm.ak_public)
    assert judged(rig, rig.published[0], enrolled) is not None
    words = [parts(message)[1] for message in rig.published]
    assert [word.keys is not None for word in words] == [True, False, False, False]


def test_without_a_tpm_files_are_looked_at_before_it_is_signed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    source, code = with_package(rig, tmp_path), []
    for i in range(2):
        source.write_text(f"x = {i}\n")
        rig.ask(rig.fresh(bytes([i]) * 32))
        rig.clock.advance(MIN_INTERVAL_S + 1)
        payload = cose.open_envelope(rig.published[-1], cose.ContentType.EVIDENCE).payload
        claims = evidence.decode_evidence(quoted.decode_payload(payload)[0])
        code.append(claims.measurements["code"])
    assert code[0] != code[1]


def test_where_the_look_fails_nothing_leaves(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tpm=True)
    source = with_package(rig, tmp_path)
    rig.ask(rig.fresh(b"1" * 32))
    rig.clock.advance(MIN_INTERVAL_S + 1)
    source.unlink()
    source.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        rig.ask(rig.fresh(b"2" * 32))
    assert len(rig.published) == len(rig.kept) == 1


def test_sizes(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Digest form with a real chain of two certificates: at most 2 kB at every grade."""
    plain, rig = Rig(tmp_path), Rig(tmp_path, tpm=True, chain=chain_for(FileSigner.generate()))
    plain_chain = Rig(tmp_path, chain=chain_for(FileSigner.generate()))
    for one in (plain, plain_chain, rig):
        one.ask(one.fresh(b"1" * 32))
        one.clock.advance(MIN_INTERVAL_S + 1)
        one.ask(one.fresh(b"2" * 32))
    sizes = {
        "G0 without chain": len(plain.published[1]),
        "G0": len(plain_chain.published[1]),
        "G2 whole": len(rig.published[0]),
        "G2 digest form": len(rig.published[1]),
    }
    record_property("sizes", sizes)
    print(sizes)
    assert max(sizes["G0"], sizes["G2 digest form"]) <= 2048
    assert sizes["G2 whole"] <= 3072


# --- while nobody asks --------------------------------------------------------------------------


def unasked(rig: Rig) -> bytes | None:
    return asyncio.run(rig.attester.unasked())


def test_evidence_is_made_while_nobody_asks(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert unasked(rig) is None
    rig.clock.advance(UNASKED_S - 1)
    assert unasked(rig) is None
    rig.clock.advance(1)
    message = unasked(rig)
    assert message is not None
    payload = cose.open_envelope(message, cose.ContentType.EVIDENCE).payload
    claims = evidence.decode_evidence(quoted.decode_payload(payload)[0])
    assert claims.nonce == unasked_nonce(HEAD[1])
    assert claims.spent == NOTHING_SPENT
    assert rig.published == []
    assert unasked(rig) is None


def test_a_challenge_puts_it_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.clock.advance(UNASKED_S - 10)
    rig.ask(rig.fresh())
    rig.clock.advance(20)
    assert unasked(rig) is None


def test_it_is_whole_and_changes_nothing_of_what_was_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tpm=True)
    rig.clock.advance(UNASKED_S)
    message = unasked(rig)
    assert message is not None
    assert parts(message)[1].keys is not None
    rig.ask(rig.fresh())
    assert parts(rig.published[0])[1].keys is not None


class MovingBoot(BootFacts):
    """An IMA log that grows between reading it and quoting, so many times."""

    def __init__(self, rig: Callable[[], SoftTpm], times: int) -> None:
        super().__init__()
        self.rig, self.times, self.reads = rig, times, 0

    def take(self) -> tuple[dict[str, str], bytes, bytes]:
        self.reads += 1
        value = bytes([self.reads]) * 32
        if self.reads > self.times:
            self.rig().pcrs = {**PCRS, 10: value}
        return {"secure_boot": "off", "ima": "tpm"}, b"l" * 32, value


@pytest.mark.parametrize("moves", [0, 1, QUOTES_FOR_IMA - 1, QUOTES_FOR_IMA, 9])
def test_log_and_quote_are_of_one_moment(tmp_path: Path, moves: int) -> None:
    made: list[SoftTpm] = []
    boot = MovingBoot(lambda: made[0], moves)
    rig = Rig(tmp_path, tpm=True, boot=boot)
    assert rig.tpm is not None
    made.append(rig.tpm)
    rig.ask(rig.fresh())
    claims, word = parts(rig.published[0])
    assert word.pcrs is not None
    said = evidence.decode_evidence(claims).measurements["ima_pcr"]
    assert (said == word.pcrs[10]) is (moves < QUOTES_FOR_IMA)
    assert judged(rig, rig.published[0], Enrolled(rig.tpm.ak_public)) is not None
