"""One device as this process knows it: what an operator said, what it showed, what is said of it.

Values alone. A device's grade is stated as what it is (appraise/devices.py): a certificate is tier
none, and nothing here raises it; quarantine contradicts whatever was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgewarden.downstream.budget import Bucket
from edgewarden.downstream.lineage import Pinned
from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass, field
from edgewarden.wire.devices import MAX_WHY_CHARS, Statement, Word
from edgewarden.wire.evidence import Tier
from edgewarden.wire.facts import Plain, Quality

REQUESTS_PER_S = 100
"""Of one device, five times as many at once: five times as many values as it may bring. A request
costs some 0.1 ms here, whatever becomes of it."""
CHALLENGES_PER_S, CHALLENGES = 1 / 300, 6
"""Challenges of one device, and at once; each answer is a record of up to 6 kB. Twice in
``evidence_valid_s`` where that is more."""
CERTIFICATE_ALONE = "a certificate, and no evidence of its own"
SINCE_START = "no evidence since link started"
"""Whatever was known before: nothing is made of what this process did not see."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an operator knows of one device.

    Attributes:
        attestation_key: COSE_Key; b"" = it signs evidence with its TLS key.
        measurements: what its software components may measure.
    """

    attestation_key: bytes = b""
    measurements: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """Bounds and what is known beforehand; see [downstream].

    Attributes:
        listed: the only devices let in; None = whoever the CA named.
    """

    listed: frozenset[str] | None = None
    known: Mapping[str, Known] = field(default_factory=dict)
    values_per_s: int = 20
    evidence_valid_s: int = 86400


@dataclass(slots=True)
class Shown:
    """What one device showed since this process began.

    Attributes:
        tls_key: COSE_Key of its certificate; b"" when that is not P-256.
        tier, why, signed_by, named, nonce, evidence: of its evidence, which counts until until_ns.
        challenge: nonce that it may answer until challenge_until_ns; b"" for none.
        untold: sessions since the last event about them, at told_ns.
    """

    tls_key: bytes = b""
    tier: Tier = Tier.NONE
    why: str = CERTIFICATE_ALONE
    signed_by: bytes = b""
    named: bool = False
    nonce: bytes = b""
    evidence: bytes = b""
    until_ns: int = 0
    challenge: bytes = b""
    challenge_until_ns: int = 0
    seen_ns: int = 0
    place: str = ""
    protocol: str = ""
    sessions: int = 0
    untold: int = 0
    told_ns: int | None = None
    readings: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    channels: set[str] = field(default_factory=set)
    bucket: Bucket | None = None
    requests: Bucket | None = None
    challenges: Bucket | None = None

    def quality(self) -> Quality:
        """Of its readings: what runs there is not what should, so it may say anything."""
        return Quality.SUSPECT if self.tier is Tier.CONTRAINDICATED else Quality.GOOD

    def asks(self, now_ns: int, least_per_s: float) -> None:
        """A request begins; raises WireRefusal ``too_many_requests``."""
        per_s = max(REQUESTS_PER_S, least_per_s)
        if self.requests is None:
            self.requests = Bucket(per_s, 5 * per_s, now_ns)
        if not self.requests.has(now_ns):
            raise WireRefusal("too_many_requests", f"more than {per_s:.0f} a second")
        self.requests.take()

    def challenged(self, now_ns: int, least_per_s: float) -> None:
        """It asks for a challenge; raises WireRefusal ``too_many_challenges``."""
        per_s = max(CHALLENGES_PER_S, least_per_s)
        if self.challenges is None:
            self.challenges = Bucket(per_s, CHALLENGES, now_ns)
        if not self.challenges.has(now_ns):
            raise WireRefusal("too_many_challenges", f"{CHALLENGES}, and one in {1 / per_s:.0f} s")
        self.challenges.take()

    def forget_evidence(self, why: str) -> None:
        """It counts no longer."""
        self.tier, self.why, self.named = Tier.NONE, why, False
        self.signed_by = self.nonce = self.evidence = b""


def statement(name: str, pinned: Pinned, shown: Shown, at_utc_s: int) -> Statement:
    """What is said of a device upstream."""
    tier, why = shown.tier, shown.why
    if pinned.quarantine:
        tier, why = Tier.CONTRAINDICATED, f"in quarantine: {pinned.quarantine}"
    return Statement(
        device=name,
        key=pinned.key,
        lineage=pinned.lineage,
        tier=tier,
        why=why[:MAX_WHY_CHARS],
        signed_by=shown.signed_by,
        named=shown.named,
        nonce=shown.nonce,
        evidence=shown.evidence,
        at_utc_s=at_utc_s,
    )


def listed(
    said: Statement, pinned: Pinned, shown: Shown | None, here: bool, now_ns: int
) -> dict[str, object]:
    """One device for `edgewarden devices`."""
    state = "here" if here else "away" if pinned.key else "reset"
    seen = shown if shown is not None and shown.sessions else None
    return {
        "tier": said.tier.label,
        "why": said.why,
        "state": "quarantined" if pinned.quarantine else state,
        "key_sha256": pinned.key.hex(),
        "lineage": pinned.lineage,
        "place": "" if seen is None else seen.place,
        "protocol": "" if seen is None else seen.protocol,
        "seen_s": None if seen is None else (now_ns - seen.seen_ns) / 1e9,
        "sessions": 0 if seen is None else seen.sessions,
        "readings": 0 if seen is None else seen.readings,
        "refused": {} if seen is None else dict(seen.refused),
    }


def same(one: Statement, other: Statement) -> bool:
    """Whether two statements say the same, whenever they were made."""
    return one == replace(other, at_utc_s=one.at_utc_s)


def told_of(word: Word) -> dict[str, Plain]:
    """What is told of a word that was carried out."""
    what = f"{word.verb.value} of device {word.device}"
    return {"what": what, "why": word.why, "at_utc_s": word.at_utc_s}
