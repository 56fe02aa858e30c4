"""One TOML file as text: a tree of values, the line of each, and every syntax fault.

Rules in order:

1. A file is at most ``MAX_FILE_BYTES``; a larger one is refused unread.
2. tomllib decides what TOML is. It stops at its first fault, so the faulty line is blanked and the
   rest read again, at most ``MAX_SYNTAX_FAULTS`` times: a person sees all of them in one run.
3. A broken table header becomes a table nobody knows about (``UNREADABLE_PREFIX``), so that the
   keys below it are not blamed on the table above.

What it leaves to others: what the keys mean (validate.py), where the text comes from
(files.py).

    read(SourceFile("edgewarden.toml", "[host]\\nperiod_s = 5\\n")).tree == {"host": {"period_s":
    5}}
"""

from __future__ import annotations

import re
import tomllib

from edgewarden.plain import dataclass
from edgewarden.settings.faults import NOT_TOML, UNREADABLE, Fault
from edgewarden.settings.positions import Path, locate

MAX_FILE_BYTES = 64 * 1024
"""A gateway with 32 serial ports and a commented file stays below 16 KiB; tomllib needs about 20
times the text in memory while it works."""

MAX_SYNTAX_FAULTS = 20
"""Each one costs another pass over the text."""

UNREADABLE_PREFIX = "__unreadable_line_"

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file's name as a person would type it, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What one file says.

    Attributes:
        name: the file's name.
        tree: tomllib's values; outside data, not yet checked.
        lines: path -> 1-based line.
        faults: syntax faults; the tree holds what could be read besides.
    """

    name: str
    tree: dict[str, object]
    lines: dict[Path, int]
    faults: tuple[Fault, ...]

    def line(self, path: Path) -> int:
        """Line of the path, or of the nearest thing above it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def read(source: SourceFile, max_bytes: int = MAX_FILE_BYTES) -> ParsedFile:
    """Read one file; never raises for what the text holds: faults are in the answer."""
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        text = f"{size} bytes, the limit is {max_bytes}"
        return ParsedFile(source.name, {}, {}, (Fault(source.name, 0, "", text, UNREADABLE),))
    rows = source.text.replace("\r\n", "\n").split("\n")
    faults: list[Fault] = []
    for _ in range(MAX_SYNTAX_FAULTS):
        text = "\n".join(rows)
        try:
            tree: dict[str, object] = tomllib.loads(text)
            return ParsedFile(source.name, tree, locate(text), tuple(faults))
        except RecursionError:
            line, reason = 0, "nested too deeply"
        except ValueError as fault:  # TOMLDecodeError, and int() refusing thousands of digits
            line, reason = _where(str(fault))
        faults.append(Fault(source.name, line or len(rows), "", f"not TOML: {reason}", NOT_TOML))
        if not 0 < line <= len(rows) or not rows[line - 1].strip():
            break
        header = rows[line - 1].lstrip().startswith("[")
        rows[line - 1] = f"[{UNREADABLE_PREFIX}{line}]" if header else ""
    return ParsedFile(source.name, {}, {}, tuple(faults))


def _where(message: str) -> tuple[int, str]:
    """Split tomllib's message into line (0 = end of document or unknown) and reason."""
    found = _POSITION.search(message)
    if not found:
        return 0, _lower(message)
    reason = _lower(message[: found.start()])
    if not found.group(1):
        return 0, f"{reason} (the text ends too early)"
    return int(found.group(1)), f"{reason} (column {found.group(2)})"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
