"""A filesystem of a test's own: an ext4 image in a file, mounted over a loop device, gone
afterwards.

A power cut is a copy of the image while nobody writes: what the block layer was given is in it,
what was only in the page cache above the filesystem is not. The copy counts only if the loop
device wrote nothing while it was made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tests.waiting import wait_until

QUIET_TRIES = 40

# <linux/loop.h>: struct loop_info64, of which lo_sizelimit is the fifth field.
LOOP_SET_STATUS64, LOOP_GET_STATUS64 = 0x4C04, 0x4C05
LOOP_INFO64 = struct.Struct("=5Q4I64s64s32s2Q")
LO_SIZELIMIT = 4
HOG_BYTES = 1 << 16
KEPT_BYTES = 4096
"""Of a disk that is cut short: the superblock."""


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
        """Take it away; fails while a file on it is kept open. A running link looks at its disk now
        and then, for a moment that may be this one."""
        wait_until(self._let_go)

    def _let_go(self) -> bool:
        done = subprocess.run(["umount", str(self.root)], capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        return done.returncode == 0

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


class ErringFs(LoopFs):
    """An image over two loop devices, of which the lower one can be cut short.

    The filesystem's own device keeps its length and answers with EIO, reads and writes alike, as
    that of a card does that is not there any more; what was on it stays. (Cutting the filesystem's
    own device short is not the same: ext4 then meets ENOMEM where it looks for a block behind the
    end, and tries again for ever, in the kernel.)
    """

    def __init__(self, image: Path, root: Path, devices: list[str], made_mb: int) -> None:
        self._lower, self._upper = devices
        self._made_mb = made_mb
        super().__init__(image, root)

    def answer_with_errors(self) -> None:
        """From here on nothing can be read or written but what is in the page cache, and of that
        is dropped what nobody has open."""
        self._cut_behind(KEPT_BYTES)

    def _fill(self, path: Path) -> None:
        """Until no block is left, those that ext4 keeps for itself included."""
        kept = Path(f"/sys/fs/ext4/{Path(self._upper).name}/reserved_clusters")
        kept.write_text("0")
        with path.open("xb", buffering=0) as file:
            for size in (HOG_BYTES, 1024):
                with contextlib.suppress(OSError):
                    while True:
                        _put(file, bytes(size))

    def answer_again(self) -> None:
        """The device answers again, and nobody was told."""
        self._cut(0)

    def heal(self) -> None:
        """The device answers again, and the filesystem is checked and mounted anew: after an error
        it trusts its own picture no more. Fails while a file on it is open."""
        self.answer_again()
        self.unmount()
        self.mount()

    def spoil(self, path: Path, kept_bytes: int) -> None:
        """Sectors under one file, behind its first bytes, can be read no more; all else can.

        The rest of the file is put where nothing else lies, behind the end that the filesystem had
        before it grew over all of the device; then that part is cut off.
        """
        data = path.read_bytes()
        moved, hog = path.with_suffix(".moved"), self.root / "hog"
        with moved.open("xb") as out:
            _put(out, data[:kept_bytes])
        self._fill(hog)
        self.unmount()
        subprocess.run(["e2fsck", "-fp", self._upper], capture_output=True, check=False)
        _run("resize2fs", self._upper)
        self.mount()
        with moved.open("ab") as out:
            _put(out, data[kept_bytes:])
        moved.rename(path)
        self._fill(self.root / "rest")  # nobody shall write there
        hog.unlink()
        self._cut_behind(self._made_mb << 20)
        with path.open("rb") as file:
            assert file.read(kept_bytes // 2) == data[: kept_bytes // 2]
            file.seek(len(data) - 1)
            refused = 0
            try:
                file.read(1)
            except OSError as fault:
                refused = fault.errno or 0
        assert refused == errno.EIO, f"{path} can still be read"

    def mount(self) -> None:
        """Bring it back, checked as a boot would."""
        subprocess.run(["e2fsck", "-fp", self._upper], capture_output=True, check=False)
        _run("mount", self._upper, str(self.root))

    def _cut_behind(self, size_bytes: int) -> None:
        os.sync()
        self._cut(size_bytes)
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")

    def _cut(self, size_bytes: int) -> None:
        """Set the lower device's lo_sizelimit; 0 has none."""
        fd = os.open(self._lower, os.O_RDONLY | os.O_CLOEXEC)
        try:
            info = bytearray(LOOP_INFO64.size)
            fcntl.ioctl(fd, LOOP_GET_STATUS64, info)
            fields = list(LOOP_INFO64.unpack(info))
            fields[LO_SIZELIMIT] = size_bytes
            wait_until(lambda: _accepted(fd, LOOP_INFO64.pack(*fields)))
        finally:
            os.close(fd)


@contextlib.contextmanager
def erring(
    folder: Path, size_mb: int, features: str = "has_journal", made_mb: int = 0
) -> Iterator[ErringFs]:
    """As ``made``, of a disk that can answer with errors.

    Args:
        features: of the ext4, as mkfs -O takes them.
        made_mb: how much of the device the filesystem takes, for ``spoil``; 0 is all.
    """
    image, root = _image(folder, size_mb, features, made_mb or size_mb), folder / "root"
    root.mkdir()
    with contextlib.ExitStack() as cleanup:
        devices = []
        for backing in (str(image), None):
            device = _run("losetup", "--find", "--show", backing or devices[0]).strip()
            cleanup.callback(_run, "losetup", "--detach", device)
            devices.append(device)
        _run("mount", devices[1], str(root))
        cleanup.callback(lambda: _run("umount", str(root)) if root.is_mount() else None)
        fs = ErringFs(image, root, devices, made_mb or size_mb)
        cleanup.callback(fs._cut, 0)
        yield fs


def _accepted(fd: int, info: bytes) -> bool:
    """Set a loop device's status; the kernel asks to try again (EAGAIN) where somebody wrote in
    the same moment."""
    try:
        fcntl.ioctl(fd, LOOP_SET_STATUS64, info)
    except BlockingIOError:
        return False
    return True


def _put(file: BinaryIO | io.FileIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _image(folder: Path, size_mb: int, features: str, made_mb: int) -> Path:
    """An ext4 in a file, without background initialisation: the device must become quiet."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    # Blocks as on a card, whatever the size: mkfs gives small ones 1 kB.
    how = ("-q", "-F", "-b", "4096", "-m", "0", "-O", features, "-E", lazy)
    _run("mkfs.ext4", *how, str(image), f"{made_mb}M")
    return image


@contextlib.contextmanager
def made(folder: Path, size_mb: int) -> Iterator[LoopFs]:
    """Make, mount and, whatever happens, unmount an image."""
    with mounted(_image(folder, size_mb, "has_journal", size_mb), folder / "root") as fs:
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
