"""Digests of sets of files, computed alike on the gateway and from the release artefact.

A code manifest is the deterministic CBOR array of [path, SHA-256], sorted by path, of every file
below the package folder; path is POSIX and begins with ``edgewarden/``. Compiled files in
``__pycache__`` are left out: they are not in the artefact, and the gateway checks each against
its source instead (trust/measure.py). A ``.pyc`` anywhere else is measured: Python loads
``wire/cose/__init__.pyc`` in place of ``wire/cose.py`` and asks for no source.

    manifest_digest([("edgewarden/__init__.py", sha256)]) -> 32 bytes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edgewarden.wire import cbor


def is_measured(path: str) -> bool:
    """Does a file of the package folder belong into the manifest? path is POSIX, relative."""
    folder = path.rpartition("/")[0]
    return not (path.endswith(".pyc") and folder.rpartition("/")[2] == "__pycache__")


def manifest_digest(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA-256 of the manifest made of (path, SHA-256 of the content)."""
    return hashlib.sha256(cbor.encode([[p, d] for p, d in sorted(entries)])).digest()


def files_digest(contents: Iterable[bytes]) -> bytes:
    """SHA-256 over the SHA-256 of each file's content, in load order (settings, policies)."""
    return hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents)).digest()
