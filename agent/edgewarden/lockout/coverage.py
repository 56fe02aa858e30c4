"""How far observe has got: what must be seen before enforce is kept where people log in.

What this decides, in order:

1. Time counts while the mode is observe and execs are seen. So does a boot that was observed from
   gate's start until it was healthy (lockout/boots.py).
2. A program of the critical set with other content (lockout/excuses.py) counts against it: the next
   one like it could be the one that nobody has thought of.
3. Another policy begins anew: what the last one would have denied says nothing of this one. Not
   so a table that was compiled from the same rules while packages were changing
   (lockout/packages.py): that brought contents, not rules.
4. Enforce on the filesystem that holds ``/`` is kept when observe_h hours and BOOTS_NEEDED boots
   are covered and nothing counts against it. Until then it may be tried, for a time.

Written every SAVE_S and at the end, without fsync: a power cut costs some minutes of it.

What it leaves to others: asking it (gate/arming.py), the bytes (lockout/records.py).

    coverage.look("observe", sees=True); coverage.missing(24) == "observed 3 h of 24"
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError
from edgewarden.lockout.records import NOTHING
from edgewarden.lockout.records import Coverage as Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.judge.exec_table import Table

    class Doors(Protocol):
        """What gate may ask of the machine (gate/doors.py)."""

        def boot_id(self) -> str:
            """Of this boot."""

        def system_age_s(self, boot_s: float) -> float:
            """Since this boot began."""

    class Files(Protocol):
        """Where it is kept."""

        def recall(self, name: str) -> bytes | None:
            """The file's bytes, None when it is not there or not root's."""

        def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
            """Write it, and wait for the disk if ``durable``; "" when done, else why not."""

    class Policy(Files, Protocol):
        """Files, and the table in use."""

        table: Table


FILE_NAME = "coverage"
BOOT_TAKES_S = 600.0
"""Who starts earlier has seen the boot: an fsck of a large card takes minutes."""
BOOTS_NEEDED = 1
"""What runs at a boot runs at no other time: mounts, fsck, getty, the network's start."""
SAVE_S = 600.0
"""What a power cut may cost; an eMMC does not feel 144 writes a day."""
SAVE_SOON_S = 5.0
"""After news."""
LONGEST_LOOK_S = 5.0
"""Between two looks more is not counted: gate was stopped, or the machine slept."""


class Coverage:
    """See the module.

    Args:
        files: keeps it over restarts.
        boot_id: of this boot.
        early: gate started while this boot was still under way.
        mono_s: CLOCK_MONOTONIC in seconds.
    """

    def __init__(
        self, files: Files, boot_id: str, *, early: bool, mono_s: Callable[[], float]
    ) -> None:
        self._files = files
        self._boot_id = boot_id
        self._mono_s = mono_s
        last = _recalled(files)
        self.generation = last.generation
        self.observed_s = float(last.observed_s)
        self.boots = last.boots
        self.would_denies = last.would_denies
        self.last = last.last
        self.granted = last.granted
        self._whole = last.whole if last.boot_id == boot_id else early
        self._seen_mono = mono_s()
        self._save_mono = self._seen_mono + SAVE_SOON_S

    def begin(self, generation: int, *, keep: bool) -> None:
        """A table was loaded.

        Args:
            generation: of the table.
            keep: it brought new contents of packages, not new rules.
        """
        if generation == self.generation:
            return
        self.generation = generation
        self.would_denies, self.last = 0, ""
        if not keep:
            self.observed_s, self.boots = 0.0, 0
        self._soon()

    def look(self, mode: str, *, sees: bool) -> None:
        """On a timer: count what has passed, and write it down now and then.

        Args:
            mode: in force now.
            sees: whether execs are seen.
        """
        now_mono = self._mono_s()
        passed_s = min(now_mono - self._seen_mono, LONGEST_LOOK_S)
        self._seen_mono = now_mono
        if mode == "observe" and sees:
            self.observed_s += passed_s
        else:
            self._whole = False
        if now_mono >= self._save_mono:
            self.save()

    def healthy(self) -> None:
        """This boot has become healthy."""
        if self._whole:
            self.boots += 1
            self._soon()
        self._whole = False  # counted, or never whole

    def hit(self, path: str) -> None:
        """A program of the critical set has other content."""
        self.would_denies += 1
        self.last = path
        self._soon()

    def grant(self, granted: bool) -> None:
        """Remember that a person's enforce was accepted for good, or is over."""
        if self.granted != granted:
            self.granted = granted
            self.save()

    def missing(self, observe_h: int) -> str:
        """What is still to be seen, in words; "" when everything was."""
        parts = []
        if self.observed_s < observe_h * 3600:
            parts.append(f"observed {_hours(self.observed_s)} of {observe_h} h")
        if self.boots < BOOTS_NEEDED:
            parts.append("no whole boot observed")
        if self.would_denies:
            word = "would-denies" if self.would_denies > 1 else "would-deny"
            parts.append(f"{self.would_denies} {word} in the critical set: {self.last}")
        return "; ".join(parts)

    def save(self) -> str:
        """Write it down; returns why not, or ""."""
        self._save_mono = self._mono_s() + SAVE_S
        record = Record(
            self.generation, int(self.observed_s), self.boots, self._boot_id, self._whole,
            self.would_denies, self.last[-512:], self.granted,
        )  # fmt: skip
        return self._files.remember(FILE_NAME, record.dump())

    def _soon(self) -> None:
        self._save_mono = min(self._save_mono, self._mono_s() + SAVE_SOON_S)


def _hours(seconds: float) -> str:
    """``3 h``, ``40 min``."""
    return f"{int(seconds // 3600)} h" if seconds >= 3600 else f"{int(seconds // 60)} min"


def _recalled(files: Files) -> Record:
    """What was written last; nothing when it is not there, torn or not root's."""
    data = files.recall(FILE_NAME)
    try:
        return NOTHING if data is None else Record.load(data)
    except EdgewardenError:
        return NOTHING


def coverage_of(
    policy: Policy, doors: Doors, *, boot_s: float, mono_s: Callable[[], float]
) -> Coverage:
    """For gate, at its start.

    Args:
        policy: keeps it, and has the table in use.
        boot_s, mono_s: CLOCK_BOOTTIME and CLOCK_MONOTONIC in seconds.
    """
    early = doors.system_age_s(boot_s) < BOOT_TAKES_S
    made = Coverage(policy, doors.boot_id(), early=early, mono_s=mono_s)
    made.begin(policy.table.generation, keep=False)
    return made
