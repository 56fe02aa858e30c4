"""Challenge, evidence, result, status: the four messages around appraisal (RFC 9334).

    verifier -> gateway  nonce     Challenge  signed by the verifier's key, pinned at enrolment
    gateway -> verifier  evidence  Evidence   EAT claims (RFC 9711), signed by the identity key;
                                              wire/quoted.py sets a TPM's word beside them
    verifier -> gateway  result    Result     signed; a tier per facet (AR4SI), policy hash, expiry
    gateway -> verifier  status    Status     signed by the identity key at connect; a hint,
                                              never evidence

The gateway's two carry their certificate chain (x5chain).

Shapes only: nobody in this file compares a digest or looks at a clock. Refusal: ``bad_challenge``,
``bad_evidence``, ``bad_result``, ``bad_status``, each naming the first field at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import cache

from edgewarden.plain import dataclass
from edgewarden.wire import cbor, ratchet, spelling
from edgewarden.wire.fields import MAX_FIELDS_BYTES, Fields
from edgewarden.wire.ratchet import NOTHING_SPENT, Issued, Spent
from edgewarden.wire.record import RecordClass, is_identifier

FORMAT = 1
NONCE_BYTES = 32
MAX_EVIDENCE_BYTES = MAX_FIELDS_BYTES
"""Digest form with a two-certificate chain is under 2 kB at every grade (tests/daemon), the whole
with PCR values and keys 2.7 kB."""
EAT_PROFILE = "urn:edgewarden:evidence:2"
FACETS = (
    "identity", "freshness", "hardware", "clock", "executables", "programs", "settings", "policy",
    "boot", "ima",
)  # fmt: skip
ALL_FACETS = (*FACETS, "devices")
"""With the one that only evidence of a gateway with devices behind it has."""
MEASUREMENTS = (
    "code", "interpreter", "settings", "policy", "cmdline", "programs", "ima", "ima_pcr",
)  # fmt: skip
BOOT_FACTS: dict[str, tuple[str, ...]] = {
    "secure_boot": ("on", "off", "absent"),
    "ima": ("absent", "unreadable", "bypass", "tpm"),
}
"""What the kernel says of this boot. ima: bypass = the kernel found no TPM, so nothing outside it
holds its log; tpm = its log begins with the firmware's PCRs."""

Heads = dict[RecordClass, tuple[int, bytes]]
"""class -> (highest sequence, SHA-256 of that record)."""


class Tier(IntEnum):
    """AR4SI trustworthiness tiers (draft-ietf-rats-ar4si)."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96

    @property
    def label(self) -> str:
        """``none``, ``affirming``, ``warning``, ``contraindicated``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Challenge:
    """A nonce for one gateway; valid until expires_utc_s, once.

    Attributes:
        whole: asks for PCR values and keys, not the digest form.
    """

    tenant: str
    device: str
    nonce: bytes
    issued_utc_s: int
    expires_utc_s: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a gateway says of itself.

    Attributes:
        measurements: name (MEASUREMENTS) -> SHA-256, or b"" when it could not be taken.
        bytecode: "match" when every cached .pyc is what its source compiles to, else what differs.
        report_key: COSE_Key of the key that signs this start's records.
        boot: BOOT_FACTS, each with one of its values.
        uncertainty_ms: how far issued_utc_s may be off; None when nothing vouches for it.
        spent: the continuity token, with the mark it is spent with (order/ratchet.py).
        submods: device behind the gateway -> SHA-256 of what is said of it (wire/devices.py), a
            detached submodule (RFC 9711 §4.2.18); None where no such listener is configured.
    """

    tenant: str
    device: str
    nonce: bytes
    issued_utc_s: int
    uptime_s: int
    boot_id: bytes
    version: str
    report_key: bytes
    grade: str
    measurements: Mapping[str, bytes]
    bytecode: str
    heads: Heads
    exec_tier: str
    exec_mode: str
    clock_state: str
    uncertainty_ms: int | None
    boot: Mapping[str, str]
    spent: Spent = NOTHING_SPENT
    submods: Mapping[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A verifier's verdict on one piece of evidence.

    Attributes:
        overall: worst required facet.
        facets: facet -> tier.
        reasons: facet -> one line, only where there is something to say.
        policy_hash: SHA-256 of the appraisal policy and reference set used.
        policy_id: its name; the hash says which version of it.
        evidence: SHA-256 of the evidence message that was judged.
        token: the next continuity token, or None when none is given.
    """

    tenant: str
    device: str
    nonce: bytes
    issued_utc_s: int
    expires_utc_s: int
    grade: str
    overall: Tier
    facets: Mapping[str, Tier]
    reasons: Mapping[str, str]
    policy_hash: bytes
    policy_id: str
    evidence: bytes
    token: Issued | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """One session of the uplink, or its end (the last will, made at connect).

    Attributes:
        session_ns: CLOCK_BOOTTIME at connect: strictly growing within a boot, names the session.
        online: False only in the last will.
        heads: class -> highest durable sequence at connect.
        acked: class -> highest sequence the broker had accepted at connect.
    """

    tenant: str
    device: str
    boot_id: bytes
    session_ns: int
    online: bool
    heads: Mapping[RecordClass, int]
    acked: Mapping[RecordClass, int]


def encode_challenge(c: Challenge) -> bytes:
    """Payload of e/nonce."""
    return cbor.encode(
        {
            0: FORMAT, 1: c.tenant, 2: c.device, 3: c.nonce, 4: c.issued_utc_s, 5: c.expires_utc_s,
            6: c.whole,
        }
    )  # fmt: skip


def decode_challenge(payload: bytes) -> Challenge:
    """Read a verified e/nonce payload; raises WireRefusal("bad_challenge")."""
    f = Fields(payload, "bad_challenge", set(range(7)))
    f.constant(0, FORMAT)
    return Challenge(
        f.identifier(1), f.identifier(2), f.blob(3, NONCE_BYTES), f.uint(4), f.uint(5), f.truth(6)
    )


# RFC 8392 §4 (sub, iat), RFC 8747 §3 (cnf), RFC 9711 §4 (the rest). Ours are below -65536 (private
# use).
_SUB, _IAT, _CNF, _NONCE = 2, 6, 8, 10
_UPTIME, _PROFILE, _SUBMODS, _BOOTSEED, _SWNAME, _SWVERSION = 261, 265, 266, 268, 270, 271
_SHA256 = -16  # RFC 9054 §2.1, as RFC 9711 §4.2.18 names a detached submodule's digest
MAX_SUBMODS = 64
_GRADE, _MEASUREMENTS, _HEADS, _EXEC, _CLOCK, _BYTECODE, _TENANT = range(-70001, -70008, -1)
_BOOT, _UNCERTAINTY = -70009, -70010
_SPENT = -70008
_SOFTWARE = "edgewarden"


def encode_evidence(e: Evidence) -> bytes:
    """The claims of e/evidence (wire/quoted.py makes the payload)."""
    behind: dict[int, cbor.Value] = {}
    if e.submods is not None:
        behind[_SUBMODS] = {name: [_SHA256, digest] for name, digest in e.submods.items()}
    return cbor.encode(
        {
            **behind,
            _SUB: e.device,
            _IAT: e.issued_utc_s,
            _CNF: e.report_key,
            _NONCE: e.nonce,
            _UPTIME: e.uptime_s,
            _PROFILE: EAT_PROFILE,
            _BOOTSEED: e.boot_id,
            _SWNAME: _SOFTWARE,
            _SWVERSION: e.version,
            _GRADE: e.grade,
            _MEASUREMENTS: e.measurements,
            _HEADS: {int(c): [seq, digest] for c, (seq, digest) in e.heads.items()},
            _EXEC: {"tier": e.exec_tier, "mode": e.exec_mode},
            _CLOCK: e.clock_state,
            _BYTECODE: e.bytecode,
            _TENANT: e.tenant,
            _BOOT: e.boot,
            _UNCERTAINTY: e.uncertainty_ms,
            _SPENT: ratchet.spent_to_list(e.spent),
        }
    )


_EVIDENCE_KEYS = {
    _SUB, _IAT, _CNF, _NONCE, _UPTIME, _PROFILE, _BOOTSEED, _SWNAME, _SWVERSION,
    _GRADE, _MEASUREMENTS, _HEADS, _EXEC, _CLOCK, _BYTECODE, _TENANT, _SPENT, _BOOT, _UNCERTAINTY,
}  # fmt: skip
_MAY, _CONTROL = frozenset((_SUBMODS,)), frozenset(("tier", "mode"))
_MEASURED, _BOOT_NAMES, _FACETS = map(frozenset, (MEASUREMENTS, BOOT_FACTS, ALL_FACETS))


def decode_evidence(payload: bytes) -> Evidence:
    """Read the claims of verified evidence; raises WireRefusal("bad_evidence")."""
    f = Fields(payload, "bad_evidence", _EVIDENCE_KEYS, _MAY, _usual().fits)
    f.constant(_PROFILE, EAT_PROFILE)
    f.constant(_SWNAME, _SOFTWARE)
    measurements: dict[str, bytes] = {}
    for name, digest in f.names(_MEASUREMENTS, _MEASURED).items():
        if not isinstance(digest, bytes) or len(digest) not in (0, 32):
            raise f.no(_MEASUREMENTS, f"{name} is not a SHA-256")
        measurements[name] = digest
    heads: Heads = {}
    for record_class, head in f.classes(_HEADS).items():
        if (
            not isinstance(head, list)
            or len(head) != 2
            or not isinstance(head[0], int)
            or isinstance(head[0], bool)
            or head[0] < 0
            or not isinstance(head[1], bytes)
            or len(head[1]) != 32
        ):
            raise f.no(_HEADS, "is not [sequence, SHA-256]")
        heads[record_class] = (head[0], head[1])
    control = f.names(_EXEC, _CONTROL)
    tier, mode = control.get("tier"), control.get("mode")
    if not isinstance(tier, str) or not isinstance(mode, str):
        raise f.no(_EXEC, "is not tier and mode")
    spent = ratchet.spent_from(f.body[_SPENT])
    if spent is None:
        raise f.no(_SPENT, "is not [step, token, mark]")
    return Evidence(
        tenant=f.identifier(_TENANT),
        device=f.identifier(_SUB),
        nonce=f.blob(_NONCE, NONCE_BYTES),
        issued_utc_s=f.uint(_IAT),
        uptime_s=f.uint(_UPTIME),
        boot_id=f.blob(_BOOTSEED, 16),
        version=f.text(_SWVERSION),
        report_key=f.blob(_CNF),
        grade=f.grade(_GRADE),
        measurements=measurements,
        bytecode=f.text(_BYTECODE, 512),
        heads=heads,
        exec_tier=tier,
        exec_mode=mode,
        clock_state=f.text(_CLOCK),
        uncertainty_ms=None if f.body[_UNCERTAINTY] is None else f.uint(_UNCERTAINTY),
        boot=_boot(f),
        spent=spent,
        submods=_submods(f) if _SUBMODS in f.body else None,
    )


@cache
def _usual() -> spelling.Shape:
    """Claims as almost all evidence has them; made when the first comes, on a gateway never."""
    blob, text, name, uint = spelling.blob, spelling.TEXT, spelling.NAME, spelling.UINT
    head, measured = spelling.array(uint, blob(32)), spelling.either(blob(0), blob(32))
    claims = spelling.every_of(
        {
            _SUB: name, _IAT: uint, _CNF: blob(75), _NONCE: blob(NONCE_BYTES),
            _UPTIME: uint, _PROFILE: spelling.constant(EAT_PROFILE), _BOOTSEED: blob(16),
            _SWNAME: text, _SWVERSION: text, _GRADE: text,
            _MEASUREMENTS: spelling.some_of(dict.fromkeys(MEASUREMENTS, measured)),
            _HEADS: spelling.some_of({int(c): head for c in RecordClass}),
            _EXEC: spelling.every_of({"tier": text, "mode": text}), _CLOCK: text,
            _BYTECODE: text, _TENANT: name, _SPENT: spelling.array(uint, blob(32), blob(16)),
            _BOOT: spelling.every_of(dict.fromkeys(BOOT_FACTS, text)),
            _UNCERTAINTY: spelling.either(spelling.NULL, uint),
        }
    )  # fmt: skip
    return spelling.Shape(claims)


def _submods(f: Fields) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    value = f.body[_SUBMODS]
    if not isinstance(value, dict) or len(value) > MAX_SUBMODS:
        raise f.no(_SUBMODS, f"is not a map of at most {MAX_SUBMODS} entries")
    for name, detached in value.items():
        if not isinstance(name, str) or not is_identifier(name):
            raise f.no(_SUBMODS, "has a name that is no identifier")
        if not isinstance(detached, list) or len(detached) != 2:
            raise f.no(_SUBMODS, f"{name} is no pair")
        algorithm, digest = detached
        if not isinstance(algorithm, int) or algorithm != _SHA256:
            raise f.no(_SUBMODS, f"{name} is not by SHA-256")
        if not isinstance(digest, bytes) or len(digest) != 32:
            raise f.no(_SUBMODS, f"{name} has no SHA-256")
        found[name] = digest
    return found


def _boot(f: Fields) -> dict[str, str]:
    facts: dict[str, str] = {}
    stated = f.names(_BOOT, _BOOT_NAMES)
    for name, allowed in BOOT_FACTS.items():
        value = stated.get(name)
        if value not in allowed:
            raise f.no(_BOOT, f"{name} is none of its values")
        facts[name] = str(value)
    return facts


def encode_result(r: Result) -> bytes:
    """Payload of e/result."""
    return cbor.encode(
        {
            0: FORMAT, 1: r.tenant, 2: r.device, 3: r.nonce, 4: r.issued_utc_s, 5: r.expires_utc_s,
            6: r.grade, 7: int(r.overall), 8: {k: int(v) for k, v in r.facets.items()},
            9: r.reasons, 10: r.policy_hash, 11: ratchet.issued_to_list(r.token), 12: r.policy_id,
            13: r.evidence,
        }
    )  # fmt: skip


def decode_result(payload: bytes) -> Result:
    """Read a verified e/result payload; raises WireRefusal("bad_result")."""
    f = Fields(payload, "bad_result", set(range(14)))
    f.constant(0, FORMAT)
    facets: dict[str, Tier] = {}
    for name, tier in f.names(8, _FACETS).items():
        facets[name] = _tier(f, 8, tier)
    reasons: dict[str, str] = {}
    for name, reason in f.names(9, _FACETS).items():
        if not isinstance(reason, str):
            raise f.no(9, f"{name} is not text")
        reasons[name] = reason
    token = None if f.body[11] is None else ratchet.issued_from(f.body[11])
    if token is None and f.body[11] is not None:
        raise f.no(11, "is not [step, token]")
    return Result(
        f.identifier(1), f.identifier(2), f.blob(3, NONCE_BYTES), f.uint(4), f.uint(5),
        f.grade(6), _tier(f, 7, f.body[7]), facets, reasons, f.blob(10, 32),
        f.text(12), f.blob(13, 32), token,
    )  # fmt: skip


def _tier(f: Fields, key: int, value: object) -> Tier:
    if not isinstance(value, int) or isinstance(value, bool) or value not in set(Tier):
        raise f.no(key, "is not a trustworthiness tier")
    return Tier(value)


def encode_status(s: Status) -> bytes:
    """Payload of s/status."""
    return cbor.encode(
        {
            0: FORMAT, 1: s.tenant, 2: s.device, 3: s.boot_id, 4: s.session_ns, 5: s.online,
            6: {int(c): n for c, n in s.heads.items()}, 7: {int(c): n for c, n in s.acked.items()},
        }
    )  # fmt: skip


def decode_status(payload: bytes) -> Status:
    """Read a verified s/status payload; raises WireRefusal("bad_status")."""
    f = Fields(payload, "bad_status", set(range(8)))
    f.constant(0, FORMAT)
    return Status(
        f.identifier(1), f.identifier(2), f.blob(3, 16), f.uint(4), f.truth(5),
        f.sequences(6), f.sequences(7),
    )  # fmt: skip
