"""How long the table in the kernel may refuse before somebody has confirmed it.

What this decides: what a table that is made anew (a reload, a flush by somebody else) has left of a
trial. It is never more than the trial had, and it is never "for good": a part of a second counts as
one, and a trial whose time is over refuses nothing, also before the mode has gone back
(gate/modes.py looks twice a second). What it leaves to others: the dead man in the kernel
(peers/modes.py).

    trial.begin(600, now_mono); trial.again("enforce", now_mono + 20.5) == ("enforce", 580)
"""

from __future__ import annotations

from math import ceil


class Trial:
    """One trial, or none."""

    __slots__ = ("_end_mono",)

    def __init__(self) -> None:
        self._end_mono: float | None = None

    def begin(self, trial_s: int, now_mono: float) -> None:
        """A table is in force for so many seconds; 0: no trial."""
        self._end_mono = now_mono + trial_s if trial_s else None

    def left_s(self, now_mono: float) -> int:
        """Whole seconds, the last one not rounded away; 0 without a trial or when it is over."""
        if self._end_mono is None or now_mono >= self._end_mono:
            return 0
        return ceil(self._end_mono - now_mono)

    def over(self, now_mono: float) -> bool:
        """The kernel has lifted the refusals."""
        return self._end_mono is not None and now_mono >= self._end_mono

    def again(self, mode: str, now_mono: float) -> tuple[str, int]:
        """The mode and the trial's time for the same table, made anew."""
        if self.over(now_mono):
            return ("observe" if mode == "enforce" else mode), 0
        return mode, self.left_s(now_mono)
