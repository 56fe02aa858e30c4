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
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgewarden.plain import dataclass, field
from edgewarden.trust.bytecode import compiles_to
from edgewarden.wire.manifest import files_digest, is_measured, manifest_digest

MATCH = "match"
_PACKAGE = Path(__file__).resolve().parent.parent
_CHUNK_BYTES = 256 * 1024
_PLAIN_MARSHAL = 2
"""The last version that spells equal values alike: later ones mark what is referred to twice."""
_PIECE = 24
"""Names that are asked after between two looks at whether a TPM has answered: 0.1 ms."""
_WORDS = 6
_NOWHERE = (0,) * _WORDS
"""Said of a link to nowhere: another link there is another change of its folder."""
SETTLED_NS = 2 * 10**9
"""Longer than the tick of any file system's times: 4 ms of Linux, 2 s of FAT."""

T = TypeVar("T")
Identity = bytes
"""Digest of device, inode, size and times: what is remembered of some hundred files stays small."""


class Look:
    """A look at the package, taken in pieces by whoever waits for something else.

    An iterator that raises nothing: a fault of the disk ends it, and is raised by ``moved``.
    """

    def __init__(self, pieces: Generator[None, None, Identity], last: Identity | None) -> None:
        self._pieces, self._last = pieces, last
        self._seen: Identity | None = None
        self._fault: OSError | None = None

    def __iter__(self) -> Look:
        return self

    def __next__(self) -> None:
        if self._seen is None and self._fault is None:
            try:
                return next(self._pieces)
            except StopIteration as end:
                self._seen = end.value
            except OSError as fault:
                self._fault = fault
        raise StopIteration

    def moved(self) -> bool:
        """Take what is left; whether the package is another than at the last ``take``."""
        for _ in self:
            continue
        if self._fault is not None:
            raise self._fault
        return self._last is None or self._seen != self._last


@dataclass
class Measurer:
    """Takes the measurements of one installed agent; remembers digests of unchanged files.

    Attributes:
        settings_files: in load order.
        policy_files: the policy sources gate's table was compiled from.
        package: the installed package folder.
        wall_ns: CLOCK_REALTIME, as the file systems' times; without it every look lists anew.
    """

    settings_files: Sequence[Path]
    policy_files: Sequence[Path]
    package: Path = _PACKAGE
    cmdline: Path = Path("/proc/cmdline")
    wall_ns: Callable[[], int] = int
    _digests: dict[str, tuple[Identity, bytes]] = field(default_factory=dict)
    _whole: tuple[Identity, bytes, str] | None = None
    _compiled: dict[str, tuple[Identity, bool]] = field(default_factory=dict)
    _names: str = ""

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

    def look(self) -> Look:
        """Whether the package is another than at the last ``take``, to be found out in pieces."""
        return Look(self._pieces(), self._whole[0] if self._whole is not None else None)

    def moved(self) -> bool:
        """The same at once; where it is, ``last`` is wrong."""
        return self.look().moved()

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
        return _end(self._pieces())

    def _pieces(self) -> Generator[None, None, Identity]:
        """Everything below the package that a measurement could turn on, by name, inode, size and
        times: while this is the same, so are code and byte code (2 ms in place of 20).

        It is most of what evidence costs a CPU. A name added or taken away changes its folder, so
        names that were listed once are asked after alone, half as dear as listing them, from the
        first listing on in which no folder moved and nothing was younger than SETTLED_NS: a change
        in the same tick of the clock as a listing leaves no mark on the folder.
        """
        if self._names:
            seen, _ = yield from _about(self.package, self._names)
            if self._whole is not None and seen == self._whole[0]:
                return seen
        began_ns, (names, changed) = self.wall_ns(), self._listed()
        seen, found = yield from _about(self.package, names)
        newest_ns = max(word for word in found[_WORDS::_WORDS] if isinstance(word, int))
        unmoved = all(_changed_ns(self.package / f) == ns for f, ns in changed.items())
        self._names = names if unmoved and newest_ns < began_ns - SETTLED_NS else ""
        return seen

    def _listed(self) -> tuple[str, dict[str, int]]:
        """(every name below the package, "." itself first, NUL between them; folder -> when it had
        changed last before it was listed)."""
        names, changed, folders = list[str](), dict[str, int](), ["."]
        while folders:
            folder = folders.pop()
            names.append(folder)
            changed[folder] = _changed_ns(self.package / folder)
            with os.scandir(self.package / folder) as entries:
                for e in entries:
                    below = folders if e.is_dir(follow_symlinks=False) else names
                    below.append(f"{folder}/{e.name}")
        return "\0".join(names), changed

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


def _about(package: Path, names: str) -> Generator[None, None, tuple[Identity, list[str | int]]]:
    """The names, below the package and with NUL between them, and what the kernel says of each:
    inode, device, mode, size, mtime, ctime; as a digest, and as one list."""
    found: list[str | int] = [names]
    stat, each = os.stat, names.split("\0")
    fd = os.open(package, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for at in range(0, len(each), _PIECE):
            yield
            for name in each[at : at + _PIECE]:
                try:
                    s = stat(name, dir_fd=fd)
                except OSError:
                    found += _NOWHERE
                    continue
                found += s.st_ino, s.st_dev, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns
    finally:
        os.close(fd)
    return hashlib.sha256(marshal.dumps(found, _PLAIN_MARSHAL)).digest(), found


def _end(pieces: Generator[None, None, T]) -> T:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            found: T = end.value
            return found


def _changed_ns(path: Path) -> int:
    return os.stat(path).st_ctime_ns


def _words(s: os.stat_result) -> str:
    return f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"


def _digest(*words: str) -> Identity:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()
