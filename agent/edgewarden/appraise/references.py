"""Which reference values hold for one gateway at one moment, out of all sets that are known.

A release rolls out over days: old and new are both right for a while, then the old one is late,
then it is wrong. A set that is announced before its release is known when the first board comes up
with it: an update that was announced is not an incident.

    |--announced--|=========in force=========|----late----|  retired
    0        not_before                   not_after     retired

in force → affirming · announced, late → warning · retired → contraindicated · no set → none

A set that was ended before it began is withdrawn: an announced release that was called off. Its
digests are as wrong as a retired set's, and nothing else that it says ever counts.

Rules, in order: a set that another one replaces does not exist. A set counts for the device it
names, or for every one; its code digests for the version it names alone. The least version is the
highest that any begun set states: it stays when that set is late or retired, since a rollback is
not healed by time. That values of PCRs are asked for stays, too: they end as late and as wrong,
never unasked. A root of trust counts while its set is in force.

    select(sets, "gw-1", "1.2.0", now_utc_s).code
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from edgewarden.appraise.appraisal import References
from edgewarden.appraise.values import version_key
from edgewarden.wire.references import ReferenceSet

Sets = Mapping[bytes, ReferenceSet]
"""SHA-256 of the set's message -> the set."""


class State(StrEnum):
    """Where a set stands in its window."""

    ANNOUNCED = "announced"
    IN_FORCE = "in force"
    LATE = "late"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"
    REPLACED = "replaced"


def state_of(s: ReferenceSet, now_utc_s: float) -> State:
    """Where a set stands; whether it is replaced only its successors know."""
    ends_utc_s = s.not_before_utc_s if s.not_after_utc_s is None else s.not_after_utc_s
    if max(s.issued_utc_s, ends_utc_s) < s.not_before_utc_s:  # what was in force once, was
        return State.WITHDRAWN
    if now_utc_s < s.not_before_utc_s:
        return State.ANNOUNCED
    if s.not_after_utc_s is None or now_utc_s <= s.not_after_utc_s:
        return State.IN_FORCE
    if s.retired_utc_s is None or now_utc_s <= s.retired_utc_s:
        return State.LATE
    return State.RETIRED


def standing(sets: Sets) -> Sets:
    """The sets that no other one replaces."""
    replaced = {s.replaces for s in sets.values()}
    return {name: s for name, s in sets.items() if name not in replaced}


def applying(sets: Sets, device: str) -> Sets:
    """The standing sets that speak of a device."""
    return {name: s for name, s in standing(sets).items() if s.device in ("", device)}


def select(sets: Sets, device: str, version: str, now_utc_s: float) -> References:
    """The digests that hold for a device that claims a version, at a moment."""
    return select_of(applying(sets, device), version, now_utc_s)


def select_of(applied: Sets, version: str, now_utc_s: float) -> References:
    """The same of the sets that apply to a device."""
    in_force: dict[str, set[bytes]] = {}
    outdated: dict[bytes, str] = {}
    retired: set[bytes] = set()
    least, root_of_trust, pcrs_ended = "", False, False
    # Announced ones first: a digest that is late in another set is late.
    for s in sorted(applied.values(), key=lambda s: -s.not_before_utc_s):
        state = state_of(s, now_utc_s)
        if state not in (State.ANNOUNCED, State.WITHDRAWN):
            least = max(least, s.least_version, key=version_key)
            pcrs_ended |= "pcrs" in s.values and state is not State.IN_FORCE
        root_of_trust |= bool(s.root_of_trust) and state is State.IN_FORCE
        for kind, digests in s.values.items():
            if kind == "code" and s.version != version:
                continue
            if state is State.IN_FORCE:
                in_force.setdefault(kind, set()).update(digests)
            elif state in (State.RETIRED, State.WITHDRAWN):
                retired.update(digests)
            else:
                outdated.update(dict.fromkeys(digests, state.value))
    return References(
        **{kind: frozenset(digests) for kind, digests in in_force.items()},
        outdated=outdated,
        retired=frozenset(retired),
        pcrs_ended=pcrs_ended,
        least_version=least,
        root_of_trust=root_of_trust,
    )
