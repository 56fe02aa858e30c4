"""The heads of all classes in one small file beside the segments: a second word, not the first.

Decides nothing: it is believed where it says more than the segments do (spool.py). A log that was
damaged or cut short is read by SQLite as if its last commits had never been, and the next record
would be signed under a number that is used. After each commit the heads are written here, without
fsync: behind the disk by what the kernel has not written yet (30 s), ahead of it never. A file that
is not what was written says nothing.

    heads = HeadsFile(folder / "heads")
    heads.write({1: (42, digest)})
    heads.read()                       # {1: (42, digest)}; {} where there is none
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

_ONE = struct.Struct(">BQ32s")
_SUM = struct.Struct(">I")
CLASSES_AT_MOST = 8
"""There are three; a file longer than this is not ours."""


class HeadsFile:
    """See the module. Storage thread only; raises nothing: doing without it is not a fault."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def read(self) -> dict[int, tuple[int, bytes]]:
        """class -> (sequence, hash) as of the last write that reached the disk."""
        try:
            data = os.pread(self._fd, _ONE.size * CLASSES_AT_MOST + _SUM.size + 1, 0)
        except OSError:
            return {}
        body, kept = data[: -_SUM.size], data[-_SUM.size :]
        if len(body) % _ONE.size or len(body) > _ONE.size * CLASSES_AT_MOST:
            return {}
        if len(kept) != _SUM.size or _SUM.unpack(kept)[0] != zlib.crc32(body):
            return {}
        return {number: (head, digest) for number, head, digest in _ONE.iter_unpack(body)}

    def write(self, heads: Mapping[int, tuple[int, bytes]]) -> None:
        """Put what was committed; the kernel writes it when it likes."""
        body = b"".join(_ONE.pack(c, head, digest) for c, (head, digest) in heads.items())
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, body + _SUM.pack(zlib.crc32(body)), 0)

    def close(self) -> None:
        """Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
