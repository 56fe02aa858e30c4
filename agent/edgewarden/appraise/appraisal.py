"""Appraisal: what one piece of evidence is worth, facet by facet (RFC 9334, AR4SI tiers).

Decides from facts that the caller gathered; knows no key, no store, no clock. The evidence's
signature and certificate chain held before it came here: what they prove is in ``Known``. Two
steps, in this order, and no third way in:

    admit(evidence, issued, now)         the nonce: refused by name, no verdict at all
                                         (admit_late where nobody could ask)
    appraise(evidence, known, ...)       a tier per facet, and the worst required one

A nonce that is not outstanding says nothing about the gateway (anybody can resend old evidence), so
it never changes a verdict: ``nonce_unknown``, ``nonce_foreign``, ``nonce_used``, ``nonce_expired``.
The caller consumes the nonce before ``appraise``.

identity      certificate registered and not revoked; grade neither above nor below the one that
              enrolment established: a key file in the place of a TPM is a downgrade; the report key
              is the one this boot introduced. Unknown report key = warning: its introduction may
              still be on its way.
freshness     heads, against what was stored when the nonce was issued. The gateway signs its answer
              after that moment, so a head behind it, or another hash at the same sequence, is an
              older or a second state of the gateway: a restored backup, a clone. Contraindicated.
              (Against what is stored *now* it would be a race: records overtake evidence on the
              wire.) Records that earlier evidence named and that did not come by their deadline:
              warning. The gateway says that it sent them; somebody keeps them.
hardware      from G2 on: a quote by the enrolled TPM about these claims (quotes.py beside). Below:
              none. It counts whether it is required or not once a TPM was enrolled.
clock         the gateway's time lies between the challenge and now, within what it says of its own
              uncertainty, MAX_UNCERTAINTY_S at most. Nothing vouches for it: warning. Vouched for
              and wrong: contraindicated.
executables   code digest among the references for the version it claims, byte code compiled from
              it; the version not below the least allowed one (a rollback)
programs, settings, policy      digest among the references
boot          kernel command line; of a board with a TPM also PCR 0 to 9, once a set speaks of them
ima           its log counts only where the quoted PCR 10 is what the log adds up to
devices       only where evidence speaks of devices behind the gateway: their worst (devices.py)

Digest facets: no reference → none. Not measured → warning. Only in a set that is announced or late
→ warning; that is retired → contraindicated (references.py has the windows). Not among them →
contraindicated. Missing knowledge is never affirming.

Grade of the verdict: the lower of what is claimed and what was enrolled; G3 only when a TPM vouched
for PCR values that references name and an operator stated this board's root of trust.

Quarantine (two states of this gateway exist) contradicts whatever was judged: ``in_quarantine``.

    appraise(evidence, known, references, ("identity", "freshness", "executables")).overall
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgewarden.appraise.quotes import Vouched
from edgewarden.appraise.values import firmware_digest, version_key
from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass, field
from edgewarden.wire.evidence import Evidence, Tier
from edgewarden.wire.fields import GRADES
from edgewarden.wire.quoted import unasked_nonce
from edgewarden.wire.record import RecordClass

MAX_LATE_DISTANCE = 64
"""Audit records between the one that late evidence names and its own: what else was written while
it was made, with room."""
CLOCK_SLACK_S = 2.0
"""Whole seconds on the wire, and the time from reading a clock to signing it on a slow board."""
HARDWARE_GRADES = ("G2", "G3")
MAX_UNCERTAINTY_S = 7200.0
"""What a crystal drifts in a year at 200 ppm, with room. Who says more cannot be contradicted."""
_RANKS, _CLASSES = {g: rank for rank, g in enumerate(GRADES)}, tuple(RecordClass)
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
class Hardware:
    """What appraise/quotes.py made of the TPM's part.

    Attributes:
        vouched: it holds; None when it does not, or its keys are not known here.
        contradiction: why it does not hold, beginning with the stable name; "" otherwise.
    """

    vouched: Vouched | None
    contradiction: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the verifier knows by itself.

    Attributes:
        grade: identity grade that enrolment established.
        revoked: the registry's word.
        key_boot: boot id under which the evidence's report key was introduced; None when it was
            not.
        asked_utc_s, now_utc_s: when the challenge was issued and answered, by the verifier's clock.
        hardware: what became of the TPM's part; None when none came.
        late: made without a challenge, while there was nobody to ask; came inside a record.
        age_s: how old late evidence was when it came; None when nothing vouches for it.
        heads: class -> highest sequence stored when the nonce was issued.
        hashes: class -> hash stored at the sequence the evidence names; None when not stored.
        withheld: class -> first and last sequence that earlier evidence named in vain.
        behind: what devices behind it are worth; None when its evidence speaks of none.
    """

    grade: str
    revoked: bool
    key_boot: bytes | None
    asked_utc_s: float
    now_utc_s: float
    hardware: Hardware | None = None
    late: bool = False
    age_s: float | None = None
    heads: Mapping[RecordClass, int] = field(default_factory=dict)
    hashes: Mapping[RecordClass, bytes | None] = field(default_factory=dict)
    withheld: Mapping[RecordClass, tuple[int, int]] = field(default_factory=dict)
    behind: tuple[Tier, str] | None = None


@dataclass(frozen=True, slots=True)
class References:
    """Digests that are right for this gateway and the version it claims; empty = no reference.

    Attributes:
        pcrs: SHA-256 over the values of PCR 0 to 9.
        pcrs_ended: a set that names some is late or retired: they were asked for, and still are.
        outdated: digest -> what its set is: announced, or late.
        retired: digests of sets whose time is over.
        least_version: releases below it are a rollback; "" allows all.
        root_of_trust: an operator stated that this board measures its boot from hardware on.
    """

    code: frozenset[bytes] = frozenset()
    settings: frozenset[bytes] = frozenset()
    policy: frozenset[bytes] = frozenset()
    cmdline: frozenset[bytes] = frozenset()
    programs: frozenset[bytes] = frozenset()
    pcrs: frozenset[bytes] = frozenset()
    pcrs_ended: bool = False
    outdated: Mapping[bytes, str] = field(default_factory=dict)
    retired: frozenset[bytes] = frozenset()
    least_version: str = ""
    root_of_trust: bool = False


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


def admit_late(
    evidence: Evidence, boot_id: bytes, seq: int, prev: bytes, anchor: bytes | None
) -> None:
    """Let evidence in that came inside an audit record, made without a challenge.

    Args:
        boot_id, seq, prev: of the record.
        anchor: hash stored at the audit sequence the evidence names; None when it is not there.

    Raises:
        WireRefusal: ``late_boot``, ``late_anchor`` (it is not chained to what came before it),
            ``late_nonce``.
    """
    if evidence.boot_id != boot_id:
        raise WireRefusal("late_boot", "evidence of another boot than its record's")
    named, digest = evidence.heads.get(RecordClass.AUDIT, (0, b""))
    known = prev if named == seq - 1 else anchor
    if not seq - MAX_LATE_DISTANCE <= named < seq or digest != known:
        raise WireRefusal("late_anchor", "it does not follow the record that it names")
    if evidence.nonce != unasked_nonce(digest):
        raise WireRefusal("late_nonce", "its nonce is not made from that record")


def appraise(
    evidence: Evidence, known: Known, references: References, required: Sequence[str]
) -> Appraisal:
    """Judge admitted evidence; ``required`` names the facets that decide overall."""
    judged = {
        "identity": _identity(evidence, known),
        "freshness": _freshness(evidence, known),
        "hardware": _hardware(known),
        "clock": _clock(evidence, known),
        "executables": _executables(evidence, references),
        "programs": _digest(evidence, "programs", references.programs, references),
        "settings": _digest(evidence, "settings", references.settings, references),
        "policy": _digest(evidence, "policy", references.policy, references),
        "boot": _boot(evidence, known, references),
        "ima": _ima(evidence, known),
        **({} if known.behind is None else {"devices": known.behind}),
    }
    facets = {name: tier for name, (tier, _) in judged.items()}
    reasons = {name: why for name, (_, why) in judged.items() if why}
    counted = [*required, "hardware"] if known.grade in HARDWARE_GRADES else required
    tiers = [facets[name] for name in counted if name in facets]
    return Appraisal(overall(tiers), _grade(evidence, known, references, facets), facets, reasons)


def _grade(
    evidence: Evidence, known: Known, references: References, facets: Mapping[str, Tier]
) -> str:
    grade = min(evidence.grade, known.grade, key=_RANKS.__getitem__)
    if grade not in HARDWARE_GRADES:
        return grade
    if facets["hardware"] is not Tier.AFFIRMING:
        return "G0"
    measured = facets["boot"] is Tier.AFFIRMING and bool(references.pcrs)
    return "G3" if measured and references.root_of_trust else "G2"


def in_quarantine(judged: Appraisal, why: str) -> Appraisal:
    """The same of a gateway of which two states exist: neither is believed, whatever it shows."""
    facets = {**judged.facets, "identity": Tier.CONTRAINDICATED}
    reasons = {**judged.reasons, "identity": f"in quarantine: {why}"[:200]}
    return Appraisal(Tier.CONTRAINDICATED, judged.grade, facets, reasons)


def overall(tiers: Sequence[Tier]) -> Tier:
    """The worst: contraindicated, else none (something required is not known), else warning."""
    for tier in (Tier.CONTRAINDICATED, Tier.NONE, Tier.WARNING):
        if tier in tiers:
            return tier
    return Tier.AFFIRMING if tiers else Tier.NONE


def _identity(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    if known.revoked:
        return Tier.CONTRAINDICATED, "the device is revoked"
    if _RANKS[evidence.grade] > _RANKS[known.grade]:
        return (
            Tier.CONTRAINDICATED,
            f"claims grade {evidence.grade}, enrolment established {known.grade}",
        )
    if _RANKS[evidence.grade] < _RANKS[known.grade]:
        return (
            Tier.CONTRAINDICATED,
            f"a downgrade: claims {evidence.grade}, enrolment established {known.grade}",
        )
    if known.key_boot is None:
        return Tier.WARNING, "the report key has not been introduced yet"
    if known.key_boot != evidence.boot_id:
        return Tier.CONTRAINDICATED, "the report key belongs to another boot"
    return Tier.AFFIRMING, ""


def _freshness(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    for record_class in _CLASSES:
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
    if known.late:
        age = "of unknown age" if known.age_s is None else f"{known.age_s:.0f} s old when it came"
        return Tier.WARNING, f"made without a challenge, {age}"
    for record_class, (first, last) in known.withheld.items():
        return (
            Tier.WARNING,
            f"its {record_class.label} records {first} to {last} were named by earlier evidence"
            " and did not come",
        )
    return Tier.AFFIRMING, ""


def _hardware(known: Known) -> tuple[Tier, str]:
    if known.grade not in HARDWARE_GRADES:
        return Tier.NONE, "no TPM was enrolled"
    if known.hardware is None:
        return Tier.CONTRAINDICATED, "a TPM was enrolled and none vouches for this"
    if known.hardware.contradiction:
        return Tier.CONTRAINDICATED, known.hardware.contradiction[:200]
    if known.hardware.vouched is None:
        return Tier.NONE, "its keys are not known here yet; the whole evidence was asked for"
    return Tier.AFFIRMING, ""


def _clock(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    if evidence.uncertainty_ms is None or evidence.clock_state == "unsynced":
        return Tier.WARNING, "nothing vouches for its clock"
    slack_s = min(evidence.uncertainty_ms / 1000, MAX_UNCERTAINTY_S) + CLOCK_SLACK_S
    early_s = known.asked_utc_s - slack_s - evidence.issued_utc_s
    late_s = evidence.issued_utc_s - slack_s - known.now_utc_s
    if early_s > 0 or late_s > 0:
        return (
            Tier.CONTRAINDICATED,
            f"its clock ({evidence.clock_state}) is {max(early_s, late_s):.0f} s outside what it"
            " says of itself (two hours at most)",
        )
    return Tier.AFFIRMING, ""


def _executables(evidence: Evidence, references: References) -> tuple[Tier, str]:
    least = references.least_version
    if least and version_key(evidence.version) < version_key(least):
        return (
            Tier.CONTRAINDICATED,
            f"version {evidence.version[:32]} is below the least allowed one, {least[:32]}",
        )
    tier, why = _digest(evidence, "code", references.code, references)
    if tier is Tier.NONE:
        return tier, f"no reference for version {evidence.version[:32]}"
    if evidence.bytecode != BYTECODE_MATCH:
        return Tier.CONTRAINDICATED, evidence.bytecode[:200] or "byte code is not stated"
    return tier, why


def _boot(evidence: Evidence, known: Known, references: References) -> tuple[Tier, str]:
    cmdline = _digest(evidence, "cmdline", references.cmdline, references)
    pcrs = _pcrs(known, references)
    return cmdline if overall([cmdline[0], pcrs[0]]) is cmdline[0] else pcrs


def _pcrs(known: Known, references: References) -> tuple[Tier, str]:
    if known.grade not in HARDWARE_GRADES:
        return Tier.AFFIRMING, ""
    if not references.pcrs and not references.pcrs_ended:
        return Tier.AFFIRMING, ""
    vouched = known.hardware.vouched if known.hardware else None
    if vouched is None:
        return Tier.NONE, "no quote says what PCR 0 to 9 hold"
    if vouched.pcrs is None:
        return Tier.WARNING, "PCR values moved; the whole evidence was asked for"
    tier, why = _among(firmware_digest(vouched.pcrs), references.pcrs, references)
    return tier, why and f"PCR 0 to 9: {why}"


def _ima(evidence: Evidence, known: Known) -> tuple[Tier, str]:
    state = evidence.boot["ima"]
    if state != "tpm":
        return Tier.NONE, f"no log that a TPM holds: {state}"
    vouched = known.hardware.vouched if known.hardware else None
    if vouched is None or vouched.pcrs is None:
        return Tier.NONE, "no quote says what PCR 10 holds"
    if vouched.pcrs[10] != evidence.measurements.get("ima_pcr", b""):
        return Tier.WARNING, "its log does not add up to the quoted PCR 10"
    return Tier.AFFIRMING, ""


def _digest(
    evidence: Evidence, measurement: str, in_force: frozenset[bytes], references: References
) -> tuple[Tier, str]:
    return _among(evidence.measurements.get(measurement, b""), in_force, references)


def _among(measured: bytes, in_force: frozenset[bytes], references: References) -> tuple[Tier, str]:
    if measured not in in_force and (state := references.outdated.get(measured)):
        return Tier.WARNING, f"{measured.hex()[:16]}.. is of a set that is {state}"
    if measured in references.retired and measured not in in_force:
        return Tier.CONTRAINDICATED, f"{measured.hex()[:16]}.. is of a set that is retired"
    if not in_force:
        return Tier.NONE, "no reference"
    if not measured:
        return Tier.WARNING, "not measured"
    if measured not in in_force:
        return Tier.CONTRAINDICATED, f"{measured.hex()[:16]}.. is not a reference"
    return Tier.AFFIRMING, ""
