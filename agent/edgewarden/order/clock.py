"""What time it is, as far as a gateway can know: floor, signed moments, steps.

Decides from one look at the clocks and what is known from before. Leaves to the caller the files
and the network. A board without a battery starts in 1970 or where its image was made; a wrong NTP
server or a person may set it years ahead. Neither may cost the gateway its identity.

Which time is believed, in order:

1. the system's clock, when something vouches for it (NTP, GPS), unless a signed moment of this boot
   contradicts it by more than both may be off: what the fleet signed for our nonce wins
2. the signed moment of this boot, and the time since boot that went by after it
3. else the system's clock or the floor, whichever is later; nothing vouches for it

The floor is what it cannot be earlier than: the latest of the build's date, the floor kept from
before with the time since this boot's start added, and what was vouched for. An NTP server can
raise it too far, so a signed moment sets it, also back; never below the build's date. A clock that
nobody vouches for never raises it: ten years ahead for an hour leaves nothing behind.

A step is a change of wall clock against time since boot by more than STEP_NS between two looks:
nothing is decided from it but to look again (certificates, NTP, the fleet's signed time).

    believe(Instant(9e9, 0, None, "unsynced"), Known(build, floor, None)).state == "unsynced"
"""

from __future__ import annotations

from dataclasses import replace

from edgewarden.plain import dataclass
from edgewarden.wire.timing import Moment

DRIFT_PPM = 100
"""Crystals of boards without temperature compensation are within 50 ppm when new and warm; twice
that."""
STEP_NS = 1_000_000_000
"""NTP slews at most 500 ppm: a second between looks a second apart is no slewing."""
CONTRADICTION_MS = 1000
"""Granted to signed and vouched time beyond what each says: reading two clocks is not atomic."""
_VOUCHED = frozenset({"ntp", "gps"})


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the system's clocks: as ports.Instant."""

    boot_ns: int
    wall_ns: int
    uncertainty_ms: int | None
    state: str


def at(moment: Moment, boot_ns: int) -> tuple[int, int]:
    """(utc_ns, uncertainty_ms) of another moment of the same boot."""
    passed = boot_ns - moment.boot_ns
    drift_ms = abs(passed) * DRIFT_PPM // 10**12
    return moment.utc_ns + passed, moment.uncertainty_ms + drift_ms


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the clock.

    Attributes:
        build_ns: when this program was made.
        floor_ns: the floor as of floor_boot_ns, a moment of this boot.
        moment: the last signed one of this boot, or None.
    """

    build_ns: int
    floor_ns: int
    floor_boot_ns: int = 0
    moment: Moment | None = None


def floor(known: Known, boot_ns: int) -> int:
    """The earliest that a moment of this boot can be, in ns since 1970."""
    passed = max(0, boot_ns - known.floor_boot_ns)
    slow = passed * DRIFT_PPM // 10**6
    return max(known.build_ns, known.floor_ns + passed - slow)


def believe(look: Look, known: Known) -> Look:
    """The time that is believed at a look; see the module's docstring."""
    signed = at(known.moment, look.boot_ns) if known.moment else None
    if (
        look.state in _VOUCHED
        and look.uncertainty_ms is not None
        and (signed is None or _agree(look.wall_ns, look.uncertainty_ms, signed))
    ):
        return look
    if signed is not None:
        return replace(look, wall_ns=signed[0], uncertainty_ms=signed[1], state="signed")
    earliest = floor(known, look.boot_ns)
    return Look(look.boot_ns, max(look.wall_ns, earliest), None, "unsynced")


def _agree(wall_ns: int, uncertainty_ms: int, signed: tuple[int, int]) -> bool:
    apart_ms = abs(wall_ns - signed[0]) // 10**6
    return apart_ms <= uncertainty_ms + signed[1] + CONTRADICTION_MS


def raised(known: Known, look: Look) -> Known:
    """What is known after a look: the floor moves up to what was vouched for, else with time."""
    believed = believe(look, known)
    earliest = floor(known, look.boot_ns)
    if believed.uncertainty_ms is not None:
        vouched = believed.wall_ns - believed.uncertainty_ms * 10**6
        earliest = max(earliest, vouched)
    return Known(known.build_ns, earliest, look.boot_ns, known.moment)  # each look: no replace()


def signed(known: Known, moment: Moment) -> Known:
    """What is known once the fleet has signed a moment: it sets the floor, also back."""
    earliest = moment.utc_ns - moment.uncertainty_ms * 10**6
    return replace(
        known,
        floor_ns=max(known.build_ns, earliest),
        floor_boot_ns=moment.boot_ns,
        moment=moment,
    )


def step_ns(before: Look, after: Look) -> int:
    """How far the wall clock was set between two looks of one boot; 0 when it was not."""
    moved = (after.wall_ns - after.boot_ns) - (before.wall_ns - before.boot_ns)
    return moved if abs(moved) > STEP_NS else 0


def verify_at_ns(look: Look, known: Known) -> int | None:
    """The time that certificates are to be held to, where it is not the system clock's own."""
    believed = believe(look, known)
    apart = abs(believed.wall_ns - look.wall_ns)
    return believed.wall_ns if apart > STEP_NS else None
