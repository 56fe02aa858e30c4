"""What a person says of one channel, and the rules a reading can break.

Decides nothing: values only. What each rule looks for is in channel.py (range, rate, stuck),
repeats.py (replay) and cadence.py (who speaks); what follows from it in worth.py.

    Limits(low=-40, high=85, max_rate_per_s=0.5, stuck_s=3600)
"""

from __future__ import annotations

from enum import StrEnum

from edgewarden.plain import dataclass
from edgewarden.wire.facts import Quality, Severity


class Rule(StrEnum):
    """What can be wrong with a reading."""

    RANGE = "range"
    RATE = "rate"
    STUCK = "stuck"
    REPLAY = "replay"
    CADENCE = "cadence"
    ADAPTER = "adapter"


class OnFault(StrEnum):
    """What happens to a reading that breaks a rule of its channel."""

    MARK = "mark"
    UNTRUSTED = "untrusted"
    SUBSTITUTE = "substitute"


QUALITY = {
    Rule.RANGE: Quality.SUSPECT,
    Rule.RATE: Quality.SUSPECT,
    Rule.STUCK: Quality.STALE,
    Rule.REPLAY: Quality.UNTRUSTED,
    Rule.CADENCE: Quality.SUSPECT,
    Rule.ADAPTER: Quality.SUSPECT,
}
"""A fault of the instrument makes a value doubtful or old; a recording played back is a lie."""

TOLD: dict[Rule, tuple[str, str, Severity]] = {
    Rule.RANGE: ("EW-SER-010", "leaves its range", Severity.MEDIUM),
    Rule.RATE: ("EW-SER-011", "changes faster than it can", Severity.MEDIUM),
    Rule.STUCK: ("EW-SER-012", "does not move any more", Severity.MEDIUM),
    Rule.REPLAY: ("EW-SER-013", "repeats what it said before", Severity.HIGH),
    Rule.CADENCE: ("EW-SER-014", "somebody speaks in another manner than before", Severity.MEDIUM),
}
"""Rule -> code, the title behind the channel's name, severity. Another adapter is told where it is
seen (serial/serialport.py, EW-USB-003)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one channel.

    Attributes:
        low, high: inclusive range of a number, in the reading's unit.
        max_rate_per_s: how fast it can change, in its unit per second; None: not judged.
        stuck_s: a number that did not move for so long is stuck; None: not judged.
        replay: look for repeated waveforms.
        on_fault: what becomes of a reading that breaks a rule.
        failsafe: the value that takes its place, for SUBSTITUTE.
    """

    low: float = float("-inf")
    high: float = float("inf")
    max_rate_per_s: float | None = None
    stuck_s: float | None = None
    replay: bool = True
    on_fault: OnFault = OnFault.MARK
    failsafe: float | None = None
