"""Folders that the last survey saw, so that dpkg's hook looks only into those that changed.

What this decides: when a folder need not be looked into. dpkg brings a file under another name and
renames it into place; so do update-alternatives and Python's compiler. That, like taking a file
away, moves mtime and ctime of the folder. So, in order:

1. It was remembered only if every program in it is a package's, as the package brought it: what was
   not taken over is looked at again. And only if both times had settled when it was read, on the
   kinds of filesystem in STEADY: a later change must show.
2. Device, inode, mtime and ctime are what they were: it has the names that it had, and what the
   last baseline says of its files stands.
3. A file that somebody changed in place is not seen so. dpkg's hook would not take it over anyhow,
   as it is no package's content (baseline/change.py); `policy learn` and `policy diff` read all.
4. Where diversions or overrides of modes changed, where the last whole survey is FULL_EVERY_S old,
   or where nobody remembers, everything is looked at.

What this leaves to others: the survey (survey.py); that the baseline which the folders were read
for is in place before them (daemon/baseline.py), or they would hide what it lacks.

    folders = Folders.load(data); usable(folders, database_stamps(paths), now_ns=now)

The file is sealed text: ``full NS``, a line for each file of dpkg's that counts, then a line for
each folder; fields are divided by NUL, which no path holds, and lines end with two.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from edgewarden.baseline.paths import Paths
from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass, field
from edgewarden.wire.lean import seal, unseal

FOLDERS_NAME = "baseline.folders"
MAGIC = b"EWFOLDR1"
MAX_FOLDERS = 200_000
"""Debian 12 with a desktop: 31,000."""
MAX_FOLDERS_BYTES = 64 << 20
STEADY = frozenset(("ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs"))
"""Whose folders move both times with every name, and keep one device number. btrfs shows another
device than the mount table; overlay's lower folders can change while it is not mounted."""
DATABASE_FILES = ("/var/lib/dpkg/diversions", "/var/lib/dpkg/statoverride")
"""What moves or changes files of packages that stay as they are."""
FULL_EVERY_S = 7 * 86_400
"""How long what is not seen by a folder's times may stay unseen by the hook."""

FolderStamp = tuple[int, int, int, int]
_END = "\0\0"


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder, as it was read.

    Attributes:
        stamp: device, inode, mtime, ctime.
        below: names of the folders in it.
        links: names of the symbolic links in it.
    """

    stamp: FolderStamp
    below: tuple[str, ...]
    links: tuple[str, ...]


@dataclass(slots=True)
class Folders:
    """See the module.

    Attributes:
        full_ns: wall clock of the last survey that looked at everything.
        database: stamps of DATABASE_FILES; () each for one that is not there.
        folders: by path.
    """

    full_ns: int = 0
    database: tuple[tuple[int, ...], ...] = ()
    folders: dict[str, Folder] = field(default_factory=dict)

    def dump(self) -> bytes:
        """The bytes of state/policy/baseline.folders; nothing of too many."""
        folders = self.folders if len(self.folders) <= MAX_FOLDERS else {}
        lines = [f"full {self.full_ns}"]
        lines += [" ".join(map(str, one)) for one in self.database]
        for path, one in folders.items():
            head = " ".join(map(str, one.stamp))
            names = (str(len(one.below)), *one.below, *one.links)
            lines.append("\0".join((path or "/", head, *names)))
        text = _END.join(lines) + _END
        return seal(MAGIC, text.encode("utf-8", "surrogateescape"))

    @staticmethod
    def load(data: bytes) -> Folders:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        body = unseal(MAGIC, data, most=MAX_FOLDERS_BYTES)
        lines = body.decode("utf-8", "surrogateescape").split(_END)
        try:
            if lines.pop() or not lines[0].startswith("full "):
                raise ValueError("no head, or its end is cut off")
            at = 1 + len(DATABASE_FILES)
            database = tuple(tuple(map(int, line.split())) for line in lines[1:at])
            return Folders(int(lines[0][5:]), database, dict(map(_folder, lines[at:])))
        except (ValueError, IndexError) as fault:
            raise WireRefusal("bad_value", f"the folders of the last survey: {fault}") from None


def _folder(line: str) -> tuple[str, Folder]:
    path, head, count, *names = line.split("\0")
    device, inode, mtime_ns, ctime_ns = map(int, head.split(" "))
    below = int(count)
    if not 0 <= below <= len(names):
        raise ValueError(f"{path!r} has {below} folders")
    stamp = device, inode, mtime_ns, ctime_ns
    return path if path != "/" else "", Folder(stamp, tuple(names[:below]), tuple(names[below:]))


def stamp_of(status: os.stat_result) -> FolderStamp:
    """What names a folder's list of names."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def database_stamps(paths: Paths) -> tuple[tuple[int, ...], ...]:
    """Those of DATABASE_FILES now."""
    found: list[tuple[int, ...]] = []
    for name in DATABASE_FILES:
        try:
            found.append(stamp_of(os.lstat(paths.real(name))))
        except OSError:
            found.append(())
    return tuple(found)


def steady_devices(mountinfo: str) -> frozenset[int]:
    """st_dev of the mounts whose folders' times can be relied on, of /proc/self/mountinfo."""
    found = set()
    for line in mountinfo.split("\n"):
        left, dash, right = line.partition(" - ")
        fields = left.split(" ")
        if dash and len(fields) >= 5 and right.split(" ")[0] in STEADY:
            major, _, minor = fields[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def usable(
    known: Folders | None, database: Iterable[tuple[int, ...]], *, now_ns: int
) -> Mapping[str, Folder]:
    """The folders that may be passed over where they are as they were; {} looks at everything."""
    if known is None or known.database != tuple(database):
        return {}
    return known.folders if abs(now_ns - known.full_ns) < FULL_EVERY_S * 10**9 else {}
