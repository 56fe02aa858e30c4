"""Where each byte of wear_worker.py goes: writes of a loop device, by who owns the block.

    python -m tests.bench.wear_where {ours|dense|bare|idle} COMMITS PAYLOAD_BYTES

On an ext4 of its own with blocks of 4 kB. The kernel tells of each write (block:block_rq_issue, an
instance of tracefs of our own); whose block it was is looked up before and after each commit. What
is printed, in bytes a commit, adds up to the device's own counter. Needs root.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench import wear_worker
from tests.system import loopfs

FS_IOC_FIEMAP = 0xC020660B
BLOCK_BYTES = 4096
EXTENTS_AT_MOST = 64
DISK_MB = 96
KINDS = {"-wal": "log", "-shm": "index of the log", ".seg": "segment", "heads": "heads"}
WRITE = re.compile(rb"block_rq_issue: \d+,\d+ \w*W\w* \d+ \(.*?\) (\d+) \+ (\d+)")


def extents(path: Path) -> list[range]:
    """Blocks of a file on the device."""
    head = struct.pack("=QQIIII", 0, 1 << 62, 0, 0, EXTENTS_AT_MOST, 0)
    data = array.array("B", head + bytes(56 * EXTENTS_AT_MOST))
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_FIEMAP, data)
    finally:
        os.close(fd)
    (count,) = struct.unpack_from("=I", data, 20)
    found = [struct.unpack_from("=QQQ", data, 32 + 56 * i)[1:] for i in range(count)]
    return [range(at // BLOCK_BYTES, (at + size) // BLOCK_BYTES) for at, size in found if at]


def metadata(image: Path) -> dict[int, str]:
    """Block -> what of ext4 it is."""

    def told(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    owner = dict.fromkeys(range(16), "superblock, groups")
    places = r"(Block bitmap|Inode bitmap|Inode table) at (\d+)(?:-(\d+))?"
    for name, first, last in re.findall(places, told("dumpe2fs", str(image))):
        kind = "inodes" if name == "Inode table" else "bitmaps"
        owner |= dict.fromkeys(range(int(first), int(last or first) + 1), kind)
    spans = re.findall(
        r"\s(\d+) -\s+(\d+)\s+\d+\s*$", told("debugfs", "-R", "ex <8>", str(image)), re.MULTILINE
    )
    for first, last in spans:
        owner |= dict.fromkeys(range(int(first), int(last) + 1), "journal of ext4")
    return owner


class Watching(wear_worker.Device):
    """The device, and whose block each write was."""

    def __init__(self, folder: Path, image: Path, trace: Path) -> None:
        super().__init__(folder)
        self.bytes: Counter[str] = Counter()
        self._owner, self._begun, self._place = metadata(image), False, folder
        number = folder.stat().st_dev
        event = trace / "events/block/block_rq_issue"
        # Of the kernel's own form of a device's number (MINORBITS).
        event.joinpath("filter").write_text(f"dev == {os.major(number) << 20 | os.minor(number)}")
        event.joinpath("enable").write_text("1")
        self._pipe = os.open(trace / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)

    def let_pass(self, n: int) -> None:
        """See Device."""
        self._drain()
        super().let_pass(n)
        self._drain()

    def written_bytes(self) -> int:
        """See Device; the first call begins the count."""
        found = super().written_bytes()
        self._drain()
        if not self._begun:
            self._begun = True
            self.bytes.clear()
        return found

    def close(self) -> None:
        """Let go of both."""
        os.close(self._pipe)
        os.close(self._fd)

    def _drain(self) -> None:
        for path in self._place.rglob("*"):
            kind = next((k for end, k in KINDS.items() if path.name.endswith(end)), "other files")
            for blocks in extents(path):
                self._owner |= dict.fromkeys(blocks, "folders" if path.is_dir() else kind)
        text = b""
        try:
            while more := os.read(self._pipe, 1 << 16):
                text += more
        except BlockingIOError:
            pass
        for first, sectors in WRITE.findall(text):
            for sector in range(int(first), int(first) + int(sectors), BLOCK_BYTES // 512):
                owner = self._owner.get(sector * 512 // BLOCK_BYTES, "unknown")
                self.bytes[owner] += BLOCK_BYTES


def main(kind: str, commits: int, size_bytes: int) -> None:
    """Work and tell."""
    with tempfile.TemporaryDirectory(prefix="ew-where-") as name:
        root = Path(name, "trace")
        root.mkdir()
        subprocess.run(["mount", "-t", "tracefs", "ew-where", str(root)], check=True)
        trace = root / "instances" / f"ew-{os.getpid()}"
        trace.mkdir()
        try:
            with loopfs.made(Path(name, "disk"), DISK_MB) as disk:
                place = disk.root / "work"
                place.mkdir()
                device = Watching(place, disk.image, trace)
                try:
                    given, spent = wear_worker.KINDS[kind](place, commits, size_bytes, device)
                finally:
                    device.close()
        finally:
            trace.rmdir()
            subprocess.run(["umount", str(root)], check=True)
    told = {owner: round(n / commits) for owner, n in device.bytes.most_common()}
    whole = {"device": round(spent / commits), "payload": round(given / commits)}
    print(json.dumps(whole | {"x": round(spent / given, 3)} | told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
