"""Reference values from the release artefact: the same digests a gateway measures, computed from a
wheel or a Debian package.

Never from a gateway: a reference taken from the thing that is measured affirms whatever stands
there. A wheel is a zip; a Debian package an ar archive whose data.tar is gzip or xz. The package
folder is the one that holds ``edgewarden/__init__.py``; its version is the ``__version__`` in it,
which is what the gateway reports.

Paths are those of wire/manifest.py: POSIX, beginning with ``edgewarden/``.
"""

from __future__ import annotations

import ast
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgewarden.errors import OperatorFault
from edgewarden.wire.manifest import is_measured, manifest_digest

PACKAGE = "edgewarden"
MAX_ARTEFACT_BYTES = 256 * 1024 * 1024
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Our largest file is a table of text; a bomb is not a release."""
_AR_MAGIC = b"!<arch>\n"


@dataclass(frozen=True, slots=True)
class Code:
    """What one artefact says about the agent's code.

    Attributes:
        version: as the agent built from it reports.
        files: path -> SHA-256, everything that is measured.
    """

    version: str
    files: Mapping[str, bytes]

    def digest(self) -> bytes:
        """The code measurement of a gateway that runs exactly this."""
        return manifest_digest(self.files.items())


def read_code(path: Path) -> Code:
    """Compute the reference of a wheel or Debian package.

    Raises:
        OperatorFault: EW-ATT-020 when it is neither, or holds no agent.
    """
    try:
        if path.stat().st_size > MAX_ARTEFACT_BYTES:
            raise _no(path, "it is too large")
        data = path.read_bytes()
        contents = _wheel(data) if data[:2] == b"PK" else _debian(path, data)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError) as fault:
        raise _no(path, str(fault)) from fault
    marker = f"{PACKAGE}/__init__.py"
    found = sorted((p for p in contents if f"/{p}".endswith(f"/{marker}")), key=len)
    if not found:
        raise _no(path, f"it holds no {marker}")
    root = found[0].removesuffix(marker)
    files = {
        name.removeprefix(root): hashlib.sha256(content).digest()
        for name, content in contents.items()
        if name.startswith(f"{root}{PACKAGE}/") and is_measured(name)
    }
    return Code(_version(path, contents[found[0]]), files)


def _wheel(data: bytes) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.file_size > MAX_FILE_BYTES:
                raise zipfile.BadZipFile(f"{info.filename} is too large")
            out[info.filename] = archive.read(info)
    return out


def _debian(path: Path, data: bytes) -> dict[str, bytes]:
    if not data.startswith(_AR_MAGIC):
        raise _no(path, "it is neither a wheel nor a Debian package")
    out: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(_data_tar(path, data)), mode="r:*") as archive:
        for member in archive:
            if not member.isreg() or f"/{PACKAGE}/" not in f"/{member.name}":
                continue
            if member.size > MAX_FILE_BYTES:
                raise tarfile.TarError(f"{member.name} is too large")
            file = archive.extractfile(member)
            assert file is not None
            out[str(PurePosixPath(member.name))] = file.read()
    return out


def _data_tar(path: Path, data: bytes) -> bytes:
    """The data member of an ar archive (deb(5))."""
    at = len(_AR_MAGIC)
    while at + 60 <= len(data):
        name = data[at : at + 16].decode("ascii", "replace").strip().rstrip("/")
        size_text = data[at + 48 : at + 58].decode("ascii", "replace").strip()
        if not size_text.isdigit():
            break
        size, at = int(size_text), at + 60
        if name in ("data.tar", "data.tar.gz", "data.tar.xz"):
            return data[at : at + size]
        if name.startswith("data.tar"):
            raise _no(path, f"{name} is packed in a way this Python cannot read; build it with xz")
        at += size + size % 2
    raise _no(path, "it has no data.tar")


def _version(path: Path, source: bytes) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as fault:
        raise _no(path, "its __init__.py cannot be read") from fault
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            if names == ["__version__"] and isinstance(node.value.value, str):
                return node.value.value
    raise _no(path, "its __init__.py states no __version__")


def _no(path: Path, why: str) -> OperatorFault:
    return OperatorFault(
        f"{path.name}: {why}",
        code="EW-ATT-020",
        next_step="give the wheel or Debian package exactly as released",
    )
