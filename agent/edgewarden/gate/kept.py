"""What gate knows of contents, kept over a restart of gate: nobody's exec waits for a hash again.

What this decides: when the cache of the gate before (exec/digest.py) may be believed. An entry says
that a file with this device, inode, ctime, mtime and size has this content. That stays true while
nobody watches, too, because whoever writes moves ctime; but only as long as the device number
leads to the same filesystem and nobody writes to the disk behind the kernel's back. So, in order:

1. It lies in the run directory, and only where that is a tmpfs: there it ends with the boot, and
   writing it waits for no disk. On another filesystem nothing is kept.
2. It belongs to root alone, is whole, and is of this boot.
3. Each watched filesystem is still the same mount, by the number that the kernel gives once and
   never again (statx, Linux 6.8). Where the kernel has no such number nothing is kept.

One thing amiss and all of it is dropped: the worst that follows is a hash for each program.

Over a reboot nothing is kept: who holds the card can write a content and its ctime, and device
numbers change (ADR 19).

The file is sealed (wire/lean.py): boot id (36 bytes), count of mounts u16, each path length u16,
path, number u64; then rows of key (40 bytes) and SHA-256 (32 bytes). Little-endian.

    kept = Kept(doors, mounts, digests); kept.recall(paths); kept.save(paths)
"""

from __future__ import annotations

import os
import struct

from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden.exec.digest import CACHE_ENTRIES, KEY_BYTES
from edgewarden.gate.doors import check_owned_by_root, read_whole
from edgewarden.wire.lean import DIGEST_BYTES, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgewarden.exec.digest import Digests
    from edgewarden.gate.doors import Doors
    from edgewarden.kernel.mounts import Mounts

NAME = "known-contents"
MAGIC = b"EWKNOWN1"
IN_MEMORY = ("tmpfs", "ramfs")
ROW_BYTES = KEY_BYTES + DIGEST_BYTES
MAX_HEAD_BYTES = 16 * 4200
"""Sixteen paths of PATH_MAX bytes, and the rest."""
MAX_BYTES = MAX_HEAD_BYTES + CACHE_ENTRIES * ROW_BYTES
_U16 = struct.Struct("<H")
_U64 = struct.Struct("<Q")


class Kept:
    """See the module.

    Args:
        doors: with the run directory looked into.
        mounts: tells which mount is which.
        digests: the cache.
    """

    __slots__ = ("_boot_id", "_digests", "_doors", "_mounts", "_saved", "_usable")

    def __init__(self, doors: Doors, mounts: Mounts, digests: Digests) -> None:
        self._doors = doors
        self._mounts = mounts
        self._digests = digests
        self._saved = -1
        self._boot_id = doors.proc_text("sys/kernel/random/boot_id").strip().encode()
        try:
            self._usable = doors.run_fd >= 0 and mounts.of(doors.run_fd).kind in IN_MEMORY
        except EdgewardenError:
            self._usable = False

    def recall(self, paths: Sequence[str]) -> int:
        """Take what the gate before has kept, if it may be believed; returns how many contents."""
        head = self._head(paths)
        if head is None:
            return 0
        try:
            fd = self._doors.open(self._doors.run_fd, NAME, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                check_owned_by_root(fd, NAME)
                body = unseal(MAGIC, read_whole(fd, MAX_BYTES), most=MAX_BYTES)
            finally:
                os.close(fd)
        except (OSError, EdgewardenError, WireRefusal):
            return 0
        rows = body[len(head) :]
        if not body.startswith(head) or len(rows) % ROW_BYTES:
            return 0
        found = [
            (rows[at : at + KEY_BYTES], rows[at + KEY_BYTES : at + ROW_BYTES])
            for at in range(0, len(rows), ROW_BYTES)
        ]
        self._digests.adopt(found)
        return len(found)

    def save(self, paths: Sequence[str]) -> None:
        """Keep what is known now, if it is more or other than what was kept last; never waits."""
        if self._saved == self._digests.changes or (head := self._head(paths)) is None:
            return
        self._saved = self._digests.changes
        rows = b"".join(key + digest for key, digest in self._digests.entries())
        try:
            self._doors.write_run(NAME, seal(MAGIC, head + rows))
        except OSError:
            return  # a full tmpfs: the next gate hashes anew

    def _head(self, paths: Sequence[str]) -> bytes | None:
        """Boot and mounts; None where nothing may be kept."""
        if not self._usable or not self._boot_id:
            return None
        parts = [self._boot_id, _U16.pack(len(paths))]
        for path in paths:
            number = self._mounts.unique_number(path)
            if number is None:
                return None
            raw = os.fsencode(path)
            parts.append(_U16.pack(len(raw)) + raw + _U64.pack(number))
        return b"".join(parts)
