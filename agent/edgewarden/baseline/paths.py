"""The one path of a file: every symbolic link followed, nothing touched that could hang.

What this decides: a path without links for a path with some, looked up part by part, so that
``/bin/ls`` and ``/usr/bin/ls`` are one file on a system with merged /usr; and which mount points
are barred. A filesystem behind a network or a fuse server is never asked for anything: a server
that hangs would hang us. Pseudo filesystems hold no programs.

What it leaves to others: the files themselves (survey.py).

    paths = Paths("/", barred_mounts(mountinfo))
    paths.resolve("/bin/ls") == "/usr/bin/ls"
"""

from __future__ import annotations

import os
import re
import stat

MAX_HOPS = 40
"""Symbolic links the kernel follows in one path (path_resolution(7))."""
MAX_PARTS = 128
"""Folders in a path: ten times what packages have; beyond it a path is looked at as not there."""

STORES = frozenset(
    (
        "ext2", "ext3", "ext4", "btrfs", "xfs", "f2fs", "jfs", "zfs", "bcachefs", "ubifs", "jffs2",
        "overlay", "squashfs", "erofs", "tmpfs", "ramfs", "rootfs", "vfat", "exfat", "iso9660",
        "udf", "nilfs2", "reiserfs", "ntfs3", "aufs",
    )
)  # fmt: skip
"""Filesystems that programs are kept on and that answer by themselves. A list of what may be read,
not of what may not: a kind nobody thought of is barred."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def barred_mounts(mountinfo: str) -> frozenset[str]:
    """Mount points that are not to be entered, of the text of /proc/self/mountinfo (proc(5)).

    Of mounts on top of each other the last line counts. fuseblk is local (ntfs-3g) and served by a
    program all the same: barred.
    """
    kinds: dict[str, str] = {}
    for line in mountinfo.split("\n"):
        left, dash, right = line.partition(" - ")
        fields = left.split(" ")
        if dash and len(fields) >= 5:
            point = _OCTAL.sub(lambda m: chr(int(m[1], 8)), fields[4])
            kinds[point] = right.split(" ")[0]
    return frozenset(point for point, kind in kinds.items() if kind not in STORES)


class Paths:
    """Paths below a root folder, with what was found kept: one look at each folder.

    Args:
        root: "/" or the folder that holds a recorded tree; links in it are followed inside it.
        barred: mount points below the root that nothing is asked of.
    """

    def __init__(self, root: str, barred: frozenset[str] = frozenset()) -> None:
        self.root = "" if root == "/" else root.rstrip("/")
        self.barred_points = barred
        self._folders: dict[str, str | None] = {"": ""}
        self.links: dict[str, str] = {}

    def real(self, path: str) -> str:
        """Where the file is on this disk."""
        return self.root + path

    def barred(self, path: str) -> bool:
        """Whether the path is a mount point that is not to be entered."""
        return path in self.barred_points

    def resolve(self, path: str) -> str | None:
        """The path without links; None when it is not there, barred, or links without end."""
        folder, _, name = path.rpartition("/")
        return self._step(folder, name, MAX_HOPS) if path.count("/") <= MAX_PARTS else None

    def file(self, path: str) -> str | None:
        """As ``resolve``, for the folder alone: the last part may be a link or absent."""
        folder, _, name = path.rpartition("/")
        found = self._folder(folder, MAX_HOPS) if path.count("/") <= MAX_PARTS else None
        return None if found is None else f"{found}/{name}"

    def _folder(self, path: str, hops: int) -> str | None:
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            self._folders[path] = self._step(above, name, hops)
        return self._folders[path]

    def _step(self, folder: str, name: str, hops: int) -> str | None:
        above = self._folder(folder, hops)
        if above is None or hops <= 0 or name in ("", ".", ".."):
            return None
        here = f"{above}/{name}"
        if here in self.barred_points:
            return None
        try:
            mode = os.lstat(self.real(here)).st_mode
            if not stat.S_ISLNK(mode):
                return here
            target = os.readlink(self.real(here))
        except (OSError, ValueError):
            return None
        found = self._follow(above, target, hops - 1)
        if found is not None:
            self.links[here] = found
        return found

    def _follow(self, folder: str, target: str, hops: int) -> str | None:
        """Where a link in ``folder`` leads: "" for the root itself."""
        parts = [] if target.startswith("/") else folder.split("/")[1:]
        for part in target.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                found = self._step("".join(f"/{p}" for p in parts), part, hops)
                if found is None:
                    return None
                parts = found.split("/")[1:]
        return "".join(f"/{part}" for part in parts)
