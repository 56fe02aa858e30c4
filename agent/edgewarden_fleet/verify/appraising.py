"""One piece of evidence and what a verifier knew, judged: now, or again years later by another.

Decides nothing that needs a store, a socket or a clock: everything that the first appraisal went by
is in ``Facts``, so that a second one, with other keys and other references, judges the same
evidence by the same rules (verify/again.py).

    given = open_given(envelope, peer_key, message)     claims and the TPM's part, taken apart
    judged = judge(given, facts, sets, required)        a tier per facet, what it was judged by
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from edgewarden.appraise import appraisal
from edgewarden.appraise import quotes as tpm_quotes
from edgewarden.appraise import references as reference_sets
from edgewarden.appraise.appraisal import HARDWARE_GRADES, Appraisal, Hardware, Known
from edgewarden.appraise.devices import judge_submodules, worst
from edgewarden.appraise.quotes import Bound, Contradiction, Enrolled, Vouched
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import either_form_verified
from edgewarden.wire import cbor, quoted
from edgewarden.wire.evidence import Evidence, Result, Tier, decode_evidence
from edgewarden.wire.quoted import Quoted
from edgewarden.wire.ratchet import Issued
from edgewarden.wire.record import MAX_SEQ, RecordClass
from edgewarden_fleet.verify import tpm

POLICY_ID = "edgewarden-appraisal-6"
"""Names the rules of appraise/; a change of what they say is another one."""
POLICIES_KEPT = 256
"""Hashes of policies: one for all gateways, and one for each that has sets of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """Evidence whose signature held.

    Attributes:
        message: as it came.
        encoded: the claims' exact bytes.
        peer_key: COSE_Key of the certificate that signed it.
    """

    message: bytes
    claims: Evidence
    encoded: bytes
    tpm: Quoted | None
    peer_key: bytes

    def digest(self) -> bytes:
        """SHA-256 of the message: what a result is about."""
        return hashlib.sha256(self.message).digest()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verifier knew by itself; see appraise/appraisal.py's Known.

    Attributes:
        received_utc_s: when the evidence came.
        expires_utc_s: until when its challenge could be answered; 0 for late evidence.
        enrolled: the device's TPM; None when none was enrolled.
        late: it was made without a challenge and came inside a record.
        age_s: how old late evidence was when it came; None when nothing vouches for it.
        quarantine: why the device was in quarantine, "" when it was not.
        detached: SHA-256 -> what the gateway says of a device behind it, of those that its
            evidence names; proves itself by its digest, so it is kept elsewhere.
    """

    grade: str
    revoked: bool
    key_boot: bytes | None
    asked_utc_s: float
    expires_utc_s: float
    received_utc_s: float
    heads: Mapping[RecordClass, int] = field(default_factory=dict)
    hashes: Mapping[RecordClass, bytes | None] = field(default_factory=dict)
    withheld: Mapping[RecordClass, tuple[int, int]] = field(default_factory=dict)
    enrolled: Enrolled | None = None
    late: bool = False
    age_s: float | None = None
    quarantine: str = ""
    detached: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and what it was judged by.

    Attributes:
        vouched: the TPM's word, where it held.
        whole_wanted: the digest form did not say enough.
        policy_hash: of POLICY_ID, the required facets and the sets that apply.
    """

    appraisal: Appraisal
    vouched: Vouched | None
    whole_wanted: bool
    policy_hash: bytes


def open_given(payload: bytes, peer_key: bytes, message: bytes) -> Given:
    """Take the payload of believed evidence apart; raises WireRefusal("bad_evidence")."""
    encoded, word = quoted.decode_payload(payload)
    evidence = decode_evidence(encoded)
    if max((seq for seq, _ in evidence.heads.values()), default=0) > MAX_SEQ:
        raise WireRefusal("bad_evidence", "a sequence is out of range")
    return Given(message, evidence, encoded, word, peer_key)


def judge(given: Given, facts: Facts, sets: reference_sets.Sets, required: Sequence[str]) -> Judged:
    """Judge evidence by these facts and these reference sets, at the time it was received."""
    evidence = given.claims
    hardware = _hardware(given, facts)
    known = Known(
        grade=facts.grade,
        revoked=facts.revoked,
        key_boot=facts.key_boot,
        asked_utc_s=facts.asked_utc_s,
        now_utc_s=facts.received_utc_s,
        hardware=hardware,
        heads=facts.heads,
        hashes=facts.hashes,
        withheld=facts.withheld,
        late=facts.late,
        age_s=facts.age_s,
        behind=_behind(evidence, facts),
    )
    applied = reference_sets.applying(sets, evidence.device)
    values = reference_sets.select_of(applied, evidence.version, facts.received_utc_s)
    verdict = appraisal.appraise(evidence, known, values, required)
    if facts.quarantine:
        verdict = appraisal.in_quarantine(verdict, facts.quarantine)
    vouched = hardware.vouched if hardware else None
    lacking = hardware is not None and not hardware.contradiction
    return Judged(
        verdict,
        vouched,
        lacking and (vouched is None or vouched.pcrs is None),
        _policy_hash(tuple(required), tuple(sorted(applied))),
    )


@lru_cache(POLICIES_KEPT)
def _policy_hash(required: tuple[str, ...], used: tuple[bytes, ...]) -> bytes:
    """What every result of one version and one choice of sets carries."""
    return hashlib.sha256(cbor.encode([POLICY_ID, required, used])).digest()


def _behind(evidence: Evidence, facts: Facts) -> tuple[Tier, str] | None:
    """The devices behind the gateway, by what it shows for what it says of them."""
    named = evidence.submods
    if named is None:
        return None
    came = {name: facts.detached[d] for name, d in named.items() if d in facts.detached}
    return worst(judge_submodules(named, came, either_form_verified))


def _hardware(given: Given, facts: Facts) -> Hardware | None:
    """What becomes of the TPM's part."""
    if given.tpm is None or facts.enrolled is None or facts.grade not in HARDWARE_GRADES:
        return None
    bound = Bound(given.claims.nonce, given.encoded, given.claims.boot_id, given.peer_key)
    try:
        return Hardware(tpm_quotes.judge(given.tpm, bound, facts.enrolled, tpm.verify))
    except Contradiction as contradiction:
        return Hardware(None, str(contradiction))


def result(
    given: Given, verdict: Appraisal, policy_hash: bytes, issued_utc_s: float, valid_s: int,
    token: Issued | None = None,
) -> Result:  # fmt: skip
    """The verdict as it is signed."""
    return Result(
        tenant=given.claims.tenant,
        device=given.claims.device,
        nonce=given.claims.nonce,
        issued_utc_s=int(issued_utc_s),
        expires_utc_s=int(issued_utc_s) + valid_s,
        grade=verdict.grade,
        overall=verdict.overall,
        facets=verdict.facets,
        reasons=verdict.reasons,
        policy_hash=policy_hash,
        policy_id=POLICY_ID,
        evidence=given.digest(),
        token=token,
    )
