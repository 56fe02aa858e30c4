"""The baseline: which content every program of this system has, and which package brought it.

What this decides: the text of state/policy/baseline. One line says what it is and how much follows,
then aliases (a symbolic link, to a folder or to a file below), then files, each part ascending by
path, none twice, so that two baselines differ in just the lines that changed:

    edgewarden-baseline/1 files=2 aliases=1
    alias /bin /usr/bin
    9f86... 151376 program coreutils /usr/bin/ls
    60a0... 18744 script - /usr/local/bin/backup

A file's line: SHA-256, bytes, class (judge/exec_rules.py), package, path. ``-`` is no package;
``!coreutils`` a file that coreutils lists and that is not what it brought. In a path, ``\\xNN``
stands for a byte that is not printable UTF-8, and for the backslash; for a space in an alias.

What it leaves to others: where the facts come from (baseline/), what a policy makes of them
(judge/programs.py).

    Baseline.load(data).resolve("/bin/ls") == "/usr/bin/ls"
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass

MAX_ENTRIES = 200_000
"""As many contents as a table holds (judge/exec_table.py)."""
MAX_ALIASES = 50_000
"""A Debian 12 with a desktop has 3,000: a library has two names."""
MAX_BASELINE_BYTES = 64 << 20
MAX_PATH_BYTES = 4095
"""PATH_MAX without its NUL, <linux/limits.h>."""
MAX_HOPS = 40
"""Symbolic links the kernel follows in one path (path_resolution(7))."""

_HEAD = re.compile(r"edgewarden-baseline/1 files=(0|[1-9][0-9]{0,6}) aliases=(0|[1-9][0-9]{0,6})")
_FILE = re.compile(
    r"([0-9a-f]{64}) (0|[1-9][0-9]{0,15}) ([a-z]{1,16}) (-|!?[a-z0-9][a-z0-9+.:-]{1,160}) (/.+)"
)
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file.

    Attributes:
        path: absolute, with no symbolic link in it; bytes that are not UTF-8 as surrogates.
        sha256: of its content, 32 bytes.
        size_bytes: of its content.
        kind: of judge/exec_rules.py's CLASSES.
        package: name of the package that lists it, "" for none.
        differs: the package brought something else under this path.
    """

    path: str
    sha256: bytes
    size_bytes: int
    kind: str
    package: str = ""
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Baseline:
    """Files and aliases of one system.

    Attributes:
        entries: ascending by path.
        aliases: path of a symbolic link -> the path, without one, that it leads to.
    """

    entries: tuple[Entry, ...]
    aliases: Mapping[str, str]

    def resolve(self, path: str) -> str:
        """The path with every alias in it followed; what is none stays."""
        for _ in range(MAX_HOPS):
            for at in _borders(path):
                if path[:at] in self.aliases:
                    path = self.aliases[path[:at]] + path[at:]
                    break
            else:
                return path
        return path

    def dump(self) -> bytes:
        """The bytes of the file.

        Raises:
            WireRefusal: too_many; nobody could read it again.
        """
        if len(self.entries) > MAX_ENTRIES or len(self.aliases) > MAX_ALIASES:
            counts = f"{len(self.entries)} files, {len(self.aliases)} aliases"
            raise WireRefusal("too_many", f"{counts}; {MAX_ENTRIES} and {MAX_ALIASES} are the most")
        lines = [f"edgewarden-baseline/1 files={len(self.entries)} aliases={len(self.aliases)}"]
        lines += [alias_line(name, self.aliases[name]) for name in sorted(self.aliases)]
        lines += [entry_line(e) for e in sorted(self.entries, key=lambda entry: entry.path)]
        return ("\n".join(lines) + "\n").encode("utf-8")

    @staticmethod
    def load(data: bytes) -> Baseline:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, bad_value, bad_order, too_many; the text names the line.
        """
        if len(data) > MAX_BASELINE_BYTES:
            raise WireRefusal("too_long", f"{len(data)} bytes; {MAX_BASELINE_BYTES} are the most")
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise WireRefusal("bad_value", "the baseline is not UTF-8") from None
        head = _HEAD.fullmatch(lines[0])
        if not head or lines.pop() != "":
            raise WireRefusal("bad_value", "the baseline has no head, or its end is cut off")
        files, aliases = int(head[1]), int(head[2])
        if files > MAX_ENTRIES or aliases > MAX_ALIASES:
            raise WireRefusal("too_many", f"{files} files, {aliases} aliases")
        if len(lines) != 1 + files + aliases:
            raise WireRefusal("bad_value", f"{len(lines)} lines where the head names others")
        pairs = [_alias(n, lines[n]) for n in range(1, 1 + aliases)]
        entries = [_entry(n, lines[n]) for n in range(1 + aliases, len(lines))]
        for ordered in ([name for name, _ in pairs], [entry.path for entry in entries]):
            if any(a >= b for a, b in itertools.pairwise(ordered)):
                raise WireRefusal("bad_order", "the baseline's paths do not rise")
        return Baseline(tuple(entries), dict(pairs))


def entry_line(entry: Entry) -> str:
    """A file's line, without its end."""
    package = f"{'!' if entry.differs else ''}{entry.package}" if entry.package else "-"
    path = _escaped(entry.path)
    return f"{entry.sha256.hex()} {entry.size_bytes} {entry.kind} {package} {path}"


def alias_line(name: str, target: str) -> str:
    """An alias's line, without its end."""
    words = (_escaped(path).replace(" ", "\\x20") for path in (name, target))
    return "alias " + " ".join(words)


def _borders(path: str) -> Iterator[int]:
    """Where each part of an absolute path ends, first to last."""
    at = path.find("/", 1)
    while at > 0:
        yield at
        at = path.find("/", at + 1)
    yield len(path)


def _alias(number: int, line: str) -> tuple[str, str]:
    words = line.split(" ")
    if len(words) != 3 or words[0] != "alias":
        raise WireRefusal("bad_value", f"line {number + 1} of the baseline is no alias")
    return _path(number, words[1]), _path(number, words[2])


def _entry(number: int, line: str) -> Entry:
    found = _FILE.fullmatch(line)
    if not found:
        raise WireRefusal("bad_value", f"line {number + 1} of the baseline is no file's")
    digest, size, kind, package, path = found.groups()
    differs = package.startswith("!")
    name = "" if package == "-" else package.removeprefix("!")
    return Entry(_path(number, path), bytes.fromhex(digest), int(size), kind, name, differs)


def _path(number: int, text: str) -> str:
    path = text
    if "\\" in text:
        path = _unescaped(text)
        if text not in (_escaped(path), _escaped(path).replace(" ", "\\x20")):
            path = ""
    if not path.startswith("/") or len(text) > 4 * MAX_PATH_BYTES or "\0" in path:
        raise WireRefusal("bad_value", f"line {number + 1} of the baseline has a bad path")
    return path


def _unescaped(text: str) -> str:
    """Every \\xNN as its byte."""
    parts = _ESCAPE.split(text)
    raw = b"".join(
        bytes.fromhex(part) if i % 2 else part.encode("utf-8") for i, part in enumerate(parts)
    )
    return raw.decode("utf-8", "surrogateescape")


def _escaped(path: str) -> str:
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path
    out = []
    for character in path:
        if character.isprintable() and character != "\\":
            out.append(character)
        else:
            raw = character.encode("utf-8", "surrogateescape")
            out.append("".join(f"\\x{byte:02x}" for byte in raw))
    return "".join(out)
