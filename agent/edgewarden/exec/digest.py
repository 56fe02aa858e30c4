"""From a descriptor to the SHA-256 of its content, a slice at a time, and the cache of what was
found.

What this decides: which digest may be used again. The cache takes one only if, in this order:

1. ctime was CTIME_SETTLE_NS away from the clock when hashing began: two changes within one tick of
   the kernel's clock look like one (COARSE_SETTLE_NS where times have whole seconds);
2. the filesystem is one where a store through a mapping moves ctime at all (exec/marks.py,
   CACHEABLE);
3. a read lease was held all the while; and
4. fstat says the same before and after.

It gives a digest up, whatever the times say, as soon as the file has been open for writing
(``writers``, kernel/fanotify.py): EXT4_IOC_MOVE_EXT puts other blocks into a file and moves neither
ctime nor mtime. Who asks under a read lease has heard of everything before it. Without a lease that
holds for what was written and closed; a writer who is still there shows in the lease alone, so
where none is taken only files count that root alone can write to (exec/opened.py). What is kept for
the next gate was not watched in between, so it is of root's files only.

A content whose read lease is still held since it was hashed (exec/hold.py keeps it for a moment
after each start) needs no new lease and no second look: nobody can have opened it for writing.

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

from edgewarden.kernel.writers import handle_of
from edgewarden.wire.lean import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgewarden.judge.exec_rules import Rule
    from edgewarden.kernel.lease import ReadLease
    from edgewarden.kernel.mounts import Status
    from edgewarden.kernel.writers import Writers

MAX_HASH_BYTES = 128 << 20
"""Above the programs seen on gateways (a node or container runtime is 50 to 110 MB); at 325 MB/s
(measured, x86-64) 0.4 s, on a Pi 4 about 1 s."""
CHUNK_BYTES = 128 << 10
"""Read at once while hashing: small beside gate's 6 MB, large beside a system call."""
CTIME_SETTLE_NS = 20_000_000
"""Two ticks of a kernel with HZ=100."""
SECOND_NS = 1_000_000_000
COARSE_SETTLE_NS = SECOND_NS + CTIME_SETTLE_NS
"""Where times may have whole seconds (ext4 with inodes of 128 bytes): two changes within one second
look like one. A full second by chance costs one more hash."""
CACHE_ENTRIES = 2048
"""About 350 bytes each; a gateway runs some hundred different programs."""

TOLD = 16
"""Who executes the same program within one policy: a few users and units."""
OTHERS_MAY_WRITE = 0o022
"""An ACL that lets others write shows in the group's bits: they are its mask (acl(5))."""

_KEY = struct.Struct("<QQqqQ")
PACK_KEY = _KEY.pack
KEY_BYTES = _KEY.size
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


class Known:
    """A content that was hashed.

    Attributes:
        digest: SHA-256, 32 bytes.
        rule: what the policy of ``epoch`` says of it, whoever asks.
        epoch: whose word ``rule`` is, or whose word it is that the subject counts.
        lease_fd: a descriptor whose read lease was taken before the file was last compared; -1:
            there is none, or somebody has asked to write.
        handle: names the inode in what ``Writers`` tells; b"" while it is not known.
        roots: root alone could write to it.
        checked_mono: when the lease was last seen to be held.
        used_mono: when somebody last relied on that lease.
        starting: how many that rely on it may not have started yet.
        again: somebody relied on it since it was taken.
        told: (uid, cgroup) -> the rule of ``epoch`` that lets these through, where it asks for
            nothing else; at most TOLD.
    """

    __slots__ = (
        "again", "checked_mono", "digest", "epoch", "handle", "lease_fd", "roots", "rule",
        "starting", "told", "used_mono",
    )  # fmt: skip

    def __init__(self, digest: bytes, handle: bytes = b"", *, roots: bool = True) -> None:
        self.digest = digest
        self.handle = handle
        self.roots = roots
        self.rule: Rule | None = None
        self.epoch: object = None
        self.lease_fd = -1
        self.checked_mono = 0.0
        self.used_mono = 0.0
        self.starting = 0
        self.again = False
        self.told: dict[tuple[int, int], Rule] = {}


class Digests:
    """The cache; see the module.

    Args:
        wall_ns: CLOCK_REALTIME.

    Attributes:
        cacheable: st_dev of the filesystems whose ctime can be relied on.
        known_by_key: as ``known``, by what ``key_of`` gives.
        changes: how often something was kept or forgotten.
        images: contents of images that were not seen to start (wire/images.py), by key.
        writers: tells what has been open for writing; None: nobody does.
    """

    __slots__ = (
        "_by_handle", "_cache", "_wall_ns", "cacheable", "changes", "images", "known_by_key",
        "writers",
    )  # fmt: skip

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self.cacheable: set[int] = set()
        self._wall_ns = wall_ns
        self._cache: dict[bytes, Known] = {}
        self.known_by_key = self._cache.get
        self._by_handle: dict[bytes, bytes] = {}
        self.writers: Writers | None = None
        self.changes = 0
        self.images: Mapping[bytes, bytes] = {}

    def known(self, status: os.stat_result, fd: int) -> Known | None:
        """What is known of the file behind ``fd``, which is as it was when it was hashed."""
        self.catch_up()
        key = key_of(status)
        found = self._cache.get(key)
        if found is not None and not found.handle and self.writers is not None:
            self._name(found, key, fd)  # from the gate before: watched from now on
        return found

    def catch_up(self) -> None:
        """Give up what has been open for writing."""
        if self.writers is None:
            return
        heard = self.writers.heard()
        if heard is None:
            self.forget()
            return
        for handle in heard:
            key = self._by_handle.pop(handle, None)
            if key is not None:
                del self._cache[key]
                self.changes += 1

    def watched_by(self, writers: Writers | None) -> None:
        """Another group tells from now on; its marks are made, and those of the last one not yet
        gone. None: what is written is not told any more, so all of it is forgotten."""
        self.catch_up()
        if writers is None:
            self.forget()
        self.writers = writers

    def _name(self, known: Known, key: bytes, fd: int) -> None:
        known.handle = handle_of(fd)
        if known.handle:
            last = self._by_handle.pop(known.handle, key)
            if last != key:
                self._cache.pop(last, None)  # the same file, before it changed
            self._by_handle[known.handle] = key

    def digest_of(self, status: os.stat_result | Status) -> bytes:
        """The digest of a running image that is as it was when it was hashed; b"" when it is not
        known. Never for a verdict: ``images`` were read by another process, under no lease."""
        key = key_of(status)
        found = self._cache.get(key)
        return self.images.get(key, b"") if found is None else found.digest

    def forget(self) -> None:
        """Nothing is known any more: another filesystem may have the device number of one that was
        watched."""
        self._cache.clear()
        self._by_handle.clear()
        self.changes += 1

    def adopt(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Know what the gate before knew: (key, SHA-256) each (gate/kept.py says when)."""
        for key, digest in entries:
            self._room()
            self._cache[key] = Known(digest)

    def entries(self) -> list[tuple[bytes, bytes]]:
        """(key, SHA-256) of what is known of root's files, the oldest first."""
        return [(key, known.digest) for key, known in self._cache.items() if known.roots]

    def _room(self) -> None:
        if len(self._cache) >= CACHE_ENTRIES:
            key = next(iter(self._cache))
            self._by_handle.pop(self._cache.pop(key).handle, None)

    def begin(self, status: os.stat_result) -> Hashing:
        """Start to hash; the read lease, if there is to be one, is held already."""
        # A ctime that lies ahead (the clock was set back) is no change of this moment either.
        step_ns = CTIME_SETTLE_NS if status.st_ctime_ns % SECOND_NS else COARSE_SETTLE_NS
        settled = abs(self._wall_ns() - status.st_ctime_ns) >= step_ns
        return Hashing(key_of(status), settled and status.st_dev in self.cacheable)

    def finish(self, done: Hashing, fd: int, lease: ReadLease) -> tuple[bool, Known | None]:
        """Whether the file was left alone all the while, as far as lease and fstat tell; and what
        is kept of it, if it may be kept."""
        leased = lease.held()
        status = os.fstat(fd)
        quiet = (leased or not lease.granted) and key_of(status) == done.key
        if not (quiet and leased and done.keepable and done.digest):
            return quiet, None
        self.catch_up()  # what was said before the lease is not about this content
        known = Known(done.digest, roots=only_root(status))
        if self.writers is not None:
            self._name(known, done.key, fd)
            if not known.handle:
                return quiet, None
        self._room()
        self.changes += 1
        self._cache[done.key] = known
        return quiet, known


def key_of(status: os.stat_result | Status) -> bytes:
    """What names a content: device, inode, ctime, mtime, size."""
    return PACK_KEY(
        status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
    )


def only_root(status: os.stat_result) -> bool:
    """Whether nobody but root can write to the file, as far as its inode says."""
    return status.st_uid == 0 and not status.st_mode & OTHERS_MAY_WRITE
