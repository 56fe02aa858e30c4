"""Self-measurement: digests of what this agent runs from.

A report by the thing measured: signed, it proves which device asserted it and that nobody changed
it on the way; it does not prove the kernel below told the truth (grade G0 says so,
docs/threat-model.md).

* ``code``: every file below the installed package that wire/manifest.py measures, and every link to
  a folder elsewhere, which Python would import from and no artefact has.
* bytecode: each ``.pyc`` that the interpreter would load in place of a source is compared with what
  that source compiles to (trust/bytecode.py).
* ``interpreter``, ``settings``, ``policy``, ``cmdline``: SHA-256 of the files; b"" when one cannot
  be read.

Blocks on the disk and the compiler: call it from an executor. A file already seen with the same
inode, size and times is not hashed or compiled again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgewarden.trust.bytecode import compiles_to
from edgewarden.wire.manifest import files_digest, is_measured, manifest_digest

MATCH = "match"
_PACKAGE = Path(__file__).resolve().parent.parent
_CHUNK_BYTES = 256 * 1024
_STAT_WORDS = 7
"""Of os.stat_result: mode, inode, device, links, owner, group, size."""
_PLAIN_MARSHAL = 2
"""The last version that spells equal values alike: later ones mark what is referred to twice."""

Identity = bytes
"""Digest of device, inode, size and times: what is remembered of some hundred files stays small."""


@dataclass
class Measurer:
    """Takes the measurements of one installed agent; remembers digests of unchanged files.

    Attributes:
        settings_files: in load order.
        policy_files: the policy sources gate's table was compiled from.
        package: the installed package folder.
    """

    settings_files: Sequence[Path]
    policy_files: Sequence[Path]
    package: Path = _PACKAGE
    cmdline: Path = Path("/proc/cmdline")
    _digests: dict[str, tuple[Identity, bytes]] = field(default_factory=dict)
    _whole: tuple[Identity, bytes, str] | None = None
    _compiled: dict[str, tuple[Identity, bool]] = field(default_factory=dict)

    def take(self) -> tuple[dict[str, bytes], str]:
        """Return (measurements by name, bytecode verdict)."""
        seen = self._tree()
        if self._whole is None or self._whole[0] != seen:
            self._whole = (seen, self._code(), self._bytecode())
        return self.last()

    @property
    def looked(self) -> bool:
        """Whether there was a ``take`` before."""
        return self._whole is not None

    def moved(self) -> bool:
        """Whether the package is another than at the last ``take``, and ``last`` is wrong."""
        return self._whole is None or self._whole[0] != self._tree()

    def last(self) -> tuple[dict[str, bytes], str]:
        """As ``take``, with code and byte code as they were then: worth what ``moved`` says."""
        assert self._whole is not None
        _, code, bytecode = self._whole
        return {
            "code": code,
            "interpreter": self._digest_of(Path(os.path.realpath(sys.executable))),
            "settings": self._set_digest(self.settings_files),
            "policy": self._set_digest(self.policy_files),
            "cmdline": self._digest_of(self.cmdline),
        }, bytecode

    def _tree(self) -> Identity:
        """Everything below the package that a measurement could turn on, by name, inode, size and
        times: while this is the same, so are code and byte code (1 ms in place of 20).

        It is most of what evidence costs a CPU, hence by descriptor (names of one part for the
        kernel to look up) and in the folder's own order: another order is looked at anew.
        """
        found: list[tuple[str | float, ...]] = []
        folders = [str(self.package)]
        while folders:
            folder = folders.pop()
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(fd) as entries:
                    for e in entries:
                        try:
                            s = e.stat()
                        except OSError:  # a link to nowhere
                            s = e.stat(follow_symlinks=False)
                        about = (*s[:_STAT_WORDS], s.st_mtime_ns, s.st_ctime_ns)
                        found.append((folder, e.name, e.is_symlink(), *about))
                        if e.is_dir(follow_symlinks=False):
                            folders.append(f"{folder}/{e.name}")
            finally:
                os.close(fd)
        return hashlib.sha256(marshal.dumps(found, _PLAIN_MARSHAL)).digest()

    def _code(self) -> bytes:
        entries = []
        for path, relative in self._walk():
            if is_measured(relative):
                entries.append((relative, self._digest_of(path)))
        return manifest_digest(entries)

    def _walk(self) -> Iterator[tuple[Path, str]]:
        root = self.package.parent
        for folder, folders, files in os.walk(self.package):
            folders.sort()
            linked = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in sorted(files + linked):
                path = Path(folder) / name
                relative = path.relative_to(root).as_posix()
                # A file name need not be UTF-8; a manifest is.
                yield path, relative.encode("utf-8", "backslashreplace").decode()

    def _digest_of(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = _digest(_words(status))
                known = self._digests.get(str(path))
                # Files of /proc have no times that move: never from memory.
                if known is not None and known[0] == identity and status.st_size:
                    return known[1]
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError:
            return b""
        self._digests[str(path)] = (identity, digest.digest())
        return digest.digest()

    def _set_digest(self, files: Sequence[Path]) -> bytes:
        if not files:
            return b""
        try:
            return files_digest(path.read_bytes() for path in files)
        except OSError:
            return b""

    def _bytecode(self) -> str:
        """ "match", or the first compiled file that is not what its source compiles to."""
        for path, relative in self._walk():
            if path.suffix != ".py":
                continue
            for level in ("", 1, 2):
                compiled = Path(importlib.util.cache_from_source(str(path), optimization=level))
                if not self._same(path, compiled, int(level or 0)):
                    return f"differs: {compiled.name} is not compiled from {relative}"[:512]
        return MATCH

    def _same(self, source: Path, compiled: Path, level: int) -> bool:
        try:
            seen = _digest(_words(source.stat()), _words(compiled.stat()))
        except OSError:
            return True  # no compiled file, nothing but the source can be loaded
        known = self._compiled.get(str(compiled))
        if known is not None and known[0] == seen:
            return known[1]
        verdict = compiles_to(source, compiled, level)
        self._compiled[str(compiled)] = (seen, verdict)
        return verdict


def _words(s: os.stat_result) -> str:
    return f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"


def _digest(*words: str) -> Identity:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()
