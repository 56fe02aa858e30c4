"""One channel: does a value lie where it can, move as it can, and move at all?

Decides which rules of its limits a value breaks. Leaves to others who speaks (cadence.py), what is
told of it and what becomes of the reading (worth.py). Time comes in with the values.

Rules, in order:

1. Range: a number outside low..high; no number at all (NaN) is outside.
2. Rate: a change faster than ``max_rate_per_s`` both against the last value and against the one
   before it. One value that came late makes the next one look fast; it does not make the pair look
   fast. So a single jump shows when it is more than twice what one interval allows, a drift as soon
   as it is faster than the limit. Values that arrived within TOGETHER_S of the first are one
   arrival: after a stall several come at once.
   And whatever the arrivals: no further from any earlier value than the limit allows for the time
   since, and for the time by which that value can have been late, which is how long nothing had
   come before it. So many values in a short time move no further than few.
3. Stuck: the very same value for ``stuck_s`` while values keep coming: a pause counts for at most a
   quarter of it, because none coming is the port's matter (EW-SER-002). Also for truth values and
   texts.
4. Replay: what repeats.py says.

Truth values and texts have no range, no rate and no waveform.

    Channel(Limits(low=0, high=100)).judge(140.0, now_ns) == {Rule.RANGE: {"value": 140.0, ...}}
"""

from __future__ import annotations

from edgewarden.readings.limits import Limits, Rule
from edgewarden.readings.repeats import Repeats
from edgewarden.wire.facts import Plain

TOGETHER_S = 0.05
"""A read of a stalled process brings what came meanwhile with one stamp; 20 values a second is as
fast as a line of 9600 baud gets."""
PAUSE_SHARE = 0.25
"""Four pauses with one value are no chance; one night without a word is nothing."""
BOUNDED_FROM, BOUNDED_TO = float("-inf"), float("inf")

Broken = dict[Rule, dict[str, Plain]]
NOTHING: Broken = {}


class Channel:
    """State of one channel; at most 4 kB, of which repeats.py takes most."""

    __slots__ = (
        "_arrived_ns", "_before", "_before_ns", "_burst_ns", "_heard_ns", "_highest", "_last",
        "_last_ns", "_late_s", "_lowest", "_said", "_still_ns", "limits", "repeats",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.repeats = Repeats() if limits.replay else None
        self._said: object = None
        self._heard_ns = self._still_ns = 0
        self._arrived_ns = self._burst_ns = -1
        self._late_s = TOGETHER_S
        self._lowest, self._highest = BOUNDED_FROM, BOUNDED_TO
        self._last = self._before = 0.0
        self._last_ns = self._before_ns = -1

    def judge(self, value: float | str | bool, now_ns: int) -> Broken:
        """Return what is broken, each with its evidence; empty for a value like any other."""
        broken = NOTHING
        stuck_s = self.limits.stuck_s
        if value != self._said:
            self._said, self._still_ns = value, 0
        elif stuck_s is not None:
            self._still_ns += min(now_ns - self._heard_ns, int(stuck_s * PAUSE_SHARE * 1e9))
            if self._still_ns >= stuck_s * 1e9:
                still_s = round(self._still_ns / 1e9, 1)
                broken = {Rule.STUCK: {"value": value, "since_s": still_s}}
        self._heard_ns = now_ns
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return broken
        number = float(value)
        limits = self.limits
        if not limits.low <= number <= limits.high:
            evidence: dict[str, Plain] = {"value": number}
            if limits.low != BOUNDED_FROM:
                evidence["low"] = limits.low
            if limits.high != BOUNDED_TO:
                evidence["high"] = limits.high
            broken = {**broken, Rule.RANGE: evidence}
        if limits.max_rate_per_s is not None:
            rate = self._rate(number, now_ns, limits.max_rate_per_s)
            if rate:
                broken = {**broken, Rule.RATE: rate}
        if self.repeats is not None and number == number:
            ago = self.repeats.see(number)
            if ago is not None:
                broken = {**broken, Rule.REPLAY: {"value": number, "values_ago": ago}}
        return broken

    def _is_beyond(self, value: float, now_ns: int, most: float) -> bool:
        """Whether no earlier value, however late it was, lets it be there; then all begins anew."""
        passed_s = max(0, now_ns - self._arrived_ns) / 1e9 if self._arrived_ns >= 0 else 0.0
        if now_ns - self._burst_ns >= TOGETHER_S * 1e9 or self._burst_ns < 0:
            self._burst_ns, self._late_s = now_ns, max(TOGETHER_S, passed_s)
        self._arrived_ns = now_ns
        lowest, highest = self._lowest - most * passed_s, self._highest + most * passed_s
        reach = most * self._late_s
        slack = (abs(value) + reach) * 1e-6  # the change of a value is no exact number
        beyond = not lowest - slack <= value <= highest + slack
        if beyond or value != value:
            lowest, highest = BOUNDED_FROM, BOUNDED_TO
        self._lowest, self._highest = max(lowest, value - reach), min(highest, value + reach)
        return beyond

    def _rate(self, value: float, now_ns: int, most: float) -> dict[str, Plain] | None:
        beyond = self._is_beyond(value, now_ns, most)
        if self._last_ns < 0:
            self._last, self._last_ns = value, now_ns
            return None
        together = now_ns - self._last_ns < TOGETHER_S * 1e9 and self._before_ns >= 0
        fast = self._fast(value, now_ns, self._last, self._last_ns, most)
        if fast and self._before_ns >= 0:
            fast = self._fast(value, now_ns, self._before, self._before_ns, most)
        was, was_ns = self._last, self._last_ns
        if together:
            self._last = value
        else:
            self._before, self._before_ns = self._last, self._last_ns
            self._last, self._last_ns = value, now_ns
        if not fast and not beyond:
            return None
        return {"value": value, "was": was, "after_s": round((now_ns - was_ns) / 1e9, 3),
                "max_rate_per_s": most}  # fmt: skip

    @staticmethod
    def _fast(value: float, now_ns: int, was: float, was_ns: int, most: float) -> bool:
        # A part in a million: the change of a value is no exact number.
        passed_s = max((now_ns - was_ns) / 1e9, TOGETHER_S)
        return not abs(value - was) <= most * passed_s * (1 + 1e-6)
