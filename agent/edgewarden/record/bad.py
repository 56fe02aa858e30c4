"""Damaged files of a class, set aside for a person to look at: how many, how large, how long.

Decides which of them go. Leaves to lane.py what is missing with them and whether a file still says
something that no durable record does, to salvage.py their good rows.

* At most KEEP_BAD, and together within bytes_at_most: set aside under a larger cap, they would hold
  more than the present one allows for what is new, for good.
* The oldest goes first. What was in it was told as lost when it was found, or went on in a file of
  its name: nothing is lost with it, and nothing to be told. One of which that is not so stays.
* One that the disk does not let go stays, and is tried again: a record is not refused for that.

    bad = BadFiles(found, bytes_at_most=1 << 20)
    bad.take(file)
    bad.trim(waits)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.record.segment import (
    BAD_SUFFIX,
    SegmentFile,
    remove_files,
    renamed_errors,
    side_files,
    sync_folder,
)

KEEP_BAD = 2
"""Damaged files kept per class."""


class BadFiles:
    """See the module. Storage thread only.

    Attributes:
        files: by first sequence.
    """

    def __init__(self, files: Iterable[SegmentFile], bytes_at_most: int) -> None:
        self.files = list(files)
        self._bytes_at_most = bytes_at_most

    def size_bytes(self) -> int:
        """Bytes on disk, logs included."""
        return sum(file.size_bytes for file in self.files)

    def take(self, file: SegmentFile) -> SegmentFile:
        """Rename a file out of the way, its log first; returns it under its new name.

        Raises:
            HardwareFault: the disk refuses.
        """
        bad = SegmentFile(file.path.with_suffix(BAD_SUFFIX), file.first, file.before)
        with renamed_errors(file.path):
            for old, new in zip(side_files(file.path), side_files(bad.path), strict=True):
                if old.exists():
                    old.rename(new)
            file.path.rename(bad.path)
            sync_folder(file.path.parent)
        bad.measure()
        self.files = sorted(
            [*(f for f in self.files if f.first != bad.first), bad], key=lambda f: f.first
        )
        return bad

    def trim(self, waits: Callable[[SegmentFile], bool]) -> None:
        """Remove the oldest of what is too much.

        Args:
            waits: whether a file is still needed.
        """
        folders = set[Path]()
        with contextlib.suppress(HardwareFault):
            for file in list(self.files):
                if len(self.files) <= KEEP_BAD and self.size_bytes() <= self._bytes_at_most:
                    break
                if not waits(file):
                    with renamed_errors(file.path):
                        remove_files(file.path)
                    self.files.remove(file)
                    folders.add(file.path.parent)
            for folder in folders:
                with renamed_errors(folder):
                    sync_folder(folder)
