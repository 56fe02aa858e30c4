"""Appraisal: what one piece of evidence is worth, facet by facet (RFC 9334, AR4SI tiers).

Decides from facts that the caller gathered; knows no key, no store, no clock. The evidence's
signature and certificate chain held before it came here: what they prove is in ``Known``. Two
steps, in this order, and no third way in:

    admit(evidence, issued, now)         the nonce: refused by name, no verdict at all
    appraise(evidence, known, ...)       a tier per facet, and the worst required one

A nonce that is not outstanding says nothing about the gateway (anybody can resend old evidence), so
it never changes a verdict: ``nonce_unknown``, ``nonce_foreign``, ``nonce_used``, ``nonce_expired``.
The caller consumes the nonce before ``appraise``.

identity      certificate registered and not revoked; grade no higher than enrolment established;
              the report key is the one this boot introduced. Unknown report key = warning: its
              introduction may still be on its way.
freshness     heads, against what was stored when the nonce was issued. The gateway signs its answer
              after that moment, so a head behind it, or another hash at the same sequence, is an
              older or a second state of the gateway: a restored backup, a clone. Contraindicated.
              (Against what is stored *now* it would be a race: records overtake evidence on the
              wire.) Records that earlier evidence named and that did not come by their deadline:
              warning. The gateway says that it sent them; somebody keeps them.
executables   code digest among the references for the version it claims, byte code compiled from it
settings, policy, boot     digest among the references

Digest facets: no reference → none. Not measured → warning. Not among them → contraindicated.
Missing knowledge is never affirming.

    appraise(evidence, known, references, ("identity", "freshness", "executables")).overall
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgewarden.errors import WireRefusal
from edgewarden.wire.evidence import GRADES, Evidence, Tier
from edgewarden.wire.record import RecordClass

BYTECODE_MATCH = "match"
"""What trust/measure.py reports when every compiled file is what its source compiles to."""


@dataclass(frozen=True, slots=True)
class IssuedNonce:
    """One challenge as the verifier remembers it.

    Attributes:
        device: whom it was sent to.
        used: answered before.
    """

    device: str
    expires_utc_s: float
    used: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What the verifier knows by itself.

    Attributes:
        grade: identity grade that enrolment established.
        revoked: the registry's word.
        key_boot: boot id under which the evidence's report key was introduced; None when it was
        not. heads: class -> highest sequence stored when the nonce was issued.
        hashes: class -> hash stored at the sequence the evidence names; None when not stored.
        withheld: class -> first and last sequence that earlier evidence named and that did not
            come in time.
    """

    grade: str
    revoked: bool
    key_boot: bytes | None
    heads: Mapping[RecordClass, int] = field(default_factory=dict)
    hashes: Mapping[RecordClass, bytes | None] = field(default_factory=dict)
    withheld: Mapping[RecordClass, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class References:
    """Digests that are right for this gateway and the version it claims; empty = no reference."""

    code: frozenset[bytes] = frozenset()
    settings: frozenset[bytes] = frozenset()
    policy: frozenset[bytes] = frozenset()
    cmdline: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The verdict, before anybody signs it."""

    overall: Tier
    grade: str
    facets: Mapping[str, Tier]
    reasons: Mapping[str, str]


def admit(evidence: Evidence, issued: IssuedNonce | None, now_utc_s: float) -> None:
    """Let evidence in only against an outstanding nonce.

    Raises:
        WireRefusal: see the module's docstring.
    """
    if issued is None:
        raise WireRefusal("nonce_unknown", "no such challenge was issued")
    if issued.device != evidence.device:
        raise WireRefusal("nonce_foreign", "the challenge was issued to another gateway")
    if issued.used:
        raise WireRefusal("nonce_used", "the challenge was answered before")
    if now_utc_s > issued.expires_utc_s:
        raise WireRefusal("nonce_expired", "the answer came too late")


def appraise(
    evidence: Evidence, known: Known, references: References, required: Sequence[str]
) -> Appraisal:
    """Judge admitted evidence; ``required`` names the facets that decide overall."""
    judged = {
        "identity": _identity(evidence, known),
        "freshness": _freshness(evidence, known),
        "executables": _executables(evidence, references.code),
        "settings": _digest(evidence, "settings", references.settings),
        "policy": _digest(evidence, "policy", references.policy),
        "boot": _digest(evidence, "cmdline", references.cmdline),
    }
    facets = {name: tier for name, (tier, _) in judged.items()}
    reasons = {name: why for name, (_, why) in judged.items() if why}
    return Appraisal(overall([facets[name] for name in required]), known.grade, facets, reasons)


def overall(tiers: Sequence[Tier]) -> Tier:
    """The worst: contraindicated, else none (something required is not known), else warning."""
    for tier in (Tier.CONTRAINDICATED, Tier.NONE, Tier.WARNING):
        if tier in tiers:
            return tier
    return Tier.AFFIRMING if tiers else Tier.NONE


def _identity(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    if known.revoked:
        return Tier.CONTRAINDICATED, "the device is revoked"
    if GRADES.index(evidence.grade) > GRADES.index(known.grade):
        return (
            Tier.CONTRAINDICATED,
            f"claims grade {evidence.grade}, enrolment established {known.grade}",
        )
    if known.key_boot is None:
        return Tier.WARNING, "the report key has not been introduced yet"
    if known.key_boot != evidence.boot_id:
        return Tier.CONTRAINDICATED, "the report key belongs to another boot"
    return Tier.AFFIRMING, ""


def _freshness(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    for record_class in RecordClass:
        stored = known.heads.get(record_class, 0)
        seq, digest = evidence.heads.get(record_class, (0, b""))
        if seq < stored:
            return (
                Tier.CONTRAINDICATED,
                f"its {record_class.label} chain ends at {seq}, {stored} was stored before the"
                " challenge: an older state of this gateway",
            )
        kept = known.hashes.get(record_class)
        if kept is not None and kept != digest:
            return (
                Tier.CONTRAINDICATED,
                f"its {record_class.label} record {seq} is another than the stored one",
            )
    for record_class, (first, last) in known.withheld.items():
        return (
            Tier.WARNING,
            f"its {record_class.label} records {first} to {last} were named by earlier evidence"
            " and did not come",
        )
    return Tier.AFFIRMING, ""


def _executables(evidence: Evidence, references: frozenset[bytes]) -> tuple[Tier, str]:
    tier, why = _digest(evidence, "code", references)
    if tier is Tier.NONE:
        return tier, f"no reference for version {evidence.version[:32]}"
    if evidence.bytecode != BYTECODE_MATCH:
        return Tier.CONTRAINDICATED, evidence.bytecode[:200] or "byte code is not stated"
    return tier, why


def _digest(evidence: Evidence, measurement: str, references: frozenset[bytes]) -> tuple[Tier, str]:
    if not references:
        return Tier.NONE, "no reference"
    measured = evidence.measurements.get(measurement, b"")
    if not measured:
        return Tier.WARNING, "not measured"
    if measured not in references:
        return Tier.CONTRAINDICATED, f"{measured.hex()[:16]}.. is not a reference"
    return Tier.AFFIRMING, ""
