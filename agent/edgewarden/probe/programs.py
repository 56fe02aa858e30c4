"""What has to be executable for a program to start: the program, its interpreters, its loader, and
where its libraries lie.

A script needs the program behind ``#!``; an ELF program needs the loader that its PT_INTERP names,
and the folder of that loader is where Debian keeps the libraries (multiarch). Python besides keeps
compiled modules below /usr/lib/python3*. Files are read under ``root``: ``/``, or a recorded tree.

    needs("/usr/sbin/mosquitto").programs
    # ("/usr/sbin/mosquitto", "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1")
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from edgewarden.plain import dataclass

DEPTH = 4
"""Scripts that name scripts; the kernel follows five (fs/exec.c, search_binary_handler)."""
HEAD_BYTES = 4096
PT_INTERP = 3  # <elf.h>
SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""Where systemd and ``env`` look for a program without a path."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Paths without links.

    Attributes:
        programs: in the order they are needed; empty when the first is not there.
        libraries: folders.
        loader: of the last of them, "" for a static program.
    """

    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    loader: str = ""


def needs(path: str, root: Path = Path("/")) -> Needs:
    """What a program needs; programs is empty when it is not there or not a regular file."""
    programs: list[str] = []
    libraries: list[str] = []
    loader = ""
    wanted = [path]
    while wanted and len(programs) < 2 * DEPTH:
        real = resolve(wanted.pop(0), root)
        if not real or real in programs:
            continue
        programs.append(real)
        head = _head(real, root)
        if head.startswith(b"\x7fELF"):
            found = resolve(interpreter(head), root)
            if found:  # the loader itself names none
                loader = found
                wanted.append(loader)
                libraries.append(os.path.dirname(loader))
        elif head.startswith(b"#!"):
            wanted += _behind(head, root)
        if os.path.basename(real).startswith("python3"):
            libraries += _python(root)
    return Needs(tuple(programs), tuple(dict.fromkeys(libraries)), loader)


def resolve(path: str, root: Path = Path("/")) -> str:
    """The path without links, as seen from root; "" when no regular file is there."""
    if not path.startswith("/"):
        path = next((f"{d}/{path}" for d in SEARCHED if _inside(f"{d}/{path}", root).exists()), "")
    if not path:
        return ""
    where = _inside(path, root)
    try:
        if not stat.S_ISREG(where.stat().st_mode):
            return ""
    except OSError:
        return ""
    return "/" + where.relative_to(root.resolve()).as_posix()


def interpreter(head: bytes) -> str:
    """PT_INTERP of an ELF image's first bytes; "" where there is none."""
    wide, order = head[4:5] == b"\x02", "<" if head[5:6] == b"\x01" else ">"
    try:
        if wide:
            (offset,) = struct.unpack_from(f"{order}Q", head, 32)
            size, count = struct.unpack_from(f"{order}HH", head, 54)
        else:
            (offset,) = struct.unpack_from(f"{order}I", head, 28)
            size, count = struct.unpack_from(f"{order}HH", head, 42)
        for index in range(min(count, 64)):
            at = offset + index * size
            (kind,) = struct.unpack_from(f"{order}I", head, at)
            if kind != PT_INTERP:
                continue
            if wide:
                start, length = struct.unpack_from(f"{order}Q16xQ", head, at + 8)
            else:
                start, length = struct.unpack_from(f"{order}I8xI", head, at + 4)
            return head[start : start + length].rstrip(b"\0").decode("utf-8", "replace")
    except struct.error:
        pass
    return ""


def loose(paths: tuple[str, ...], root: Path = Path("/")) -> tuple[str, ...]:
    """Those that others than root may write."""
    found = []
    for path in paths:
        try:
            entry = _inside(path, root).stat()
        except OSError:
            continue
        if entry.st_uid != 0 or entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            found.append(path)
    return tuple(found)


def _behind(head: bytes, root: Path) -> list[str]:
    """What a script's first line names; with env, both env and the program it looks for."""
    words = head.split(b"\n", 1)[0][2:].decode("utf-8", "replace").split()
    if not words:
        return []
    found = [words[0]]
    if os.path.basename(words[0]) == "env":
        found += [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1]
    return found


def _python(root: Path) -> list[str]:
    lib = root / "usr/lib"
    return [f"/usr/lib/{p.name}" for p in sorted(lib.glob("python3*")) if p.is_dir()]


def _head(path: str, root: Path) -> bytes:
    try:
        with _inside(path, root).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _inside(path: str, root: Path) -> Path:
    """A path of the tree, its links followed inside the tree."""
    top = root.resolve()
    at = top
    waiting = [part for part in path.split("/") if part]
    for _ in range(256):
        if not waiting:
            break
        part = waiting.pop(0)
        if part == "..":
            at = at.parent if at != top else top
            continue
        at = at / part
        if at.is_symlink():
            target = os.readlink(at)
            at = top if target.startswith("/") else at.parent
            waiting = [p for p in target.split("/") if p and p != "."] + waiting
    return at
