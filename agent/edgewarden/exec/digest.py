"""From a descriptor to the SHA-256 of its content, a slice at a time, and the cache of what was
found.

What this decides: which digest may be used again. The cache takes one only if, in this order:

1. ctime was older than CTIME_SETTLE_NS when hashing began: two changes within one tick of the
   kernel's clock look like one;
2. the filesystem is one where a store through a mapping moves ctime at all (exec/marks.py,
   CACHEABLE);
3. a read lease was held all the while; and
4. fstat says the same before and after.

What it leaves to others: whose turn it is (exec/queue.py), what follows from a digest
(exec/responder.py). The content is read from the descriptor, never by path: the path may lead
elsewhere by now.

    hashing = digests.begin(os.fstat(fd))
    while not hashing.step(fd, SLICE_BYTES): ...      # somebody else's turn
    hashing.digest                                    # b"" when it is too large
"""

from __future__ import annotations

import os
import struct

from edgewarden.wire.lean import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.lease import ReadLease

MAX_HASH_BYTES = 128 << 20
"""Above the programs seen on gateways (a node or container runtime is 50 to 110 MB); at 325 MB/s
(measured, x86-64) 0.4 s, on a Pi 4 about 1 s."""
CHUNK_BYTES = 128 << 10
"""Read at once while hashing: small beside gate's 6 MB, large beside a system call."""
CTIME_SETTLE_NS = 20_000_000
"""Two ticks of a kernel with HZ=100."""
CACHE_ENTRIES = 2048
"""About 240 bytes each; a gateway runs some hundred different programs."""

_KEY = struct.Struct("<QQqqQ")
_U64 = (1 << 64) - 1
_BUFFER = memoryview(bytearray(CHUNK_BYTES))
"""One for all: there is one thread, and nothing of it is kept between two chunks."""


class Hashing:
    """A content on its way to its digest.

    Attributes:
        at: bytes read.
        digest: 32 bytes once ``step`` said True; b"" when there are more than MAX_HASH_BYTES.
        key: what names the content, as it was at the beginning.
    """

    __slots__ = ("_running", "at", "digest", "keepable", "key")

    def __init__(self, key: bytes, keepable: bool) -> None:
        self.key = key
        self.keepable = keepable
        self.at = 0
        self.digest = b""
        self._running = sha256()

    def step(self, fd: int, most_bytes: int) -> bool:
        """Read on, at most ``most_bytes`` (rounded up to chunks); True when it is done."""
        until = self.at + most_bytes
        while self.at < until:
            count = os.preadv(fd, [_BUFFER], self.at)
            if not count:
                self.digest = self._running.digest()
                return True
            self._running.update(_BUFFER[:count])
            self.at += count
            if self.at > MAX_HASH_BYTES:
                return True  # it grew while it was read
        return False


class Digests:
    """The cache; see the module.

    Args:
        wall_ns: CLOCK_REALTIME.

    Attributes:
        cacheable: st_dev of the filesystems whose ctime can be relied on.
    """

    __slots__ = ("_cache", "_wall_ns", "cacheable")

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self.cacheable: set[int] = set()
        self._wall_ns = wall_ns
        self._cache: dict[bytes, bytes] = {}

    def known(self, status: os.stat_result) -> bytes | None:
        """The digest of a file that is as it was when it was hashed."""
        return self._cache.get(key_of(status))

    def begin(self, status: os.stat_result) -> Hashing:
        """Start to hash; the read lease, if there is to be one, is held already."""
        settled = self._wall_ns() - status.st_ctime_ns >= CTIME_SETTLE_NS
        return Hashing(key_of(status), settled and status.st_dev in self.cacheable)

    def finish(self, done: Hashing, fd: int, lease: ReadLease) -> bool:
        """Keep the digest if it may be kept; True when the file was left alone all the while, as
        far as lease and fstat tell."""
        leased = lease.held()
        quiet = (leased or not lease.granted) and key_of(os.fstat(fd)) == done.key
        if quiet and leased and done.keepable and done.digest:
            if len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[done.key] = done.digest
        return quiet


def key_of(status: os.stat_result) -> bytes:
    """What names a content: device, inode, ctime, mtime, size."""
    return _KEY.pack(
        status.st_dev & _U64, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
    )
