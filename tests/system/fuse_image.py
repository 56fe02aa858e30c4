"""A filesystem in user space with one program on it, whose server stops answering questions.

    fuse_image.py WHERE IMAGE     # prints "mounted"; after SIGUSR1 "silent"

It serves ``WHERE/dash`` with the content of IMAGE, told to be valid for no time, so that a stat(2)
asks again each time. The mount ends with the process (umount -l takes the name away), and that ends
after LIFE_S: who waits for it waits no longer. Field layouts are those of <linux/fuse.h>.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from pathlib import Path

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR = (
    1, 2, 3, 14, 15, 18, 25, 26, 27, 29,
)  # fmt: skip
ACCESS, BATCH_FORGET = 34, 42
ENOSYS = 38
LIFE_S = 120
ROOT, IMAGE = 1, 2
NAME_VALID_S = 3600
REQUEST_BYTES = 1 << 18


def attributes(inode: int, size_bytes: int) -> bytes:
    folder = inode == ROOT
    size, mode = (0, 0o40755) if folder else (size_bytes, 0o100755)
    blocks = (size + 511) // 512
    return struct.pack("<6Q10I", inode, size, blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation: int, node: int, body: bytes, content: bytes) -> bytes | int:
    """The body of the answer, or an errno."""
    if operation == INIT:
        return struct.pack("<4I2H2I2H32x", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0)
    if operation == LOOKUP:
        entry = struct.pack("<4Q2I", IMAGE, 0, NAME_VALID_S, 0, 0, 0)
        return entry + attributes(IMAGE, len(content))
    if operation == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node, len(content))
    if operation in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 1, 0, 0)
    if operation == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return content[offset : offset + size]
    return b"" if operation in (RELEASE, FLUSH, RELEASEDIR, ACCESS) else ENOSYS


def main(where: str, image: str) -> int:
    content = Path(image).read_bytes()
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"ew-image", where.encode(), b"fuse", 0, options):
        return 1
    signal.alarm(LIFE_S)
    silent: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: (silent.append(number), say("silent")))
    say("mounted")
    while True:
        request = os.read(fd, REQUEST_BYTES)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation in (FORGET, BATCH_FORGET) or (silent and operation == GETATTR):
            continue
        made = answer(operation, node, request[40:], content)
        error, body = (-made, b"") if isinstance(made, int) else (0, made)
        os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def say(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
