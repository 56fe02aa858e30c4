"""One file's content: class, SHA-256, and MD5 where dpkg has one to compare.

What this decides: that what was read is one state of one file. It is opened without following a
link and without waiting, must be a regular file, and must have the same identity before and after;
else ``Moving``. What it leaves to others: which files (survey.py).

    status, content = read_content("/usr/bin/ls", "/usr/bin/ls", wants_md5=True, most=128 << 20)
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct

from edgewarden.baseline.kinds import HEAD_BYTES, kind_of
from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.lean import seal, unseal

PIECE_BYTES = 1 << 20
"""Long against the cost of a call, short against a small board's memory (one for each worker)."""
SETTLE_NS = 2_000_000_000
"""vfat counts mtime in steps of 2 s, which is the coarsest: a younger file may change once more
without a change of its times."""
AHEAD_NS = 3_600_000_000_000
"""No survey takes an hour: what was changed further ahead than that was changed before somebody set
the clock back, and a change of these minutes cannot show as the same time."""

MAGIC = b"EWSEEN_1"
MAX_SEEN = 400_000
_ROW = struct.Struct("<QQqqQ32s16sBB")
_KINDS = (
    "", "program", "script", "library", "module", "interpreter", "shell", "loader",
)  # fmt: skip
"""Order is the file's; a new word goes to the end."""
MAX_SEEN_BYTES = 48 + MAX_SEEN * _ROW.size
_U64 = (1 << 64) - 1


class Moving(Exception):
    """The file changed while it was read, or is no file any more."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What names a content without reading it."""

    device: int
    inode: int
    ctime_ns: int
    mtime_ns: int
    size_bytes: int

    @staticmethod
    def of(status: os.stat_result) -> Stamp:
        """That of a file."""
        return Stamp(
            status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
        )


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Attributes:
        kind: its class; "" for what is no program, which then has no digest.
        sha256: 32 bytes.
        md5: 16 bytes, b"" when nobody wanted it.
    """

    kind: str
    sha256: bytes = b""
    md5: bytes = b""


def settled(status: os.stat_result, started_ns: int) -> bool:
    """Whether a later change of the file must show in its stamp."""
    ctime_ns = status.st_ctime_ns
    return ctime_ns + SETTLE_NS <= started_ns or ctime_ns >= started_ns + AHEAD_NS


def read_content(
    real: str, path: str, *, wants_md5: bool, most: int, follow: bool = False
) -> tuple[os.stat_result, Content]:
    """Read one file.

    Args:
        real: where it is on this disk.
        path: its name in the system it belongs to.
        most: the longest content that is hashed, bytes.
        follow: ``real`` is a link of /proc, which leads to one file whatever its name.

    Raises:
        Moving: it changed meanwhile.
        OSError: the disk, or the rights.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(real, flags if follow else flags | os.O_NOFOLLOW)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_size > most:
            raise Moving
        head = os.pread(fd, HEAD_BYTES, 0)
        kind = kind_of(path, head, executable=bool(before.st_mode & 0o111))
        content = _hash(fd, kind, wants_md5, most) if kind else Content("")
        if Stamp.of(os.fstat(fd)) != Stamp.of(before):
            raise Moving
        return before, content
    finally:
        os.close(fd)


def _hash(fd: int, kind: str, wants_md5: bool, most: int) -> Content:
    sha256 = hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False) if wants_md5 else None
    at = 0
    while piece := os.pread(fd, PIECE_BYTES, at):
        at += len(piece)
        if at > most:
            raise Moving
        sha256.update(piece)
        if md5 is not None:
            md5.update(piece)
    return Content(kind, sha256.digest(), md5.digest() if md5 is not None else b"")


def dump_seen(seen: dict[Stamp, Content]) -> bytes:
    """The bytes of state/policy/baseline.seen; beyond MAX_SEEN the rest is read again next time."""
    rows = []
    for stamp, content in list(seen.items())[:MAX_SEEN]:
        rows.append(
            _ROW.pack(
                stamp.device & _U64, stamp.inode & _U64, stamp.ctime_ns, stamp.mtime_ns,
                stamp.size_bytes, content.sha256, content.md5, _KINDS.index(content.kind),
                bool(content.md5),
            )
        )  # fmt: skip
    return seal(MAGIC, b"".join(rows))


def load_seen(data: bytes) -> dict[Stamp, Content]:
    """Read what ``dump_seen`` wrote.

    Raises:
        WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_length, bad_value.
    """
    body = unseal(MAGIC, data, most=MAX_SEEN_BYTES)
    if len(body) % _ROW.size:
        raise WireRefusal("bad_length", f"{len(body)} bytes of rows")
    seen = {}
    for device, inode, ctime, mtime, size, sha256, md5, kind, has_md5 in _ROW.iter_unpack(body):
        if kind >= len(_KINDS) or has_md5 > 1:
            raise WireRefusal("bad_value", f"class {kind}")
        name = _KINDS[kind]
        content = Content(name, sha256 if name else b"", md5 if has_md5 else b"")
        seen[Stamp(device, inode, ctime, mtime, size)] = content
    return seen
