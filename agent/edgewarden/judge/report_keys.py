"""Report keys: which one may sign a record at a given place of a device's chains.

Decides from the introductions that were believed, each a key, a class and the sequence it stands
at. A start of the agent introduces one new key in every class; from there to the next
introduction that key signs, and no other:

1. the last introduction before the record, in its class, is of this key     it stands
2. this key was introduced in the class, elsewhere                           stale
3. this key was introduced in other classes only (this class's introduction
   was lost), and in any class a later key was introduced                    stale
4. else                                                                      it stands

Later means, where both keys were introduced in one class: by sequence, which the gateway signed.
Where not: by time since boot if the boot is the same, else by the order in which they came.

Rule 3 refuses honest records too: those of an earlier start whose introduction was given up to a
full disk and that come after the next start's first introduction. They are refused by name and
stand as a gap; the other choice is to believe whoever stole the earlier key.

    refusal(old, BULK, 9, introductions) == "a later key was introduced at alarm 4"
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.plain import dataclass
from edgewarden.wire.record import RecordClass


@dataclass(frozen=True, slots=True)
class Introduction:
    """One believed introduction; boot_ns is CLOCK_BOOTTIME when it was signed."""

    kid: bytes
    record_class: RecordClass
    seq: int
    boot_id: bytes
    boot_ns: int


def refusal(kid: bytes, record_class: RecordClass, seq: int, known: Sequence[Introduction]) -> str:
    """Why the key may not sign there, or "".

    Args:
        kid: a key that was introduced in at least one class.
        known: all introductions of the device, in the order in which they came.
    """
    here = [i for i in known if i.record_class == record_class]
    before = max((i for i in here if i.seq < seq), key=lambda i: i.seq, default=None)
    if before is not None and before.kid == kid:
        return ""
    own = [i.seq for i in here if i.kid == kid]
    if own:
        return f"introduced at {max(own)}, not in force at {seq}"
    mine = [i for i in known if i.kid == kid]
    for other in dict.fromkeys(i.kid for i in known if i.kid != kid):
        theirs = [i for i in known if i.kid == other]
        if _later(theirs, mine, known):
            last = theirs[-1]
            return f"a later key was introduced at {last.record_class.label} {last.seq}"
    return ""


def _later(
    theirs: Sequence[Introduction], mine: Sequence[Introduction], known: Sequence[Introduction]
) -> bool:
    """Was the one key introduced after the other?"""
    for t in theirs:
        for m in mine:
            if t.record_class == m.record_class:
                return t.seq > m.seq
    first, own = theirs[0], mine[0]
    if first.boot_id == own.boot_id:
        return first.boot_ns > own.boot_ns
    return known.index(first) > known.index(own)
