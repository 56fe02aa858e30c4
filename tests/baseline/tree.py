"""A small system on the disk: merged /usr, a recorded dpkg database, files as the test wants."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from edgewarden.baseline.packages import Packages, read_packages
from edgewarden.baseline.paths import Paths

RECORDED = Path(__file__).parents[1] / "vectors" / "dpkg"
DATABASE = "/var/lib/dpkg"


def system(root: Path, record: str = "bookworm") -> Path:
    """The folder, with links as Debian has them and the database in place."""
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    shutil.copytree(RECORDED / record, root / "var/lib/dpkg")
    return root


def packages(root: Path, barred: frozenset[str] = frozenset()) -> Packages:
    return read_packages(Paths(str(root), barred), DATABASE)


def elf(
    kind: int = 3, interp: bool = True, bits: int = 64, order: str = "<", tail: bytes = b""
) -> bytes:
    """The head of an ELF file: type 2 = fixed, 3 = position independent; PT_INTERP or none."""
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    size = 64 if bits == 64 else 52
    form = "HHIQQQIHHH" if bits == 64 else "HHIIIIIHHH"
    entry = 56 if bits == 64 else 32
    head = ident + struct.pack(order + form, kind, 62, 1, 0, size, 0, 0, size, entry, 2)
    head = head.ljust(size, b"\0")
    for p_type in (6, 3 if interp else 2):  # PT_PHDR, then PT_INTERP or PT_DYNAMIC
        head += struct.pack(order + "I", p_type).ljust(entry, b"\0")
    return head + tail


def put(root: Path, path: str, data: bytes, mode: int = 0o755) -> Path:
    """A file of the system."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode)
    return file
