"""Runs inside a service: everything that whoever has taken it over would try, and what came of it.

Prints one JSON object. The service's own folder is the place where things are dropped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(sys.argv[1])
LIBC = next(Path("/usr/lib").glob("*-linux-gnu/libc.so.6"))
LOADER = next(LIBC.parent.glob("ld-linux*.so.*"))
MAPS = 'while read -r line; do echo "$line"; done </proc/self/maps'
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000  # <linux/sched.h>
MFD_EXEC = 0x10  # <linux/memfd.h>


def attempt(body: Callable[[], object]) -> str:
    try:
        said = body()
    except OSError as fault:
        return errno.errorcode.get(fault.errno or 0, str(fault))
    return "ran" if said is None else str(said)


def start(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip() or f"exit {done.returncode}"


def drop(name: str, image: bytes) -> str:
    path = HERE / name
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(image)
    path.chmod(0o755)
    return str(path)


def map_as_code() -> None:
    with open(program, "rb") as file:
        mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def memory_file() -> str:
    for flags in (MFD_EXEC, 0):
        with contextlib.suppress(OSError):
            fd = os.memfd_create("x", flags)
            break
    else:
        raise OSError(errno.EPERM, "memfd_create")
    os.write(fd, Path("/usr/bin/true").read_bytes())
    done = subprocess.run([f"/proc/{os.getpid()}/fd/{fd}"], check=False, pass_fds=[fd])
    return f"exit {done.returncode}"


def own_mount() -> str:
    """What `unshare -rm` does: a fresh tmpfs without noexec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return "made"


def forked(body: Callable[[], str]) -> str:
    """In a child of ours: its namespaces are nobody else's."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, attempt(body).encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 100).decode()
    os.waitpid(pid, 0)
    return said


def connect() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", ("127.0.0.1", 9))
    return "sent"


program = drop("program", Path("/usr/bin/true").read_bytes())
script = drop("script", b"#!/bin/sh\necho script ran\n")
library = drop("evil.so", LIBC.read_bytes())
shutil.copy(LIBC.parent / "libz.so.1", library)
preloaded = [line.split() for line in start("/bin/sh", "-c", MAPS, LD_PRELOAD=library).splitlines()]
as_code = [words for words in preloaded if "evil.so" in words[-1] and "x" in words[1]]
said = {
    "dropped program": attempt(lambda: start(program)),
    "dropped script": attempt(lambda: start(script)),
    "mapped as code": attempt(map_as_code),
    "by the loader": attempt(lambda: start(str(LOADER), program)),
    "preloaded": "mapped" if as_code else "no",
    "another program": attempt(lambda: start("/usr/bin/cat", "/dev/null")),
    "memory file": attempt(memory_file),
    "own mount": forked(own_mount),
    "sent": attempt(connect),
    "sh script": attempt(lambda: start("/bin/sh", script)),
    "inline code": attempt(lambda: start(sys.executable, "-c", "print('inline ran')")),
}
(HERE / "said.json").write_text(json.dumps(said))
