"""How long a file is waited for that the disk does not give; what happens then is lane.py's."""

from __future__ import annotations

LOOKS = 12
"""At a file that the disk does not give, each behind another commit: two minutes of an idle
gateway, whose commits come each 10 s while the uplink asks each 5 s.
"""


class Patience:
    """How long a file is waited for that the disk does not give, though it takes commits.

    A disk that takes nothing either is not asked here: its records are kept in memory (refuge.py),
    and none of it is lost.
    """

    def __init__(self) -> None:
        self._first = self._commits = self._looks = 0

    def lasts(self, first: int, commits: int) -> bool:
        """One more look at the file that begins with ``first`` was refused.

        Args:
            commits: how many the disk has taken so far.
        """
        if first != self._first:
            self._first, self._commits, self._looks = first, -1, 0
        if commits != self._commits:
            self._commits, self._looks = commits, self._looks + 1
        return self._looks < LOOKS
