"""The message in which gate tells how far enforcement of programs reaches, and what it does not.

What this decides: the bytes (part of wire/local.py), and which gaps a tier has by its nature beside
those that the canary saw (docs/policy.md says each with its mechanism):

    memfd        a program in memory alone is not seen (seen by trying it)
    namespace    nor one on a fresh tmpfs in a mount namespace of root's own making
    inline       code that an interpreter is given, not executed: -c, standard input
    scripts      a script is judged by its interpreter
    sessions     programs outside [exec] bpf_cgroup are not stopped
    resume       a process of the same user may let a stopped program go
    confined     only the services that are managed are held
    after-start  what is not allowed runs until it is noticed
    classes      (strict) a program that runs what it reads, and that neither the policy's class nor
                 its name calls an interpreter
    restart      when gate ends, or hangs and is ended, who waits is let through, and nobody is
                 judged until the next one has armed

    TierSaid("T2", "no permission events", ("inline", "scripts", "sessions", "resume"))
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgewarden.wire.gate_files import ExecTier, StopConfig

# Order is the wire value; a new word goes to the end.
TIERS = ("T0", "T1", "T2", "T3", "T4")
GAPS = (
    "memfd", "namespace", "inline", "scripts", "sessions", "resume", "after-start", "confined",
    "classes", "restart",
)  # fmt: skip
MAX_REASON_BYTES = 240
_LAYOUT = struct.Struct("<BHH")  # tier, gaps as bits, reason length


class TierSaid(Frozen):
    """How far enforcement reaches on this boot.

    Attributes:
        tier: of TIERS.
        reason: why not more.
        gaps: of GAPS, in that order.
    """

    __slots__ = ("gaps", "reason", "tier")
    tier: str
    reason: str
    gaps: tuple[str, ...]


def said(tier: ExecTier, stop: StopConfig | None, strict: bool = False) -> TierSaid:
    """What gate tells of the tier it goes by."""
    found = set(tier.gaps)
    if tier.tier == "T3":
        found |= {"namespace", "inline", "classes" if strict else "scripts", "restart"}
    elif tier.tier == "T2":
        found |= {"inline", "scripts", "restart"}
        if stop is not None and stop.cgroup != "/":
            found.add("sessions")
        if stop is None or not stop.users:
            found.add("resume")
    elif tier.tier == "T1":
        found |= {"confined", "inline"}
    else:
        found.add("after-start")
    return TierSaid(tier.tier, tier.reason, tuple(gap for gap in GAPS if gap in found))


def tier_body(m: TierSaid) -> bytes:
    """The bytes behind the header."""
    bits = sum(1 << GAPS.index(gap) for gap in m.gaps)
    reason = m.reason.encode("utf-8", "backslashreplace")[:MAX_REASON_BYTES]
    reason = reason.decode("utf-8", "ignore").encode()
    return _LAYOUT.pack(TIERS.index(m.tier), bits, len(reason)) + reason


def tier_parse(body: bytes) -> TierSaid:
    """Read them; refusals as in wire/local.py."""
    if len(body) < _LAYOUT.size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    tier, bits, length = _LAYOUT.unpack_from(body)
    if tier >= len(TIERS) or bits >> len(GAPS) or length > MAX_REASON_BYTES:
        raise WireRefusal("bad_value", f"tier {tier}, gaps {bits:#x}, length {length}")
    if len(body) != _LAYOUT.size + length:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    try:
        reason = body[_LAYOUT.size :].decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_value", "reason is not UTF-8") from None
    gaps = tuple(gap for i, gap in enumerate(GAPS) if bits >> i & 1)
    return TierSaid(TIERS[tier], reason, gaps)
