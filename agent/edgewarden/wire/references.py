"""Reference sets: what evidence is compared with, one signed set for each release or device.

A set is one COSE_Sign1 by the verifier's key (content type references), kept by the fleet and given
to whoever appraises the same evidence again. Immutable: to end a set earlier, a second one is
signed that names it in ``replaces``.

    0 format (1)   1 tenant   2 release, a name for people   3 version, "" any   4 device, "" every
    5 issued_utc_s   6 not_before_utc_s   7 not_after_utc_s or null   8 retired_utc_s or null
    9 least_version, "" none   10 root_of_trust, "" not stated   11 {kind: [SHA-256, ...]}
    12 replaces, SHA-256 of another set's message or empty

In force from 6 to 7; before and, until 8, after that: known and not in force. Shapes only; what a
window means is appraise/references.py's. Refusal: ``bad_references``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.fields import Fields

FORMAT = 1
KINDS = ("code", "settings", "policy", "cmdline", "programs", "pcrs")
MAX_DIGESTS = 64
"""Of one kind in one set: a release has a handful of builds, a board a handful of PCR states."""
MAX_SET_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """One set; see the module's docstring for its fields.

    Attributes:
        least_version: while this set is known, releases below it are a rollback.
        root_of_trust: what an operator states measures this board's boot, from hardware on.
    """

    tenant: str
    release: str
    version: str
    device: str
    issued_utc_s: int
    not_before_utc_s: int
    not_after_utc_s: int | None
    retired_utc_s: int | None
    least_version: str
    root_of_trust: str
    values: Mapping[str, tuple[bytes, ...]]
    replaces: bytes = b""


def set_id(message: bytes) -> bytes:
    """A set's name: SHA-256 of its signed message."""
    return hashlib.sha256(message).digest()


def encode_references(s: ReferenceSet) -> bytes:
    """Payload of a set."""
    return cbor.encode(
        {
            0: FORMAT, 1: s.tenant, 2: s.release, 3: s.version, 4: s.device, 5: s.issued_utc_s,
            6: s.not_before_utc_s, 7: s.not_after_utc_s, 8: s.retired_utc_s, 9: s.least_version,
            10: s.root_of_trust, 11: {kind: list(d) for kind, d in s.values.items()},
            12: s.replaces,
        }
    )  # fmt: skip


def decode_references(payload: bytes) -> ReferenceSet:
    """Read a verified set; raises WireRefusal("bad_references")."""
    f = Fields(payload, "bad_references", set(range(13)))
    f.constant(0, FORMAT)
    values: dict[str, tuple[bytes, ...]] = {}
    for kind, digests in f.names(11, frozenset(KINDS)).items():
        if not isinstance(digests, list) or not 1 <= len(digests) <= MAX_DIGESTS:
            raise f.no(11, f"{kind} is not a list of digests")
        if any(not isinstance(d, bytes) or len(d) != 32 for d in digests):
            raise f.no(11, f"{kind} has a digest that is not a SHA-256")
        values[kind] = tuple(digests)
    return ReferenceSet(
        tenant=f.identifier(1),
        release=f.text(2),
        version=f.text(3),
        device="" if f.body[4] == "" else f.identifier(4),
        issued_utc_s=f.uint(5),
        not_before_utc_s=f.uint(6),
        not_after_utc_s=None if f.body[7] is None else f.uint(7),
        retired_utc_s=None if f.body[8] is None else f.uint(8),
        least_version=f.text(9),
        root_of_trust=f.text(10),
        values=values,
        replaces=f.blob(12, 0, 32),
    )
