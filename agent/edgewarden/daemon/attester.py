"""The attester (RFC 9334): a verifier's nonce in, signed evidence out, and the verifier's verdict
remembered.

Rules in order, for a nonce:

1. signed by the verifier's key that enrolment pinned, content type nonce, for this device and
tenant
2. not answered before, and at most one answer each MIN_INTERVAL_S: a flood of nonces costs a board
its CPU
3. at a start, for a few seconds, not before gate has told the tier and mode it is in (heard.py),
   and then only the challenge that came last: a token is spent for one
4. measured in an executor (trust/measure.py, trust/boot.py), the continuity token spent there
   (continuity.py), vouched for by the TPM where there is one, signed by the identity key. While a
   TPM works the same thread looks whether the agent's files are those of the last time; where they
   are not, what was signed never leaves, and all is measured and signed anew
5. an audit record with the evidence's SHA-256 and the heads of all classes is durable before the
evidence leaves

Where nobody asks for UNASKED_S, evidence is made all the same, from the audit chain's last record
in the place of a nonce, and kept as a record: what this gateway was during an outage is told
afterwards.

A verdict counts only when the same key signed it for the nonce that was answered last; the token in
it is kept then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

from edgewarden.daemon.continuity import Continuity
from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, Quoter, Signer
from edgewarden.trust.boot import BootFacts
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.trust.measure import Measurer
from edgewarden.wire import cose, evidence, quoted
from edgewarden.wire.evidence import Challenge, Evidence, Heads, Result
from edgewarden.wire.quoted import Quoted, unasked_nonce
from edgewarden.wire.ratchet import Spent
from edgewarden.wire.record import RecordClass

MIN_INTERVAL_S = 2.0
"""The verifier asks every few minutes; two seconds still let a person ask twice in a row."""

Control = Callable[[], tuple[str, str]]
"""(tier, mode) of exec control as gate last reported it."""
Submodules = Callable[[], Mapping[str, bytes] | None]
"""Device behind this gateway -> SHA-256 of what is said of it; None without a listener."""
Programs = Callable[[], bytes]
"""Digest of what was started, as far as gate told; b"" unknown."""
Keep = Callable[[bytes, Heads], Awaitable[object]]
"""Make the attestation record durable: (evidence message, the heads it names)."""


UNASKED_S = 900.0
"""Three of the verifier's ordinary periods without a challenge are an outage; from then on evidence
is made so often for later. 2 kB each: 0.2 MB a day."""
UNASKED_LOOK_S = 30.0
"""How often to ask whether it is due."""
QUOTES_FOR_IMA = 3
"""IMA extends PCR 10 whenever a new file runs, also between reading its log and quoting: so often
is it tried to get both from one moment."""


Measure = Callable[[], tuple[dict[str, bytes], str]]
"""(measurements by name, bytecode verdict), of trust/measure.py."""


class _Made(NamedTuple):
    """Evidence that may leave, the token that was spent in it, and all that the TPM said."""

    sealed: bytes
    spent: Spent
    quoted: Quoted | None


@dataclass(frozen=True, slots=True)
class Who:
    """What does not change while the process lives."""

    tenant: str
    device: str
    grade: str
    version: str
    report_key: bytes
    x5chain: Sequence[bytes]
    verifier_key: bytes


class Attester:
    """Answers nonces; remembers the last verdict. Every method on the loop's thread.

    Args:
        who: constants of this start.
        signer: the identity key.
        heads: class -> (sequence, hash) of everything durable; HardwareFault while nothing is.
        keep: makes the attestation record durable.
        publish: hands the evidence message to the uplink.
        settled: returns when what ``control`` says is no longer only that of a start.
        programs: what was started.
        quoter: the TPM; None below grade G2.
    """

    def __init__(
        self,
        who: Who,
        signer: Signer,
        measurer: Measurer,
        clock: Clock,
        continuity: Continuity,
        *,
        heads: Callable[[], Heads],
        control: Control,
        keep: Keep,
        publish: Callable[[bytes], object],
        settled: Callable[[], Awaitable[None]],
        programs: Programs = bytes,
        quoter: Quoter | None = None,
        boot: BootFacts | None = None,
        submodules: Submodules = lambda: None,
    ) -> None:
        self._who = who
        self._signer = signer
        self._measurer = measurer
        self._clock = clock
        self._continuity = continuity
        self._heads = heads
        self._control = control
        self._keep = keep
        self._publish = publish
        self._programs = programs
        self._quoter = quoter
        self._boot = boot or BootFacts()
        self._submodules = submodules
        self._settled = settled
        self._sent: Quoted | None = None
        self._one_at_a_time = asyncio.Lock()
        self._verify = verifier_for(who.verifier_key)
        self._verifier_kid = key_id(who.verifier_key)
        self._answered = b""
        self._answered_ns = 0
        self._unasked_ns = clock.mono_ns()
        self.result: Result | None = None
        self.result_ns = 0
        self.refused: dict[str, int] = {}

    async def on_nonce(self, message: bytes) -> None:
        """Answer one message of e/nonce; a refused one is counted by name and not answered."""
        try:
            sealed = await self.answer(message)
        except WireRefusal as refusal:
            self._count(refusal)
            return
        self._publish(sealed)

    async def answer(self, message: bytes) -> bytes:
        """The evidence message for a challenge, its record durable; raises WireRefusal."""
        challenge = self._open_challenge(message)
        await self._settled()
        if challenge.nonce != self._answered:
            raise WireRefusal("stale_nonce", "another challenge came while gate was waited for")
        self._check_time(challenge)  # again: no token is spent on what the verifier would refuse
        sealed, heads = await self.make(challenge.nonce, whole=challenge.whole)
        await self._keep(sealed, heads)
        return sealed

    async def run(self, keep: Callable[[bytes], Future[int]]) -> None:
        """Keep evidence as records while nobody asks; until cancelled."""
        while True:
            await asyncio.sleep(UNASKED_LOOK_S)
            with contextlib.suppress(HardwareFault):  # told by the storage; made again later
                message = await self.unasked()
                if message is not None:
                    await asyncio.wrap_future(keep(message))

    async def unasked(self) -> bytes | None:
        """Evidence for a verifier that did not ask for UNASKED_S; None while it is not due.

        Whole, and without a continuity token: it is judged when its record comes, in whatever
        order that is.
        """
        now_ns = self._clock.mono_ns()
        head = self._heads().get(RecordClass.AUDIT)
        if head is None or now_ns - max(self._answered_ns, self._unasked_ns) < UNASKED_S * 1e9:
            return None
        self._unasked_ns = now_ns
        sealed, _ = await self.make(unasked_nonce(head[1]), whole=True, spend=False)
        return sealed

    async def make(
        self, nonce: bytes, *, whole: bool = False, spend: bool = True
    ) -> tuple[bytes, Heads]:
        """Signed evidence about now, and the heads it names."""
        async with self._one_at_a_time:
            run = asyncio.get_running_loop().run_in_executor
            claims = self._claims(nonce)
            if self._quoter is None or not self._measurer.looked:
                made = await run(None, self._made, claims, whole, spend, self._measurer.take)
            else:
                made = await run(None, self._made_while_looking, self._quoter, claims, whole, spend)
            if spend and made.quoted is not None:
                self._sent = made.quoted
            return made.sealed, claims.heads

    def _made_while_looking(
        self, quoter: Quoter, claims: Evidence, whole: bool, spend: bool
    ) -> _Made:
        """The agent's files are looked at while the TPM is waited for; blocks."""
        look = self._measurer.look()
        with quoter.meanwhile(look):
            made = self._made(claims, whole, spend, self._measurer.last)
        if not look.moved():
            return made
        claims = replace(claims, spent=made.spent)
        return self._made(claims, whole, False, self._measurer.take)

    def _made(self, claims: Evidence, whole: bool, spend: bool, measure: Measure) -> _Made:
        """With everything that the disk has to say, vouched for, signed; blocks."""
        measured, bytecode = measure()
        facts, log, pcr10 = self._boot.take()
        spent = self._continuity.spend() if spend else claims.spent
        measured |= {**claims.measurements, "ima": log, "ima_pcr": pcr10}
        claims = replace(claims, measurements=measured, bytecode=bytecode, boot=facts, spent=spent)
        if self._quoter is None:
            return _Made(self._seal(evidence.encode_evidence(claims), None), spent, None)
        return self._quoted(claims, whole)

    def _claims(self, nonce: bytes) -> Evidence:
        """What this process knows by itself, and what of the time."""
        now = self._clock.now()
        tier, mode = self._control()
        return Evidence(
            tenant=self._who.tenant,
            device=self._who.device,
            nonce=nonce,
            issued_utc_s=now.wall_ns // 10**9,
            uptime_s=now.boot_ns // 10**9,
            boot_id=self._clock.boot_id(),
            version=self._who.version,
            report_key=self._who.report_key,
            grade=self._who.grade,
            measurements={"programs": self._programs()},
            bytecode="",
            heads=self._heads(),
            exec_tier=tier,
            exec_mode=mode,
            clock_state=now.state,
            uncertainty_ms=now.uncertainty_ms,
            boot={},
            submods=self._submodules(),
        )

    def _quoted(self, claims: Evidence, whole: bool) -> _Made:
        """The TPM's word on the claims; blocks."""
        assert self._quoter is not None
        for left in reversed(range(QUOTES_FOR_IMA)):
            data = evidence.encode_evidence(claims)
            full = quoted.whole(self._quoter.quote(quoted.qualifying(claims.nonce, data)))
            assert full.pcrs is not None
            if claims.boot["ima"] != "tpm" or full.pcrs[10] == claims.measurements["ima_pcr"]:
                break
            if left:
                _, log, pcr10 = self._boot.take()
                measured = {**claims.measurements, "ima": log, "ima_pcr": pcr10}
                claims = replace(claims, measurements=measured)
        told = full if whole or self._sent is None else quoted.shortened(full, self._sent)
        return _Made(self._seal(data, told), claims.spent, full)

    def _seal(self, claims: bytes, tpm: Quoted | None) -> bytes:
        return cose.seal(
            quoted.encode_payload(claims, tpm),
            cose.ContentType.EVIDENCE,
            self._signer.kid,
            self._signer.sign,
            # Digest form: the verifier has the issuing certificate from the whole.
            self._who.x5chain[:1] if tpm is not None and tpm.keys is None else self._who.x5chain,
        )

    async def on_result(self, message: bytes) -> None:
        """Take one message of e/result; a refused one is counted by name.

        Raises:
            HardwareFault: the next token cannot be stored; the verdict stands.
        """
        try:
            envelope = cose.open_envelope(
                message, cose.ContentType.RESULT, evidence.MAX_EVIDENCE_BYTES
            )
            self._check_verifier(envelope)
            result = evidence.decode_result(envelope.payload)
            if (result.tenant, result.device) != (self._who.tenant, self._who.device):
                raise WireRefusal("foreign_device", f"a verdict on {result.device}")
            if result.nonce != self._answered:
                raise WireRefusal("stale_nonce", "a verdict on evidence that is not the last")
        except WireRefusal as refusal:
            self._count(refusal)
            return
        self.result, self.result_ns = result, self._clock.mono_ns()
        if result.token is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._continuity.adopt, result.token)

    def _open_challenge(self, message: bytes) -> Challenge:
        envelope = cose.open_envelope(message, cose.ContentType.NONCE, evidence.MAX_EVIDENCE_BYTES)
        self._check_verifier(envelope)
        challenge = evidence.decode_challenge(envelope.payload)
        if (challenge.tenant, challenge.device) != (self._who.tenant, self._who.device):
            raise WireRefusal("foreign_device", f"a nonce for {challenge.device}")
        now = self._clock.now()
        if challenge.nonce == self._answered:
            raise WireRefusal("stale_nonce", "this nonce was answered")
        if self._answered and now.boot_ns - self._answered_ns < MIN_INTERVAL_S * 1e9:
            raise WireRefusal("rate_limited", f"the last answer is under {MIN_INTERVAL_S:g} s old")
        self._check_time(challenge)
        self._answered, self._answered_ns = challenge.nonce, now.boot_ns
        return challenge

    def _check_time(self, challenge: Challenge) -> None:
        """A clock that nothing vouches for calls no nonce expired; the verifier holds it to its
        time."""
        now = self._clock.now()
        if now.uncertainty_ms is not None:
            latest_s = challenge.expires_utc_s + now.uncertainty_ms / 1000
            if now.wall_ns / 1e9 > latest_s:
                raise WireRefusal("stale_nonce", "this nonce is expired")

    def _check_verifier(self, envelope: cose.Envelope) -> None:
        if envelope.kid != self._verifier_kid:
            raise WireRefusal(
                "unknown_key", "not signed by the verifier this gateway enrolled with"
            )
        cose.check_signature(envelope, self._verify)

    def _count(self, refusal: WireRefusal) -> None:
        self.refused[refusal.name] = self.refused.get(refusal.name, 0) + 1
