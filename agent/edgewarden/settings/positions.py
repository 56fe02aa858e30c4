"""Where every key of a TOML text stands: ``tomllib`` gives values and forgets their lines.

``locate(text)`` walks a text that ``tomllib`` has already accepted and returns the line of every
key, table and array element. It decides nothing: whether the text is TOML is tomllib's word, and
handing over a text that is not raises ``ValueError`` or gives lines of no meaning, never a hang
(every step moves forward).

Why not tomlkit: it keeps layout but tells no line of a key and stops at its first fault
(docs/adr/0006-settings-validation.md). A differential test holds the paths found here to exactly
the paths of tomllib's tree.

    locate('[uplink]\\nport = 1\\n') == {("uplink",): 1, ("uplink", "port"): 2}
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]
"""Keys and, inside arrays, indices: ("serial", 0, "baud")."""

# TOML 1.0.0: "Keys", "Comment" and "String".
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:""|")?', re.DOTALL),
    re.compile(r"'''.*?'''(?:''|')?", re.DOTALL),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def locate(text: str) -> dict[Path, int]:
    """Return path -> 1-based line for every key, table and array element of a valid TOML text."""
    return _Walk(text).document()


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._starts = [m.start() for m in re.finditer("\n", text)]
        self._tables_seen: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        base: Path = ()
        while True:
            self._skip(_BLANK_LINES)
            if self.at >= len(self.text):
                return self.lines
            base = self._header() if self.text[self.at] == "[" else self._pair(base)

    def _header(self) -> Path:
        """Read ``[a.b]`` or ``[[a.b]]``; return the path that the pairs below it live under."""
        array = self.text.startswith("[[", self.at)
        here = self.at
        self.at += 2 if array else 1
        parts = self._key()
        self._expect("]]" if array else "]")
        path = self._resolve(parts[:-1] if array else parts, here)
        if not array:
            return path
        path += (parts[-1],)
        self._note(path, here)
        index = self._tables_seen.get(path, 0)
        self._tables_seen[path] = index + 1
        self._note((*path, index), here)
        return (*path, index)

    def _resolve(self, parts: tuple[str, ...], here: int) -> Path:
        """Follow names from the root, into the newest element of each array of tables."""
        path: Path = ()
        for part in parts:
            path += (part,)
            self._note(path, here)
            if path in self._tables_seen:
                path += (self._tables_seen[path] - 1,)
        return path

    def _pair(self, base: Path) -> Path:
        """Read ``key = value`` below base; returns base so that the caller's loop stays flat."""
        here, path = self.at, base
        for part in self._key():
            path += (part,)
            self._note(path, here)
        self._expect("=")
        self._value(path)
        return base

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        head = self.text[self.at : self.at + 1]
        if head == "[":
            self._array(path)
        elif head == "{":
            self._inline_table(path)
        elif head in ('"', "'"):
            self._string()
        else:
            self._take(_SCALAR)

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK_LINES)
            if self._accept("]"):
                return
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._skip(_BLANK_LINES)
            if not self._accept(","):
                self._expect("]")
                return

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK_LINES)
            if self._accept("}"):
                return
            self._pair(path)
            self._skip(_BLANK_LINES)
            if not self._accept(","):
                self._expect("}")
                return

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at : self.at + 1] in ('"', "'"):
                quoted = self._string()
                parts.append(tomllib.loads(f"k = {quoted}")["k"])
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_BLANK)
            if not self._accept("."):
                return tuple(parts)

    def _string(self) -> str:
        for form in _STRINGS:
            found = form.match(self.text, self.at)
            if found:
                self.at = found.end()
                return found.group()
        raise ValueError(f"no string at offset {self.at}")

    def _take(self, form: re.Pattern[str]) -> str:
        found = form.match(self.text, self.at)
        if not found:
            raise ValueError(f"no value at offset {self.at}")
        self.at = found.end()
        return found.group()

    def _skip(self, form: re.Pattern[str]) -> None:
        found = form.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _accept(self, mark: str) -> bool:
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        self._skip(_BLANK)
        if not self._accept(mark):
            raise ValueError(f"expected {mark} at offset {self.at}")

    def _note(self, path: Path, offset: int) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, offset - 1) + 1)
