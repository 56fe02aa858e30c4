"""What a package may leave on a filesystem: nothing but what Debian itself writes down.

``look(root)`` is every path with its kind, mode, owner and content; ``since`` names what
was added, changed or taken away. ``DEBIANS`` are the places that any package's install and purge
touch; each has its writer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

DEBIANS = (
    "/var/log/*",  # apt, dpkg
    "/var/cache/*",  # apt, man-db
    "/var/lib/apt/*",
    "/var/lib/dpkg/*",
    "/var/lib/systemd/*",  # random seed, timers, deb-systemd-helper
    "/etc/*-",  # passwd- and its kind: the last version, kept by the shadow tools
    "/etc/.pwd.lock",
    "/root/*",  # where the tests put the package files
    "/etc/machine-id",
    "/etc/ld.so.cache",
    "/tmp/*",
    "/var/tmp/*",
)

KEPT = ("/root/*", "/var/log/*")
"""Where even our name may stand: the tests' package files, and logs, which are the machine's."""


def look(root: Path) -> dict[str, str]:
    """Path inside -> what stands there."""
    return dict(_entries(root))


def since(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What differs, one line each; empty when nothing does."""
    found = [f"new: {path}" for path in sorted(after.keys() - before.keys())]
    found += [f"gone: {path}" for path in sorted(before.keys() - after.keys())]
    found += [
        f"changed: {path}: {before[path]} -> {after[path]}"
        for path in sorted(before.keys() & after.keys())
        if before[path] != after[path]
    ]
    return found


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            inside = "/" + path.relative_to(root).as_posix()
            if not _excused(inside):
                yield inside, _describe(path)


def _excused(inside: str) -> bool:
    """Debian's own bookkeeping, unless it carries our name: a unit's state, a list of files."""
    patterns = KEPT if "edgewarden" in inside else DEBIANS
    return any(fnmatchcase(inside, pattern) for pattern in patterns)


def _describe(path: Path) -> str:
    entry = path.lstat()
    owner = f"{stat.filemode(entry.st_mode)} {entry.st_uid}:{entry.st_gid}"
    if stat.S_ISLNK(entry.st_mode):
        return f"{owner} -> {os.readlink(path)}"
    if stat.S_ISREG(entry.st_mode):
        return f"{owner} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return owner
