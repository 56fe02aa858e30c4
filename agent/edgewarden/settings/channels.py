"""[[serial.channel]]: what a value of a sensor can be, and what becomes of one that cannot.

Part of the settings' tree (schema.py), with the rules between its keys; the judging is readings/'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import CONTRADICTION, MISSING
from edgewarden.settings.fields import choice, number, text
from edgewarden.settings.tree import Broken

# SenML names (RFC 8428 section 4.5.1), as serial/jsonlines.py lets them through.
_CHANNEL_FORM = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9\-:./_]{0,63}")
_MOST = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialChannel:
    """What one channel of a sensor can say. Without a table, and without one named *, its values
    are not judged; who speaks on the port is."""

    name: str = text(
        form=_CHANNEL_FORM,
        rule="a channel's name in readings, or * for every channel without a table of its own",
        help="The channel.",
        example='"temperature"',
    )
    low: float | None = number(
        low=-_MOST, high=_MOST, absent="no limit", help="The least value, in the reading's unit."
    )
    high: float | None = number(
        low=-_MOST, high=_MOST, absent="no limit", help="The greatest value."
    )
    max_rate_per_s: float | None = number(
        low=1e-9,
        high=_MOST,
        absent="not judged",
        help="The fastest change in a second, in the reading's unit.",
    )
    stuck_s: float | None = number(
        low=1,
        high=31536000,
        absent="not judged",
        help="A value that did not change for so long, while values came, is stuck (a pause "
        "counts for at most a quarter of it). Leave it out for what rests: a door, a coarse "
        "thermometer.",
    )
    replay: str = choice(
        "on",
        of=("on", "off"),
        help="Look for a recording that is played back. off for what repeats itself exactly and is "
        "honest: a simulator. Values without noise (counters, coarse values) are passed over.",
    )
    on_fault: str = choice(
        "mark",
        of=("mark", "untrusted", "substitute"),
        help="mark: the reading's quality says stale, suspect or untrusted. untrusted: it says "
        "untrusted, whichever rule was broken. substitute: failsafe takes the value's place, the "
        "quality says substituted, and what was measured is kept beside it.",
    )
    failsafe: float | None = number(
        low=-_MOST,
        high=_MOST,
        absent="none",
        help="The value of substitute; 0 is false and all else true for a truth value. A text has "
        "none: it becomes untrusted.",
    )


def channel_rules(channel: SerialChannel) -> Iterator[Broken]:
    """What one channel must keep."""
    low, high = channel.low, channel.high
    if low is not None and high is not None and low > high:
        yield ("low",), f"{low:g} is above high = {high:g}", CONTRADICTION
    substitutes = channel.on_fault == "substitute"
    if substitutes and channel.failsafe is None:
        yield (), 'on_fault = "substitute" needs a failsafe', MISSING
    if not substitutes and channel.failsafe is not None:
        text = 'only on_fault = "substitute" uses a failsafe'
        yield ("failsafe",), text, CONTRADICTION
