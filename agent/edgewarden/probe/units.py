"""Units as systemd's files on this machine have them: other names, and slices.

What this decides: which unit a name means (a link to another unit's file is another name of it),
and its ``Slice=``, from the unit's file and its drop-ins. The files are read and systemd is not
asked: this runs in a one-shot without capabilities and before gate, where PID 1 may be waiting. A
unit made at run time (a scope, `systemd-run`) has no file and is as its name says.

What it leaves to others: what a slice means for the control group (peers/places.py); what may not
be managed.

    UnitFiles().of("mysql.service") == Unit("mariadb.service", "", True)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgewarden.plain import dataclass

# systemd.unit(5), "System Unit Search Path", first wins; /lib is a link where /usr is merged.
FOLDERS = (
    "etc/systemd/system.control", "run/systemd/system.control", "run/systemd/transient",
    "run/systemd/generator.early", "etc/systemd/system", "etc/systemd/system.attached",
    "run/systemd/system", "run/systemd/system.attached", "run/systemd/generator",
    "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system",
    "run/systemd/generator.late",
)  # fmt: skip
MOST_NAMES = 8
"""Links that lead on to links; systemd gives up, too."""
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Unit:
    """What a name means.

    Attributes:
        name: the unit's own.
        slice: its ``Slice=``, "" for the default.
        known: there is a file for it.
    """

    name: str
    slice: str
    known: bool


class UnitFiles:
    """The files below ``root``. Blocks on the disk; nothing to close."""

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)

    def of(self, name: str) -> Unit:
        """What a unit's name means here."""
        for _ in range(MOST_NAMES):
            path = self._file(name)
            if path is None:
                return Unit(name, self._slice(name, None), False)
            other = _other_name(path, name)
            if other == name:
                return Unit(name, self._slice(name, path), True)
            name = other
        return Unit(name, "", False)

    def _file(self, name: str) -> Path | None:
        for wanted in _with_template(name):
            for folder in FOLDERS:
                path = self._root / folder / wanted
                if os.path.lexists(path):
                    return path
        return None

    def _slice(self, name: str, path: Path | None) -> str:
        """The last ``Slice=`` that holds; drop-ins by name, whichever folder they lie in."""
        found = "" if path is None else _read_slice(path, "")
        drop_ins: dict[str, Path] = {}
        for folder in reversed(FOLDERS):
            for of in reversed(list(_drop_in_names(name))):
                place = self._root / folder / f"{of}.d"
                if place.is_dir():
                    drop_ins.update((p.name, p) for p in place.iterdir() if p.suffix == ".conf")
        for drop_in in sorted(drop_ins):
            found = _read_slice(drop_ins[drop_in], found)
        instance = name.rpartition(".")[0].partition("@")[2]
        prefix = name.rpartition(".")[0].partition("@")[0]
        return found.replace("%i", instance).replace("%p", prefix).replace("%%", "%")


def _with_template(name: str) -> Iterator[str]:
    """The unit's own file, then its template's."""
    yield name
    stem, _, kind = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    if at and instance:
        yield f"{prefix}@.{kind}"


def _drop_in_names(name: str) -> Iterator[str]:
    """Whose drop-ins concern a unit, the closest first."""
    yield from _with_template(name)
    stem, _, kind = name.rpartition(".")
    prefix = stem.partition("@")[0]
    while "-" in prefix:
        prefix = prefix.rstrip("-").rpartition("-")[0]
        if prefix:
            yield f"{prefix}-.{kind}"
    yield kind


def _other_name(path: Path, name: str) -> str:
    """The name of the unit that a link leads to; its own for a file."""
    if not path.is_symlink():
        return name
    target = os.path.basename(path.readlink())
    kind = name.rpartition(".")[2]
    if not target.endswith(f".{kind}"):  # /dev/null: masked
        return name
    stem = target.removesuffix(f".{kind}")
    instance = name.rpartition(".")[0].partition("@")[2]
    if stem.endswith("@") and instance:
        return f"{stem}{instance}.{kind}"
    return target


def _read_slice(path: Path, before: str) -> str:
    """``Slice=`` of [Service] or [Scope]; what was before where the file says nothing."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return before
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section in ("[Service]", "[Scope]", "[Slice]"):
            key, found, value = line.partition("=")
            if found and key.strip() == "Slice":
                before = value.strip()
    return before
