"""Anchors: where in real time a boot's records lie, told afterwards.

Decides from a record's own time and the anchors of its boot when the record was made. An anchor is
a signed event that says "at this moment since boot it was that time" (EW-HOST-021); records made
before it, while nothing vouched for the clock, are mapped with it. No record is changed: this is a
reading of them.

    vouched for when it was made                 its own time and uncertainty
    an anchor of its boot                        the nearest one, and the drift up to it
    none                                         its own wall clock, uncertainty unknown

    place(Made(boot_ns=5e9, wall_ns=0, uncertainty_ms=None), [Moment(9e9, utc, 40)]) -> utc - 4 s
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.order.clock import at
from edgewarden.plain import dataclass
from edgewarden.wire.timing import Moment


@dataclass(frozen=True, slots=True)
class Made:
    """When a record says it was made."""

    boot_ns: int
    wall_ns: int
    uncertainty_ms: int | None


@dataclass(frozen=True, slots=True)
class Placed:
    """When it was made, as far as that can be said; anchored: not by its own clock."""

    utc_ns: int
    uncertainty_ms: int | None
    anchored: bool


def place(made: Made, anchors: Sequence[Moment]) -> Placed:
    """Map a record's time; anchors are those of its boot."""
    if made.uncertainty_ms is not None or not anchors:
        return Placed(made.wall_ns, made.uncertainty_ms, False)
    nearest = min(anchors, key=lambda a: (abs(a.boot_ns - made.boot_ns), a.uncertainty_ms))
    utc_ns, uncertainty_ms = at(nearest, made.boot_ns)
    return Placed(utc_ns, uncertainty_ms, True)
