"""A filesystem of a test's own: an ext4 image in a file, mounted over a loop device, gone
afterwards.

A power cut is a copy of the image while nobody writes: what the block layer was given is in it,
what was only in the page cache above the filesystem is not. The copy counts only if the loop
device wrote nothing while it was made.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

QUIET_TRIES = 40


class LoopFs:
    """A mounted image.

    Attributes:
        image: the backing file.
        root: where it is mounted.
    """

    def __init__(self, image: Path, root: Path) -> None:
        self.image = image
        self.root = root
        device = _run("findmnt", "-n", "-o", "SOURCE", str(root)).strip()
        self._stat = Path("/sys/block") / Path(device).name / "stat"

    def stop_itself(self) -> None:
        """What a filesystem does that meets an error of its own: nothing is written any more, by
        whoever has a file open too, and no remount brings that back (Documentation/ABI, ext4).
        """
        device = self._stat.parent.name
        _run("mount", "-o", "remount,errors=remount-ro", str(self.root))
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def unmount(self) -> None:
        """Take it away; fails while a file on it is open."""
        _run("umount", str(self.root))

    def mount(self) -> None:
        """Bring it back, checked as a boot would."""
        subprocess.run(["e2fsck", "-fp", str(self.image)], capture_output=True, check=False)
        _run("mount", "-o", "loop", str(self.image), str(self.root))
        device = _run("findmnt", "-n", "-o", "SOURCE", str(self.root)).strip()
        self._stat = Path("/sys/block") / Path(device).name / "stat"

    def remount(self, options: str) -> None:
        """Change its options in place."""
        _run("mount", "-o", f"remount,{options}", str(self.root))

    def copy(self, target: Path) -> None:
        """Copy the image as a power cut would leave it; whoever writes must be stopped."""
        for _ in range(QUIET_TRIES):
            before = self._writes()
            _run("cp", "--sparse=always", str(self.image), str(target))
            if self._writes() == before:
                return
        raise AssertionError("the loop device never was quiet")

    def _writes(self) -> tuple[str, str]:
        """(writes completed, requests in flight), Documentation/block/stat.rst."""
        fields = self._stat.read_text().split()
        return fields[4], fields[8]

    def free_bytes(self) -> int:
        """What an unprivileged writer could still write."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def made(folder: Path, size_mb: int) -> Iterator[LoopFs]:
    """Make, mount and, whatever happens, unmount an image."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    # No background initialisation: the device must be able to become quiet.
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", lazy, str(image))
    with mounted(image, folder / "root") as fs:
        yield fs


@contextlib.contextmanager
def mounted(image: Path, root: Path) -> Iterator[LoopFs]:
    """Mount an existing image; replays its journal."""
    root.mkdir(parents=True, exist_ok=True)
    _run("mount", "-o", "loop", str(image), str(root))
    try:
        assert root.stat().st_dev != root.parent.stat().st_dev
        yield LoopFs(image, root)
    finally:
        if root.is_mount():
            _run("umount", str(root))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
